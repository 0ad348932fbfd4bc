"""Block removal: a smaller backbone out of a trained one, before distillation heals it (BK-SDM, arXiv 2305.15798).

Of each down block the first layers stay; of each up block the first ones and the last, so that every layer still joins
a skip of the width it was trained with. Transformers of levels that lose their attention go, and so may the mid block.
Widths stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.errors import ConfigError
from nas.models.backbone import UNet
from nas.spaces import Backbone


@dataclass(frozen=True)
class Removed:
    """What block removal took away.

    Attributes:
        modules: names of removed resnets and transformers in the original, such as `down_blocks.0.resnets.1`.
        params_before, params_after: numbers of parameters.
    """

    modules: tuple[str, ...]
    params_before: int
    params_after: int


def remove_blocks(unet: UNet, target: Backbone) -> tuple[UNet, Removed]:
    """A UNet of configuration `target` with copies of the weights that stay.

    Raises:
        ConfigError: `target` is not a part of the UNet: other widths, heads or groups, more layers, or attention or a
            mid block where there is none.
    """
    config = unet.config
    for field in ("channels", "heads", "norm_groups"):
        if getattr(target, field) != getattr(config, field):
            raise ConfigError(
                f"backbone.{field}: block removal keeps {getattr(config, field)}, the target says {getattr(target, field)}"
            )
    if target.layers_per_block > config.layers_per_block:
        raise ConfigError(f"backbone.layers_per_block: {target.layers_per_block} of {config.layers_per_block}")
    if not set(target.attention_levels) <= set(config.attention_levels) or (target.mid and not config.mid):
        raise ConfigError("backbone: the target has attention or a mid block where the original has none")
    renamed = _kept_layers(config, target)
    state, removed = {}, {}
    with torch.device("meta"):
        pruned = UNet(target, unet.conv_in.in_channels, _context_dim(unet))
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
    return pruned.train(unet.training), Removed(tuple(removed), before, after)


def _kept_layers(config: Backbone, target: Backbone) -> dict[str, str | None]:
    """The new name of each layer of the down and up blocks, None for those that go."""
    renamed: dict[str, str | None] = {}
    for side, extra in (("down", 0), ("up", 1)):
        old_count, new_count = config.layers_per_block + extra, target.layers_per_block + extra
        kept = [*range(new_count - extra), *range(old_count - extra, old_count)]
        for level in range(len(config.channels)):
            for part in ("resnets", "attentions"):
                block = f"{side}_blocks.{level}.{part}"
                for old in range(old_count):
                    renamed[f"{block}.{old}"] = f"{block}.{kept.index(old)}" if old in kept else None
    return renamed


def _context_dim(unet: UNet) -> int:
    """The text's dimension, read off any attention to it; 1 where there is none."""
    return next((m.attn2.to_k.in_features for m in unet.modules() if hasattr(m, "attn2")), 1)
