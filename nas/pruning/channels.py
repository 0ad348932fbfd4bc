"""Channel pruning: a narrower UNet with the most important channels of a trained one.

One set of channels is kept for each channel group (see `nas.pruning.channel_groups`). Importance is measured by weight
norms (`norm_scores`: the norm of the weights that write a channel times the norm of those that read it) or by the
first-order Taylor estimate of the change in loss when a channel is removed (`taylor_scores`; Molchanov et al. 2019, arXiv
1906.10771, section 3.1). The choice of channels respects:

- **GroupNorm.** GroupNorm normalizes by the statistics of a norm group. In a residual stream and inside a resnet, each
  norm group of the result is a part of one norm group of the original: whole norm groups if the result has fewer of
  them, which keeps their statistics exact; the same share of every one if it has as many. Where an up layer concatenates
  two inputs, norm groups cross the boundary at a place that depends on the widths, and cannot be kept in general.
- **Attention heads.** Whole heads are removed if the target has fewer, otherwise the same share of each head. Queries are
  scaled by the square root of the ratio of head widths, which cancels the change of the attention's own scale.
- **Timestep embedding.** The sinusoids have other frequencies at another width: the first weight of the embedding is
  carried over by a least-squares fit of the old sinusoids by the new ones.
- **Shortcuts.** A resnet between two levels of equal width has no shortcut convolution. If the target's widths differ,
  one is added, with a 1 wherever a channel is kept on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nas.errors import ConfigError
from nas.models.layers import sinusoid
from nas.models.unet import UNet
from nas.pruning.channel_groups import Axis, group_sizes, weight_axes
from nas.spaces import Backbone


def norm_scores(unet: UNet) -> dict[str, Tensor]:
    """Channel group -> importance of its channels `(channels,)`: squared norm of what makes them times of what reads them."""
    state = unet.state_dict()
    written, read = _sums(unet.config, state, lambda name: state[name].square())
    return {group: group_scores * read[group] for group, group_scores in written.items()}


def taylor_scores(unet: UNet, loss: Callable[[UNet], Tensor]) -> dict[str, Tensor]:
    """Channel group -> importance of its channels `(channels,)`: to first order, what making them zero does to the loss.

    Args:
        unet: the model to prune.
        loss: its loss on a calibration batch, a scalar.
    """
    names, weights = zip(*unet.named_parameters())
    gradients = torch.autograd.grad(loss(unet), weights, allow_unused=True)
    with torch.no_grad():
        slopes = {n: w * (0 if g is None else g) for n, w, g in zip(names, weights, gradients)}
        written, _ = _sums(unet.config, unet.state_dict(), slopes.__getitem__)
    return {group: group_scores.abs() for group, group_scores in written.items()}


def prune_channels(unet: UNet, target: Backbone, scores: Mapping[str, Tensor] | None = None) -> UNet:
    """A UNet of configuration `target` with the most important channels of `unet`; at the same widths, a copy.

    Also works on the meta device, where only the shapes are meaningful.

    Args:
        unet: has the same layers as `target`; see `remove_blocks`.
        scores: importance by channel group; default: `norm_scores(unet)`.

    Raises:
        ConfigError: `target` is wider anywhere, has more or wider heads, other layers, or two equal levels that have a
            shortcut convolution between them in `unet`.
    """
    config = unet.config
    _check(config, target)
    with torch.device("meta"):
        pruned = UNet(target, unet.conv_in.in_channels, unet.context_dim)
    axes, state = weight_axes(config), unet.state_dict()
    with torch.no_grad():
        sizes, new_sizes = group_sizes(axes, state), group_sizes(axes, pruned.state_dict())
        keep = _keep(norm_scores(unet) if scores is None else scores, config, target, new_sizes)
        new = {name: _prune_weight(name, like, state, axes, keep, sizes) for name, like in pruned.state_dict().items()}
        for name in new:
            if name.endswith(".to_q.weight"):
                new[name] = new[name] * (_head_dim(new[name], target) / _head_dim(state[name], config)) ** 0.5
        sinusoid_map = _sinusoid_map(config.channels[0], target.channels[0])
        if sinusoid_map is not None:
            weight = new["time_embedding.linear_1.weight"]
            new["time_embedding.linear_1.weight"] = weight @ sinusoid_map.to(weight.device, weight.dtype)
    pruned.load_state_dict(new, assign=True)
    return pruned.train(unet.training)


def _sums(
    config: Backbone, state: Mapping[str, Tensor], of_weight: Callable[[str], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Per channel, the sum of a value of the weights that write it, and of those that read it; by channel group.

    Norms neither write nor read. Keys count as readers of queries. Groups with no shortcut convolution between them are
    counted as one.
    """
    axes = weight_axes(config)
    sizes, one = group_sizes(axes, state), _joined_levels(config)
    sums: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, along in axes.items():
        is_norm = len(axes[name.rpartition(".")[0] + ".weight"]) == 1
        if name not in state or is_norm:
            continue
        values = of_weight(name)
        for dim, axis in enumerate(along):
            if axis is not None:
                side = sums[1 if dim == 1 or name.endswith("to_k.weight") else 0]
                summed = values.movedim(dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
                for group, part in zip(axis, summed.split([sizes[group] for group in axis])):
                    group = one.get(group, group)
                    side[group] = side[group] + part if group in side else part
    for side in sums:
        side.update({group: side[same] for group, same in one.items()})
    return sums


def _joined_levels(config: Backbone) -> dict[str, str]:
    """Downsampler group -> group of the next level, where no shortcut convolution separates the two."""
    return {
        f"down_blocks.{level - 1}.downsamplers.0": f"down_blocks.{level}"
        for level in range(1, len(config.channels))
        if config.channels[level] == config.channels[level - 1]
    }


def choose(scores: Tensor, count: int, parts: int = 1, new_parts: int = 1, of_parts: Tensor | None = None) -> Tensor:
    """The `count` best channels `(count,)` in ascending order, chosen within `new_parts` of `parts` equal parts.

    Args:
        scores: `(channels,)`.
        of_parts: importance of the parts, `(parts,)`; default: the sum of their channels'.
    """
    table = scores.reshape(parts, -1)
    of_parts = table.sum(1) if of_parts is None else of_parts
    best = _best(of_parts, new_parts)
    inner = _best(table[best], count // new_parts)
    return (best[:, None] * table.shape[1] + inner).flatten()


def _kept_indices(axis: tuple[str, ...], keep: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """Indices of the kept channels along an axis that concatenates several groups."""
    starts = itertools.accumulate((sizes[group] for group in axis[:-1]), initial=0)
    return torch.cat([keep[group] + start for group, start in zip(axis, starts)])


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores along the last axis, in ascending order; ties go to the lower index."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return order.sort(dim=-1).values


def _keep(
    scores: Mapping[str, Tensor], config: Backbone, target: Backbone, sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Channel group -> indices of the channels to keep."""
    keep = {}
    for group, group_scores in scores.items():
        count, kind = sizes[group], group.rpartition(".")[2]
        if kind in ("qk", "v"):
            both = [scores[group.removesuffix(kind) + name].reshape(config.heads, -1).sum(1) for name in ("qk", "v")]
            keep[group] = choose(group_scores, count, config.heads, target.heads, both[0] + both[1])
        elif kind in ("tokens", "ff", "linear_1", "linear_2"):
            keep[group] = choose(group_scores, count)
        else:
            old, new = config.norm_groups, target.norm_groups
            nested = new <= old and count // new <= len(group_scores) // old
            keep[group] = choose(group_scores, count, old, new) if nested else choose(group_scores, count)
    return keep


def _prune_weight(
    name: str,
    like: Tensor,
    state: Mapping[str, Tensor],
    axes: Mapping[str, tuple[Axis, ...]],
    keep: Mapping[str, Tensor],
    sizes: Mapping[str, int],
) -> Tensor:
    """One weight of the pruned model, shaped as `like`, before sinusoids and the scale of queries are adapted."""
    if name in state:
        value = state[name]
        for dim, axis in enumerate(axes.get(name, ())):
            if axis is not None:
                value = value.index_select(dim, _kept_indices(axis, keep, sizes))
        return value.clone()
    device, dtype = state["conv_in.weight"].device, state["conv_in.weight"].dtype
    if name.endswith("conv_shortcut.weight"):
        (out,), (into,) = axes[name]
        return (keep[out][:, None] == keep[into][None]).to(dtype)[:, :, None, None]
    if name == "text_embedding.spread":
        return torch.ones(like.shape, device=device)
    return torch.zeros(like.shape, dtype=dtype, device=device)  # bias of a new shortcut, or a new text embedding


def _head_dim(to_q: Tensor, config: Backbone) -> int:
    return to_q.shape[0] // config.heads


def _sinusoid_map(old: int, new: int) -> Tensor | None:
    """`(old, new)`: the least-squares map from sinusoids of the new width to those of the old one; None if equal."""
    if old == new:
        return None
    times = torch.linspace(0, 1000, 4001)
    # The slowest sinusoids are nearly collinear: the cutoff keeps float32 noise from being amplified.
    return torch.linalg.lstsq(
        sinusoid(times, new).double(), sinusoid(times, old).double(), rcond=1e-3, driver="gelsd"
    ).solution.T


def _check(config: Backbone, target: Backbone) -> None:
    for field, ours, theirs in (
        ("layers_per_block", config.layers_per_block, target.layers_per_block),
        ("attention_levels", set(config.attention_levels), set(target.attention_levels)),
        ("mid", config.mid, target.mid),
        ("channels", len(config.channels), len(target.channels)),
        ("text_tokens", config.text_tokens or target.text_tokens, target.text_tokens),
    ):
        if ours != theirs:
            raise ConfigError(
                f"backbone.{field}: channel pruning keeps {getattr(config, field)}, the target says "
                f"{getattr(target, field)}; remove blocks first"
            )
    attending = {*config.attention_levels, *([len(config.channels) - 1] if config.mid else [])}
    for level, (old, new) in enumerate(zip(config.channels, target.channels)):
        if new > old:
            raise ConfigError(f"backbone.channels: level {level} has {old} channels, fewer than the target's {new}")
        if level in attending and (target.heads > config.heads or new // target.heads > old // config.heads):
            raise ConfigError(
                f"backbone.heads: level {level} has {config.heads} heads of {old // config.heads} channels, not enough "
                f"for the target's {target.heads} of {new // target.heads}"
            )
        if level and new == target.channels[level - 1] and old != config.channels[level - 1]:
            raise ConfigError(
                f"backbone.channels: levels {level - 1} and {level} of the target are both {new} wide, but differ in the "
                "original, which has a shortcut convolution between them; give them different widths"
            )
