"""Operation counts of the built-in temporal operators; the operator specs of `nas.spaces.operators` refer to them."""

from __future__ import annotations

from math import prod

from nas.costs.op_counts import OpCounts, attention, conv, feed_forward, linear, norm, pointwise
from nas.errors import SpaceError
from nas.spaces import Operator

Shape = tuple[int, ...]


def count_conv1d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """Norm, activation, a (k,1,1) convolution, residual."""
    channels, elements = shape[1], prod(shape)
    mix = conv(elements / channels, channels, channels, operator["kernel"])
    total = norm(elements, channels) + pointwise(elements) + mix + pointwise(elements, 2)
    return total.with_peak(4 * elements)


def count_conv3d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """Norm, activation, k shifted (k,k) convolutions, residual."""
    channels, elements, kernel = shape[1], prod(shape), operator["kernel"]
    one = conv(elements / channels, channels, channels, kernel**2, bias=False) + pointwise(elements, 2)
    total = norm(elements, channels) + pointwise(elements) + pointwise(elements, 2) + one.times(kernel)
    return (total + OpCounts(params=channels)).with_peak(5 * elements)


def count_self_attention_1d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """T x T scores for each spatial position."""
    batch, channels, frames, height, width = shape
    mix = attention(batch * height * width, frames, frames, channels, operator["heads"])
    return _transformer_layer(_projections(shape, 3) + mix, shape)


def count_self_attention_3d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """Scores of all T*H*W tokens with each other."""
    batch, channels, frames, height, width = shape
    tokens = frames * height * width
    mix = attention(batch, tokens, tokens, channels, operator["heads"])
    return _transformer_layer(_projections(shape, 3) + mix, shape)


def count_cross_attention_1d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """Keys: the text, and the anchor frame's token at the query's own position."""
    return _cross_attention(operator, shape, context, anchor_keys=1)


def count_cross_attention_3d(operator: Operator, shape: Shape, context: Shape | None) -> OpCounts:
    """Keys: the text, and all tokens of the anchor frame."""
    return _cross_attention(operator, shape, context, anchor_keys=shape[3] * shape[4])


def _cross_attention(operator: Operator, shape: Shape, context: Shape | None, anchor_keys: int) -> OpCounts:
    batch, channels, frames, height, width = shape
    positions, text, anchor = height * width, "text" in operator["context"], "anchor" in operator["context"]
    queries = text or anchor_keys > 1  # attention to a single key is the identity on its value
    total, keys = OpCounts(), 0
    if queries:
        total += _projections(shape, 1)
    if text:
        if context is None:
            raise SpaceError(f"{operator}: needs a context shape (B, tokens, dim)")
        _, tokens, dim = context
        total += linear(batch * tokens, dim, channels, bias=False).times(2)
        keys += tokens
    if anchor:
        total += linear(batch * positions, channels, channels, bias=False).times(1 + queries)
        keys += anchor_keys
    if queries:
        total += attention(batch, frames * positions, keys, channels, operator["heads"])
    return _transformer_layer(total, shape)


def _projections(shape: Shape, count: int) -> OpCounts:
    channels = shape[1]
    return linear(prod(shape) / channels, channels, channels, bias=False).times(count)


def _transformer_layer(mix: OpCounts, shape: Shape) -> OpCounts:
    """Norm, attention, output projection, residual; norm, feed-forward, residual."""
    channels, elements = shape[1], prod(shape)
    rows, add = elements / channels, pointwise(elements, 2)
    total = norm(elements, channels) + mix + linear(rows, channels, channels) + add
    # In the feed-forward: tokens and their norm, 8 C of projection, 4 C of GELU, 4 C of the product.
    return (total + norm(elements, channels) + feed_forward(rows, channels) + add).with_peak(18 * elements)
