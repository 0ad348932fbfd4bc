"""Channel slicing: a narrower backbone out of a trained one, one choice of channels for each stream.

Which channels stay is decided by their importance: by norms (`norm_scores`: what makes the channel times what reads
it, so that one which is not made or not read has none), or by the first-order Taylor estimate of what the loss does
when it goes (`taylor_scores`; Molchanov et al. 2019, arXiv 1906.10771, section 3.1). What a choice must respect:

- **Groups.** GroupNorm normalises by the statistics of a group. Of a residual stream, and inside a resnet, each group
  of the slice is a part of one group of the original: whole groups where the slice has fewer groups, which leaves the
  statistics of those exact; the same share of every group where it has as many. Where an up layer joins two streams
  the groups straddle the seam at a place that moves with the widths, so there they cannot be kept in general.
- **Heads.** Whole heads go where the slice has fewer, else the same share of each head; queries shrink by the root of
  that share, which the attention's own scaling then undoes.
- **Waves.** The timestep's sinusoids have other frequencies in another width: the first weight of the embedding is
  carried over by least squares from the old waves to the new ones.
- **Shortcuts.** Between two levels of equal width a resnet has no shortcut convolution. Where the slice's widths
  differ it gets one, with a 1 where a channel stays what it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nas.errors import ConfigError
from nas.models.layers import sinusoid
from nas.models.unet import UNet
from nas.pruning.channel_groups import Axis, stream_sizes, weight_axes
from nas.spaces import Backbone


def norm_scores(unet: UNet) -> dict[str, Tensor]:
    """Stream -> importance of its channels `(channels,)`: squared norm of what makes them times of what reads them."""
    state = unet.state_dict()
    made, read = _sums(unet.config, state, lambda name: state[name].square())
    return {stream: of_stream * read[stream] for stream, of_stream in made.items()}


def taylor_scores(unet: UNet, loss: Callable[[UNet], Tensor]) -> dict[str, Tensor]:
    """Stream -> importance of its channels `(channels,)`: to first order, what making them zero does to the loss.

    Args:
        unet: the model that will be sliced.
        loss: its loss on a calibration batch, a scalar.
    """
    names, weights = zip(*unet.named_parameters())
    gradients = torch.autograd.grad(loss(unet), weights, allow_unused=True)
    with torch.no_grad():
        slopes = {n: w * (0 if g is None else g) for n, w, g in zip(names, weights, gradients)}
        made, _ = _sums(unet.config, unet.state_dict(), slopes.__getitem__)
    return {stream: of_stream.abs() for stream, of_stream in made.items()}


def slice_channels(unet: UNet, target: Backbone, scores: Mapping[str, Tensor] | None = None) -> UNet:
    """A UNet of configuration `target` with the most important channels of `unet`; at the same widths, a copy.

    Works on the meta device too, where it says nothing about which channels.

    Args:
        unet: of the same layers as `target`; `remove_blocks` sees to that.
        scores: importance by stream; default: `norm_scores(unet)`.

    Raises:
        ConfigError: `target` is wider anywhere, has more or wider heads, other layers, or two equal levels that have a
            shortcut convolution between them in `unet`.
    """
    config = unet.config
    _check(config, target)
    with torch.device("meta"):
        sliced = UNet(target, unet.conv_in.in_channels, unet.context_dim)
    axes, state = weight_axes(config), unet.state_dict()
    with torch.no_grad():
        sizes, new_sizes = stream_sizes(axes, state), stream_sizes(axes, sliced.state_dict())
        keep = _keep(norm_scores(unet) if scores is None else scores, config, target, new_sizes)
        new = {name: _slice(name, like, state, axes, keep, sizes) for name, like in sliced.state_dict().items()}
        for name in new:
            if name.endswith(".to_q.weight"):
                new[name] = new[name] * (_head_dim(new[name], target) / _head_dim(state[name], config)) ** 0.5
        waves = _wave_map(config.channels[0], target.channels[0])
        if waves is not None:
            weight = new["time_embedding.linear_1.weight"]
            new["time_embedding.linear_1.weight"] = weight @ waves.to(weight.device, weight.dtype)
    sliced.load_state_dict(new, assign=True)
    return sliced.train(unet.training)


def _sums(
    config: Backbone, state: Mapping[str, Tensor], of_weight: Callable[[str], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By stream, something of the weights summed over those that make a channel, and over those that read it.

    Norms do neither. Queries are read by keys. Streams with no shortcut convolution between them are one.
    """
    axes = weight_axes(config)
    sizes, one = stream_sizes(axes, state), _joined_levels(config)
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
                for stream, part in zip(axis, summed.split([sizes[stream] for stream in axis])):
                    stream = one.get(stream, stream)
                    side[stream] = side[stream] + part if stream in side else part
    for side in sums:
        side.update({stream: side[same] for stream, same in one.items()})
    return sums


def _joined_levels(config: Backbone) -> dict[str, str]:
    """The downsamplers' streams that are those of the levels they lead to, for want of a shortcut convolution."""
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


def _joined(axis: tuple[str, ...], keep: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """Where along an axis of several streams their remaining channels lie."""
    starts = itertools.accumulate((sizes[stream] for stream in axis[:-1]), initial=0)
    return torch.cat([keep[stream] + start for stream, start in zip(axis, starts)])


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest along the last axis, in ascending order; of equals the first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return order.sort(dim=-1).values


def _keep(
    scores: Mapping[str, Tensor], config: Backbone, target: Backbone, sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Stream -> the channels that stay."""
    keep = {}
    for stream, of_stream in scores.items():
        count, kind = sizes[stream], stream.rpartition(".")[2]
        if kind in ("qk", "v"):
            both = [scores[stream.removesuffix(kind) + name].reshape(config.heads, -1).sum(1) for name in ("qk", "v")]
            keep[stream] = choose(of_stream, count, config.heads, target.heads, both[0] + both[1])
        elif kind in ("tokens", "ff", "linear_1", "linear_2"):
            keep[stream] = choose(of_stream, count)
        else:
            old, new = config.norm_groups, target.norm_groups
            nested = new <= old and count // new <= len(of_stream) // old
            keep[stream] = choose(of_stream, count, old, new) if nested else choose(of_stream, count)
    return keep


def _slice(
    name: str,
    like: Tensor,
    state: Mapping[str, Tensor],
    axes: Mapping[str, tuple[Axis, ...]],
    keep: Mapping[str, Tensor],
    sizes: Mapping[str, int],
) -> Tensor:
    """The new value of one weight of the shape of `like`, its waves and its heads' scale not yet adapted."""
    if name in state:
        value = state[name]
        for dim, axis in enumerate(axes.get(name, ())):
            if axis is not None:
                value = value.index_select(dim, _joined(axis, keep, sizes))
        return value.clone()
    device, dtype = state["conv_in.weight"].device, state["conv_in.weight"].dtype
    if name.endswith("conv_shortcut.weight"):
        (out,), (into,) = axes[name]
        return (keep[out][:, None] == keep[into][None]).to(dtype)[:, :, None, None]
    if name == "text_embedding.spread":
        return torch.ones(like.shape, device=device)
    return torch.zeros(like.shape, dtype=dtype, device=device)  # a shortcut's bias; a text embedding that is new


def _head_dim(to_q: Tensor, config: Backbone) -> int:
    return to_q.shape[0] // config.heads


def _wave_map(old: int, new: int) -> Tensor | None:
    """`(old, new)`: what turns sinusoids of the new width into the nearest to those of the old; None if equal."""
    if old == new:
        return None
    times = torch.linspace(0, 1000, 4001)
    # The slowest waves are nearly one another's multiples: the cut-off keeps float32 noise in them from growing.
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
                f"backbone.{field}: channel slicing keeps {getattr(config, field)}, the target says "
                f"{getattr(target, field)}; remove blocks first"
            )
    attending = {*config.attention_levels, *([len(config.channels) - 1] if config.mid else [])}
    for level, (old, new) in enumerate(zip(config.channels, target.channels)):
        if new > old:
            raise ConfigError(f"backbone.channels: level {level} has {old} channels, fewer than the target's {new}")
        if level in attending and (target.heads > config.heads or new // target.heads > old // config.heads):
            raise ConfigError(
                f"backbone.heads: level {level} has {config.heads} heads of {old // config.heads} channels, too little "
                f"for {target.heads} of {new // target.heads}"
            )
        if level and new == target.channels[level - 1] and old != config.channels[level - 1]:
            raise ConfigError(
                f"backbone.channels: levels {level - 1} and {level} of the target are both {new} wide, which leaves no "
                "place for the shortcut convolution between them; give them different widths"
            )
