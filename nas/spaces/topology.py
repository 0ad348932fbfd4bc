"""The layers of the spatial UNet in the order in which they run: the only definition of how blocks and skips connect.

    conv_in -> down block of each level: (resnet [, transformer], *site down.L.J*) x layers_per_block [, downsample]
            -> mid block: resnet, transformer, resnet, *site mid.0*
            -> up block of each level: (resnet on input and skip [, transformer], *site up.K.J*)
                                       x (layers_per_block + 1) [, upsample]
            -> conv_out

`Backbone.layers` gives them; the torch module, the sites, operation counts, pruning, teacher features and the drawing
all walk that list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from nas.spaces.backbone import Backbone

LayerKind = Literal["conv_in", "resnet", "transformer", "downsample", "upsample", "conv_out"]


class Layer(NamedTuple):
    """A layer of the spatial UNet.

    Attributes:
        name: of its module, as in diffusers' state dict: `down_blocks.0.resnets.1`, `mid_block.attentions.0`.
        kind: what it computes.
        block: `down.L`, `mid` or `up.L`, where L is the level, 0 the highest resolution; empty for conv_in and conv_out.
        position: its position among the layers of its kind in the block.
        level: of its output, whose height and width are the latent's halved `level` times.
        in_channels: of its input, without the skip; 0 for conv_in, whose input is the latent.
        channels: of its output; 0 for conv_out, whose output is the latent.
        skip: the name of the layer whose output is concatenated to its input; empty for none.
        skip_channels: channels of that output.
        is_skip: whether a later layer takes its output as a skip.
        site: the site after it, where temporal layers may be inserted; empty for none.
    """

    name: str
    kind: LayerKind
    block: str
    position: int
    level: int
    in_channels: int
    channels: int
    skip: str = ""
    skip_channels: int = 0
    is_skip: bool = False
    site: str = ""


def unet_layers(config: Backbone) -> list[Layer]:
    """Every layer of a Stable Diffusion UNet (diffusers' `UNet2DConditionModel`) in the order in which they run."""
    widths, last = config.channels, len(config.channels) - 1
    layers = [Layer("conv_in", "conv_in", "", 0, 0, 0, widths[0], is_skip=True)]
    for level, width in enumerate(widths):
        block, path = f"down.{level}", f"down_blocks.{level}"
        for i in range(config.layers_per_block):
            inputs = layers[-1].channels
            pair = [Layer(f"{path}.resnets.{i}", "resnet", block, i, level, inputs, width)]
            if level in config.attention_levels:
                pair.append(Layer(f"{path}.attentions.{i}", "transformer", block, i, level, width, width))
            layers += [*pair[:-1], pair[-1]._replace(is_skip=True, site=f"down.{level}.{i}")]
        if level < last:
            name = f"{path}.downsamplers.0"
            layers.append(Layer(name, "downsample", block, 0, level + 1, width, width, is_skip=True))
    skips = [layer for layer in layers if layer.is_skip]
    if config.mid:
        width = widths[last]
        layers += [
            Layer("mid_block.resnets.0", "resnet", "mid", 0, last, width, width),
            Layer("mid_block.attentions.0", "transformer", "mid", 0, last, width, width),
            Layer("mid_block.resnets.1", "resnet", "mid", 1, last, width, width, site="mid.0"),
        ]
    for up, level in enumerate(reversed(range(last + 1))):
        block, path, width = f"up.{level}", f"up_blocks.{up}", widths[level]
        for i in range(config.layers_per_block + 1):
            skip, inputs = skips.pop(), layers[-1].channels
            name = f"{path}.resnets.{i}"
            pair = [Layer(name, "resnet", block, i, level, inputs, width, skip.name, skip.channels)]
            if level in config.attention_levels:
                pair.append(Layer(f"{path}.attentions.{i}", "transformer", block, i, level, width, width))
            layers += [*pair[:-1], pair[-1]._replace(site=f"up.{up}.{i}")]
        if level > 0:
            layers.append(Layer(f"{path}.upsamplers.0", "upsample", block, 0, level - 1, width, width))
    return [*layers, Layer("conv_out", "conv_out", "", 0, 0, widths[0], 0)]


def linked_sites(config: Backbone) -> list[tuple[str, str]]:
    """Pairs of sites joined by a skip connection, `(down, up)`, in the order of the second.

    What the layers at the first site return is concatenated to the input of the block before the second one, at once or
    after a downsampler. conv_in's output has passed no site, so its skip joins none.
    """
    last, skip, pairs = "", "", []
    passed: dict[str, str] = {}  # the last site before a layer's output
    for layer in unet_layers(config):
        skip = passed[layer.skip] if layer.skip else skip
        if layer.site:
            pairs += [(skip, layer.site)] if skip else []
            last, skip = layer.site, ""
        if layer.is_skip:
            passed[layer.name] = last
    return pairs
