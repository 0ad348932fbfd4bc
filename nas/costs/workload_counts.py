"""Operation counts of any workload (`count_ops`), with those of the backbone, the text encoder and the decoder."""

from __future__ import annotations

from math import prod

from nas.costs.op_counts import OpCounts, attention, conv, feed_forward, linear, norm, pointwise
from nas.errors import SpaceError
from nas.spaces import Backbone, Decoder, TextEncoder, Workload, resolve


def count_ops(workload: Workload) -> OpCounts:
    """Operations, memory traffic and parameters of one forward pass, as `nas.models` and transformers implement it.

    Raises:
        SpaceError: the operator's kind was registered without `count_ops`.
    """
    part, context = workload.part, workload.context
    if isinstance(part, Backbone | TextEncoder):
        if context is None:
            raise SpaceError(f"{workload}: needs a context shape (B, tokens, dim)")
        return _backbone(part, workload.shape, context) if isinstance(part, Backbone) else _text_encoder(part, context)
    if isinstance(part, Decoder):
        return _decoder(part, workload.shape)
    spec = part.spec
    if not spec.count_ops:
        raise SpaceError(
            f"operator kind '{spec.kind}' has no count_ops, which estimates need; give its OperatorSpec one"
        )
    counts: OpCounts = resolve(spec.count_ops)(part, workload.shape, context)
    return counts


def activation_bytes(workload: Workload, itemsize: int = 4, fused_attention: bool = True) -> int:
    """Peak bytes of the activations of a forward pass without gradients, input included.

    An estimate from the shapes, without convolution workspaces and the runtime's own buffers.

    Args:
        itemsize: bytes of an element.
        fused_attention: whether the runtime's attention does not store its logits (torch; Core ML from iOS 18 on).
    """
    counts = count_ops(workload)
    peak = counts.peak if fused_attention else counts.unfused().peak
    return int(itemsize * (prod(workload.shape) + peak))


def _backbone(backbone: Backbone, shape: tuple[int, ...], context: tuple[int, int, int]) -> OpCounts:
    batch, latent, frames, height, width = shape
    _, tokens, dim = context
    images, widths = batch * frames, backbone.channels
    time_dim = 4 * widths[0]

    def positions(level: int) -> int:
        return images * (height >> level) * (width >> level)

    def resnet(inputs: int, outputs: int, level: int) -> OpCounts:
        n = positions(level)
        total = norm(n * inputs, inputs) + pointwise(n * inputs) + conv(n, inputs, outputs, 9)
        total += linear(batch, time_dim, outputs) + pointwise(n * outputs, 2)
        total += norm(n * outputs, outputs) + pointwise(n * outputs) + conv(n, outputs, outputs, 9)
        total += pointwise(n * outputs, 2)
        return total + conv(n, inputs, outputs, 1) if inputs != outputs else total

    def transformer(channels: int, level: int) -> OpCounts:
        n = positions(level)
        normed = norm(n * channels, channels)
        project, add = conv(n, channels, channels, 1), pointwise(n * channels, 2)
        square = linear(n, channels, channels, bias=False)
        self_attention = square.times(3) + attention(images, n / images, n / images, channels, backbone.heads)
        cross = square + linear(batch * tokens, dim, channels, bias=False).times(2)
        cross += attention(batch, n / batch, tokens, channels, backbone.heads)
        out = linear(n, channels, channels)
        total = normed + project + normed + self_attention + out + add + normed + cross + out + add
        return total + normed + feed_forward(n, channels) + add + project + add

    total = linear(batch, widths[0], time_dim) + linear(batch, time_dim, time_dim)
    if backbone.text_tokens:
        total += pointwise(batch * tokens * dim, 2) + linear(batch, tokens * dim, time_dim)
    alive = 0
    for layer in backbone.layers():
        n = positions(layer.level)
        if layer.skip:  # the concatenation
            total += pointwise(n * (layer.in_channels + layer.skip_channels))
        if layer.kind == "conv_in":
            total += conv(n, latent, layer.channels, 9)
        elif layer.kind == "resnet":
            total += resnet(layer.in_channels + layer.skip_channels, layer.channels, layer.level)
        elif layer.kind == "transformer":
            total += transformer(layer.channels, layer.level)
        elif layer.kind == "downsample":
            total += conv(n, layer.channels, layer.channels, 9, scale=4.0)
        elif layer.kind == "upsample":
            total += pointwise(n * layer.channels) + conv(n, layer.channels, layer.channels, 9)
        else:
            total += norm(n * layer.in_channels, layer.in_channels) + pointwise(n * layer.in_channels)
            total += conv(n, layer.in_channels, latent, 9)
        if layer.is_skip:
            alive += layer.channels * n
    widest = max(6 * c * positions(level) for level, c in enumerate(widths))
    return total.with_peak(alive + widest)


def _text_encoder(encoder: TextEncoder, context: tuple[int, int, int]) -> OpCounts:
    batch, tokens, width = context
    rows, bert = batch * tokens, encoder.kind == "bert"
    normed, add = norm(rows * width, width), pointwise(rows * width, 2)
    layer = linear(rows, width, width).times(4) + attention(batch, tokens, tokens, width) + add + normed
    layer += (
        linear(rows, width, 4 * width) + pointwise(4 * rows * width) + linear(rows, 4 * width, width) + add + normed
    )
    positions = max(512 if bert else 77, tokens)
    tables = (
        encoder.vocabulary + positions + 2 * bert
    ) * width  # embedding tables, of which only the rows of these tokens are read
    total = (
        OpCounts(memory_traffic=4 * rows * width, kernels=2 + bert, params=tables)
        + add
        + normed
        + layer.times(encoder.layers)
    )
    total = total + linear(batch, width, width) if bert else total  # the pooled output, which is not used
    return total.with_peak(10 * rows * width)


def _decoder(decoder: Decoder, shape: tuple[int, ...]) -> OpCounts:
    vae, (batch, latent, frames, height, width) = decoder.vae, shape
    last, temporal = len(vae.channels) - 1, frames > 1 or decoder.frames is not None

    def positions(level: int) -> int:
        """Pixels of all frames at a level; the last level has the resolution and the frames of the latents."""
        doublings = min(last - level, vae.temporal_levels) if temporal else 0
        return batch * (frames << doublings) * (height << (last - level)) * (width << (last - level))

    def temporal_conv(n: int, inputs: int, outputs: int) -> OpCounts:
        """A temporal layer on `n` positions; an image only has its weights."""
        if not temporal:
            return OpCounts(params=3 * inputs * outputs)
        return conv(n, inputs, outputs, 3, bias=False) + pointwise(n * outputs, 2)

    def resnet(inputs: int, outputs: int, level: int) -> OpCounts:
        n = positions(level)
        total = norm(n * inputs, inputs) + pointwise(n * inputs) + conv(n, inputs, outputs, 9)
        total += norm(n * outputs, outputs) + pointwise(n * outputs) + conv(n, outputs, outputs, 9)
        total += temporal_conv(n, outputs, outputs) + pointwise(n * outputs, 2)
        return total + conv(n, inputs, outputs, 1) if inputs != outputs else total

    channels, images = vae.channels[-1], batch * frames
    total = conv(positions(last), latent, latent, 1) + conv(positions(last), latent, channels, 9)
    total += resnet(channels, channels, last).times(2)
    if vae.mid_attention:
        square, elements = linear(positions(last), channels, channels), positions(last) * channels
        total += norm(elements, channels) + square.times(4) + pointwise(elements, 2)
        total += attention(images, positions(last) / images, positions(last) / images, channels)
    widest = 0
    for level in range(last, -1, -1):
        for _ in range(vae.layers_per_block + 1):
            total += resnet(channels, vae.channels[level], level)
            widest = max(widest, 3 * max(channels, vae.channels[level]) * positions(level))
            channels = vae.channels[level]
        if level:
            if level > last - vae.temporal_levels:  # doubles the frames, then height and width
                total += temporal_conv(positions(level), channels, 2 * channels)
            total += pointwise(positions(level - 1) * channels)
            total += conv(positions(level - 1), channels, channels, 9)
            widest = max(widest, 3 * channels * positions(level - 1))
    total += norm(positions(0) * channels, channels) + pointwise(positions(0) * channels)
    total += conv(positions(0), channels, vae.image_channels, 9)
    return total.with_peak(widest)
