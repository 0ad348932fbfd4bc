"""Channel groups of the UNet: sets of weight axes whose channels must be pruned together.

All weights that add to a residual stream or read it share its channels; so do the two halves of a gated feed-forward,
and the queries and keys of an attention. Groups are named after the module that writes them::

    down_blocks.L                      residual stream of a level: its resnets and transformers (level 0: conv_in too,
                                       last level: mid block too); also the level's skip connections
    down_blocks.L.downsamplers.0       input of level L + 1; also a skip connection
    up_blocks.K.resnets.J              output of one up layer, resnet and transformer
    up_blocks.K.upsamplers.0           input of block K + 1
    RESNET.inner                       between the two convolutions of a resnet
    TRANSFORMER.tokens                 residual stream of the tokens inside a transformer
    TRANSFORMER...attnN.qk, attnN.v    queries and keys; values
    TRANSFORMER...ff                   hidden channels of the feed-forward, twice (value and gate) in its first weight
    time_embedding.linear_1, linear_2  hidden layer and output of the timestep embedding
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nas.spaces import Backbone

Axis = tuple[str, ...] | None
"""Channel groups concatenated along one axis of a weight; None for an axis that is not pruned."""


def weight_axes(config: Backbone) -> dict[str, tuple[Axis, ...]]:
    """Name of a weight -> the channel groups along its output axis and its input axis.

    Names are the state dict's of `UNet(config)`; every resnet is listed with a `conv_shortcut`, which not all have.
    """
    axes: dict[str, tuple[Axis, ...]] = {}

    def layer(name: str, out: Axis, into: Axis) -> None:
        axes[f"{name}.weight"], axes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, on: Axis) -> None:
        axes[f"{name}.weight"] = axes[f"{name}.bias"] = (on,)

    def resnet(name: str, into: Axis, out: Axis) -> None:
        inner = (f"{name}.inner",)
        norm(f"{name}.norm1", into)
        layer(f"{name}.conv1", inner, into)
        layer(f"{name}.time_emb_proj", inner, ("time_embedding.linear_2",))
        norm(f"{name}.norm2", inner)
        layer(f"{name}.conv2", out, inner)
        layer(f"{name}.conv_shortcut", out, into)

    def transformer(name: str, on: Axis) -> None:
        tokens, block = (f"{name}.tokens",), f"{name}.transformer_blocks.0"
        norm(f"{name}.norm", on)
        layer(f"{name}.proj_in", tokens, on)
        for attention, context in ((f"{block}.attn1", tokens), (f"{block}.attn2", None)):
            axes[f"{attention}.to_q.weight"] = ((f"{attention}.qk",), tokens)
            axes[f"{attention}.to_k.weight"] = ((f"{attention}.qk",), context)
            axes[f"{attention}.to_v.weight"] = ((f"{attention}.v",), context)
            layer(f"{attention}.to_out.0", tokens, (f"{attention}.v",))
        hidden = (f"{block}.ff",)
        layer(f"{block}.ff.net.0.proj", hidden * 2, tokens)
        layer(f"{block}.ff.net.2", tokens, hidden)
        for number in (1, 2, 3):
            norm(f"{block}.norm{number}", tokens)
        layer(f"{name}.proj_out", on, tokens)

    layer("time_embedding.linear_1", ("time_embedding.linear_1",), None)
    layer("time_embedding.linear_2", ("time_embedding.linear_2",), ("time_embedding.linear_1",))
    layer("text_embedding.linear", ("time_embedding.linear_2",), None)
    outputs: dict[str, tuple[str, ...]] = {}
    into: tuple[str, ...] = ()
    for unet_layer in config.layers():
        side, _, level = unet_layer.block.partition(".")
        if unet_layer.kind == "conv_in":
            out = ("down_blocks.0",)
            layer("conv_in", out, None)
        elif unet_layer.kind == "resnet":
            out = {"down": (f"down_blocks.{level}",), "mid": into, "up": (unet_layer.name,)}[side]
            resnet(unet_layer.name, into + outputs.get(unet_layer.skip, ()), out)
        elif unet_layer.kind == "transformer":
            out = into
            transformer(unet_layer.name, out)
        elif unet_layer.kind == "conv_out":
            norm("conv_norm_out", into)
            layer("conv_out", None, into)
        else:
            out = (unet_layer.name,)
            layer(f"{unet_layer.name}.conv", out, into)
        outputs[unet_layer.name] = into = out
    return axes


def group_sizes(axes: Mapping[str, tuple[Axis, ...]], state: Mapping[str, Tensor]) -> dict[str, int]:
    """Channel group -> number of channels, from the weights that have an axis of that group alone."""
    return {
        axis[0]: state[name].shape[dim]
        for name, of_weight in axes.items()
        if name in state
        for dim, axis in enumerate(of_weight)
        if axis is not None and len(axis) == 1
    }
