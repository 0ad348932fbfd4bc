"""Block pruning: a shallower UNet from a trained one, to be distilled afterwards (BK-SDM, arXiv 2305.15798, section 3).

Each down block keeps its first layers; each up block keeps its first layers and its last one, so that every layer still
gets a skip connection of the width it was trained with. Transformers of levels that lose their attention are removed,
and optionally the mid block and, with it, the lowest levels. `prune` then removes channels (`nas.pruning.channels`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas.errors import ConfigError
from nas.models.unet import UNet
from nas.pruning.channels import prune_channels, taylor_scores
from nas.spaces import Backbone


@dataclass(frozen=True)
class RemovedLayers:
    """The layers that block pruning removed.

    Attributes:
        modules: names of removed resnets and transformers in the original, such as `down_blocks.0.resnets.1`.
        params_before, params_after: numbers of parameters.
    """

    modules: tuple[str, ...]
    params_before: int
    params_after: int


def prune(unet: UNet, target: Backbone, loss: Callable[[UNet], Tensor] | None = None) -> tuple[UNet, RemovedLayers]:
    """A UNet of configuration `target` from a larger one: blocks, then channels, are removed.

    Args:
        loss: the loss of a UNet on a calibration batch, to rank channels by their effect on it (Taylor); default: rank
            by weight norms. It is called with the model after block removal.

    Raises:
        ConfigError: `target` is not contained in the UNet: see `remove_blocks` and `prune_channels`.
    """
    config = unet.config
    same_widths = replace(
        target,
        channels=config.channels[: len(target.channels)],
        heads=config.heads,
        norm_groups=config.norm_groups,
        text_tokens=config.text_tokens,
    )
    shallow, removed = remove_blocks(unet, same_widths)
    pruned = prune_channels(shallow, target, None if loss is None else taylor_scores(shallow, loss))
    return pruned, replace(removed, params_after=sum(p.numel() for p in pruned.parameters()))


def remove_blocks(unet: UNet, target: Backbone) -> tuple[UNet, RemovedLayers]:
    """A UNet of configuration `target` with copies of the remaining weights.

    Raises:
        ConfigError: `target` is not contained in the UNet: other widths, heads or groups, more layers, or attention or a
            mid block where there is none.
    """
    config = unet.config
    levels = len(target.channels)
    for field in ("channels", "heads", "norm_groups", "text_tokens"):
        ours, theirs = getattr(config, field), getattr(target, field)
        if theirs != (ours[:levels] if field == "channels" else ours):
            raise ConfigError(f"backbone.{field}: block removal keeps {ours}, the target says {theirs}")
    if levels < len(config.channels) and (target.mid or config.channels[levels] != config.channels[levels - 1]):
        raise ConfigError(
            f"backbone.channels: {levels} of {len(config.channels)} levels: the lowest level can be removed only without a mid "
            "block and if it is as wide as the one above it, so that the inputs of the up blocks keep their width"
        )
    if target.layers_per_block > config.layers_per_block:
        raise ConfigError(f"backbone.layers_per_block: {target.layers_per_block} of {config.layers_per_block}")
    if not set(target.attention_levels) <= set(config.attention_levels) or (target.mid and not config.mid):
        raise ConfigError("backbone: the target has attention or a mid block where the original has none")
    renamed = _kept_layers(config, target)
    state, removed = {}, {}
    with torch.device("meta"):
        pruned = UNet(target, unet.conv_in.in_channels, unet.context_dim)
    wanted = set(pruned.state_dict())
    for key, value in unet.state_dict().items():
        layer = ".".join(key.split(".")[: 3 if key.startswith("mid_block") else 4])
        new = key.replace(layer, renamed[layer], 1) if renamed.get(layer) else key
        if renamed.get(layer, "") is not None and new in wanted:
            state[new] = value.clone()
        else:
            removed[layer] = None
    pruned.load_state_dict(state, assign=True)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (unet, pruned))
    return pruned.train(unet.training), RemovedLayers(tuple(removed), before, after)


def _kept_layers(config: Backbone, target: Backbone) -> dict[str, str | None]:
    """The new name of each layer of the blocks, None for those that are removed."""
    names = {(layer.block, layer.kind, layer.position): layer.name for layer in target.layers()}
    renamed: dict[str, str | None] = {}
    for layer in config.layers():
        index: int | None = layer.position
        if layer.kind in ("resnet", "transformer") and layer.block != "mid":
            extra = layer.block.startswith("up.")  # an up block has one more layer, and keeps its last
            old_count, new_count = config.layers_per_block + extra, target.layers_per_block + extra
            kept = [*range(new_count - extra), *range(old_count - extra, old_count)]
            index = kept.index(layer.position) if layer.position in kept else None
        if layer.block:
            renamed[layer.name] = names.get((layer.block, layer.kind, index))
    return renamed
