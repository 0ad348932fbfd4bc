"""What one run of any workload takes: `count_ops`, with the backbone, the text encoder and the decoder."""

from __future__ import annotations

from math import prod

from nas.costs.op_counts import OpCounts, attention, conv, feed_forward, linear, norm, pointwise
from nas.errors import SpaceError
from nas.spaces import Backbone, Decoder, TextEncoder, Workload, resolve


def count_ops(workload: Workload) -> OpCounts:
    """What an operator, the spatial backbone, a text encoder or a decoder takes, as `nas.models` and transformers
    define them.

    Raises:
        SpaceError: the operator's kind was registered without `count_ops`.
    """
    if isinstance(workload.part, Backbone):
        return _backbone(workload)
    if isinstance(workload.part, TextEncoder):
        return _text_encoder(workload.part, *workload.context)
    if isinstance(workload.part, Decoder):
        return _decoder(workload.part, workload.shape)
    spec = workload.part.spec
    if not spec.count_ops:
        raise SpaceError(
            f"operator kind '{spec.kind}' has no count_ops, which estimates need; give its OperatorSpec one"
        )
    return resolve(spec.count_ops)(workload.part, workload.shape, workload.context)


def activation_bytes(workload: Workload, itemsize: int = 4, fused_attention: bool = True) -> int:
    """Peak bytes of a workload's activations in a forward pass without gradients, its input counted too.

    An estimate from the shapes, not a measurement: convolution workspaces and the runtime's own buffers are not in it.

    Args:
        itemsize: bytes of an element.
        fused_attention: whether the runtime's attention keeps its logits out of memory (torch; Core ML from iOS 18 on).
    """
    counts = count_ops(workload)
    peak = counts.peak if fused_attention else counts.unfused().peak
    return int(itemsize * (prod(workload.shape) + peak))


def _backbone(workload: Workload) -> OpCounts:
    backbone, (batch, latent, frames, height, width) = workload.part, workload.shape
    _, tokens, dim = workload.context
    images, widths = batch * frames, backbone.channels
    time_dim = 4 * widths[0]

    def places(level: int) -> int:
        return images * (height >> level) * (width >> level)

    def resnet(inputs: int, outputs: int, level: int) -> OpCounts:
        n = places(level)
        total = norm(n * inputs, inputs) + pointwise(n * inputs) + conv(n, inputs, outputs, 9)
        total += linear(batch, time_dim, outputs) + pointwise(n * outputs, 2)
        total += norm(n * outputs, outputs) + pointwise(n * outputs) + conv(n, outputs, outputs, 9)
        total += pointwise(n * outputs, 2)
        return total + conv(n, inputs, outputs, 1) if inputs != outputs else total

    def transformer(channels: int, level: int) -> OpCounts:
        n = places(level)
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
        n = places(layer.level)
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
    widest = max(6 * c * places(level) for level, c in enumerate(widths))
    return total.with_peak(alive + widest)


def _text_encoder(encoder: TextEncoder, batch: int, tokens: int, width: int) -> OpCounts:
    rows, bert = batch * tokens, encoder.kind == "bert"
    normed, add = norm(rows * width, width), pointwise(rows * width, 2)
    layer = linear(rows, width, width).times(4) + attention(batch, tokens, tokens, width) + add + normed
    layer += (
        linear(rows, width, 4 * width) + pointwise(4 * rows * width) + linear(rows, 4 * width, width) + add + normed
    )
    positions = max(512 if bert else 77, tokens)
    tables = (encoder.vocabulary + positions + 2 * bert) * width  # of which only the rows of these tokens are read
    total = (
        OpCounts(memory_traffic=4 * rows * width, kernels=2 + bert, params=tables)
        + add
        + normed
        + layer.times(encoder.layers)
    )
    total = total + linear(batch, width, width) if bert else total  # the pooled output, which nothing reads
    return total.with_peak(10 * rows * width)


def _decoder(decoder: Decoder, shape: tuple[int, ...]) -> OpCounts:
    vae, (batch, latent, frames, height, width) = decoder.vae, shape
    images, levels = batch * frames, len(vae.channels)

    def places(level: int) -> int:
        """Pixels where the channels are those of a level; the latents are as large as the last one."""
        return images * (height << (levels - 1 - level)) * (width << (levels - 1 - level))

    def resnet(inputs: int, outputs: int, level: int) -> OpCounts:
        n = places(level)
        total = norm(n * inputs, inputs) + pointwise(n * inputs) + conv(n, inputs, outputs, 9)
        total += norm(n * outputs, outputs) + pointwise(n * outputs) + conv(n, outputs, outputs, 9)
        if frames > 1 or decoder.frames is not None:
            total += conv(n, outputs, outputs, 3, bias=False) + pointwise(n * outputs, 2)
        else:
            total += OpCounts(params=3 * outputs * outputs)
        total += pointwise(n * outputs, 2)
        return total + conv(n, inputs, outputs, 1) if inputs != outputs else total

    channels, last = vae.channels[-1], levels - 1
    total = conv(places(last), latent, latent, 1) + conv(places(last), latent, channels, 9)
    total += resnet(channels, channels, last).times(2)
    if vae.mid_attention:
        square, elements = linear(places(last), channels, channels), places(last) * channels
        total += norm(elements, channels) + square.times(4) + pointwise(elements, 2)
        total += attention(images, places(last) / images, places(last) / images, channels)
    widest = 0
    for level in reversed(range(levels)):
        for _ in range(vae.layers_per_block + 1):
            total += resnet(channels, vae.channels[level], level)
            widest = max(widest, 3 * max(channels, vae.channels[level]) * places(level))
            channels = vae.channels[level]
        if level:
            total += pointwise(places(level - 1) * channels)
            total += conv(places(level - 1), channels, channels, 9)
            widest = max(widest, 3 * channels * places(level - 1))
    total += norm(places(0) * channels, channels) + pointwise(places(0) * channels)
    total += conv(places(0), channels, vae.image_channels, 9)
    return total.with_peak(widest)
