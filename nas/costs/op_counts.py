"""Arithmetic and memory traffic of a workload, counted from its shapes; no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from nas.spaces import Backbone, Decoder, Operator, TextEncoder, Workload
from nas.spaces.workload import DTYPE_BYTES


@dataclass(frozen=True)
class Work:
    """What running a workload once takes.

    Attributes:
        flops: floating-point operations, a multiply-add counted as two.
        moved: elements read and written, weights included, if every kernel reads its inputs from memory and writes
            its outputs there.
        kernels: kernels launched.
        params: parameters.
        peak: elements of activations alive at once, above the inputs.
        attention: those of the flops that are inside softmax attention.
    """

    flops: float = 0.0
    moved: float = 0.0
    kernels: int = 0
    params: int = 0
    peak: float = 0.0
    attention: float = 0.0

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        return Work(
            self.flops + other.flops,
            self.moved + other.moved,
            self.kernels + other.kernels,
            self.params + other.params,
            max(self.peak, other.peak),
            self.attention + other.attention,
        )


def work(workload: Workload) -> Work:
    """The work of an operator, of the spatial backbone, of a text encoder or of a decoder, as `nas.models` and
    transformers define them."""
    if isinstance(workload.part, Backbone):
        return _backbone(workload)
    if isinstance(workload.part, TextEncoder):
        return _text_encoder(workload.part, *workload.context)
    if isinstance(workload.part, Decoder):
        return _decoder(workload.part, workload.shape)
    return _operator(workload.part, workload.shape, workload.context)


def dtype_bytes(workload: Workload) -> int:
    return DTYPE_BYTES[workload.dtype]


def _linear(rows: float, inputs: int, outputs: int, bias: bool = True) -> Work:
    params = inputs * outputs + outputs * bias
    return Work(2.0 * rows * inputs * outputs, rows * (inputs + outputs) + params, 1, params)


def _conv(places: float, inputs: int, outputs: int, taps: int, bias: bool = True, scale: float = 1.0) -> Work:
    """A convolution with `taps` weights per channel pair; `scale`: input places per output place."""
    params = taps * inputs * outputs + outputs * bias
    moved = places * (scale * inputs + outputs) + params
    return Work(2.0 * places * taps * inputs * outputs, moved, 1, params)


def _norm(elements: float, channels: int) -> Work:
    return Work(8.0 * elements, 2 * elements, 1, 2 * channels)


def _pointwise(elements: float, inputs: int = 1) -> Work:
    return Work(elements, (inputs + 1) * elements, 1)


def _attention(batch: float, queries: float, keys: float, channels: int) -> Work:
    """Fused softmax attention: scores stay on the chip."""
    flops = batch * (4.0 * queries * keys * channels + 5.0 * queries * keys)
    return Work(flops, batch * channels * (2 * queries + 2 * keys), 1, attention=flops)


def _feed_forward(rows: float, channels: int) -> Work:
    gate = Work(10.0 * rows * 4 * channels, rows * 12 * channels, 2)
    return _linear(rows, channels, 8 * channels) + gate + _linear(rows, 4 * channels, channels)


def _operator(operator: Operator, shape: tuple[int, ...], context: tuple[int, ...] | None) -> Work:
    batch, channels, frames, height, width = shape
    places = height * width
    rows, elements = batch * frames * places, prod(shape)
    add, norm = _pointwise(elements, 2), _norm(elements, channels)
    if operator.kind == "Conv1D":
        conv = _conv(rows, channels, channels, operator["kernel"])
        return _peak(norm + _pointwise(elements) + conv + add, 4 * elements)
    if operator.kind == "Conv3D":
        kernel = operator["kernel"]
        one = _conv(rows, channels, channels, kernel**2, bias=False)
        total = norm + _pointwise(elements) + add
        for _ in range(kernel):
            total = total + one + _pointwise(elements, 2)
        return _peak(total + Work(params=channels), 5 * elements)
    total = norm + _linear(rows, channels, channels, bias=False)  # queries
    if operator.kind == "SelfAttention1D":
        total += _times(_linear(rows, channels, channels, bias=False), 2)
        total += _attention(batch * places, frames, frames, channels)
    elif operator.kind == "SelfAttention3D":
        total += _times(_linear(rows, channels, channels, bias=False), 2)
        total += _attention(batch, frames * places, frames * places, channels)
    else:
        total = norm + _cross(operator, batch, channels, frames, places, context)
    total += _linear(rows, channels, channels) + add + norm + _feed_forward(rows, channels) + add
    return _peak(total, 14 * elements)


def _cross(operator: Operator, batch: int, channels: int, frames: int, places: int, context) -> Work:
    """Queries, keys, values and attention of the cross-attentions."""
    text, anchor = "text" in operator["context"], "anchor" in operator["context"]
    own_place = operator.kind == "CrossAttention1D"
    queries = not (own_place and not text)
    total, keys = Work(), 0
    if queries:
        total += _linear(batch * frames * places, channels, channels, bias=False)
    if text:
        _, tokens, dim = context
        total += _times(_linear(batch * tokens, dim, channels, bias=False), 2)
        keys += tokens
    if anchor:
        total += _times(_linear(batch * places, channels, channels, bias=False), 1 + queries)
        keys += 1 if own_place else places
    return total + _attention(batch, frames * places, keys, channels) if queries else total


def _backbone(workload: Workload) -> Work:
    backbone, (batch, latent, frames, height, width) = workload.part, workload.shape
    _, tokens, dim = workload.context
    images, widths = batch * frames, backbone.channels
    time_dim = 4 * widths[0]

    def places(level: int) -> int:
        return images * (height >> level) * (width >> level)

    def resnet(inputs: int, outputs: int, level: int) -> Work:
        n = places(level)
        total = _norm(n * inputs, inputs) + _pointwise(n * inputs) + _conv(n, inputs, outputs, 9)
        total += _linear(batch, time_dim, outputs) + _pointwise(n * outputs, 2)
        total += _norm(n * outputs, outputs) + _pointwise(n * outputs) + _conv(n, outputs, outputs, 9)
        total += _pointwise(n * outputs, 2)
        return total + _conv(n, inputs, outputs, 1) if inputs != outputs else total

    def transformer(channels: int, level: int) -> Work:
        n, norm = places(level), _norm(places(level) * channels, channels)
        project, add = _conv(n, channels, channels, 1), _pointwise(n * channels, 2)
        square = _linear(n, channels, channels, bias=False)
        self_attention = _times(square, 3) + _attention(images, n / images, n / images, channels)
        cross = square + _times(_linear(batch * tokens, dim, channels, bias=False), 2)
        cross += _attention(batch, n / batch, tokens, channels)
        out = _linear(n, channels, channels)
        total = norm + project + norm + self_attention + out + add + norm + cross + out + add
        return total + norm + _feed_forward(n, channels) + add + project + add

    total = _linear(batch, widths[0], time_dim) + _linear(batch, time_dim, time_dim)
    if backbone.text_tokens:
        total += _pointwise(batch * tokens * dim, 2) + _linear(batch, tokens * dim, time_dim)
    alive = 0
    for layer in backbone.layers():
        n = places(layer.level)
        if layer.skip:  # the concatenation
            total += _pointwise(n * (layer.in_channels + layer.skip_channels))
        if layer.kind == "conv_in":
            total += _conv(n, latent, layer.channels, 9)
        elif layer.kind == "resnet":
            total += resnet(layer.in_channels + layer.skip_channels, layer.channels, layer.level)
        elif layer.kind == "transformer":
            total += transformer(layer.channels, layer.level)
        elif layer.kind == "downsample":
            total += _conv(n, layer.channels, layer.channels, 9, scale=4.0)
        elif layer.kind == "upsample":
            total += _pointwise(n * layer.channels) + _conv(n, layer.channels, layer.channels, 9)
        else:
            total += _norm(n * layer.in_channels, layer.in_channels) + _pointwise(n * layer.in_channels)
            total += _conv(n, layer.in_channels, latent, 9)
        if layer.is_skip:
            alive += layer.channels * n
    widest = max(6 * c * places(level) for level, c in enumerate(widths))
    return _peak(total, alive + widest)


def _text_encoder(encoder: TextEncoder, batch: int, tokens: int, width: int) -> Work:
    rows, bert = batch * tokens, encoder.kind == "bert"
    norm, add = _norm(rows * width, width), _pointwise(rows * width, 2)
    layer = _times(_linear(rows, width, width), 4) + _attention(batch, tokens, tokens, width) + add + norm
    layer += (
        _linear(rows, width, 4 * width) + _pointwise(4 * rows * width) + _linear(rows, 4 * width, width) + add + norm
    )
    positions = max(512 if bert else 77, tokens)
    tables = (encoder.vocabulary + positions + 2 * bert) * width  # of which only the rows of these tokens are read
    total = Work(moved=4 * rows * width, kernels=2 + bert, params=tables) + add + norm + _times(layer, encoder.layers)
    total = total + _linear(batch, width, width) if bert else total  # the pooled output, which nothing reads
    return _peak(total, 10 * rows * width)


def _decoder(decoder: Decoder, shape: tuple[int, ...]) -> Work:
    vae, (batch, latent, frames, height, width) = decoder.vae, shape
    images, levels = batch * frames, len(vae.channels)

    def places(level: int) -> int:
        """Pixels where the channels are those of a level; the latents are as large as the last one."""
        return images * (height << (levels - 1 - level)) * (width << (levels - 1 - level))

    def resnet(inputs: int, outputs: int, level: int) -> Work:
        n = places(level)
        total = _norm(n * inputs, inputs) + _pointwise(n * inputs) + _conv(n, inputs, outputs, 9)
        total += _norm(n * outputs, outputs) + _pointwise(n * outputs) + _conv(n, outputs, outputs, 9)
        if frames > 1 or decoder.frames is not None:
            total += _conv(n, outputs, outputs, 3, bias=False) + _pointwise(n * outputs, 2)
        else:
            total += Work(params=3 * outputs * outputs)
        total += _pointwise(n * outputs, 2)
        return total + _conv(n, inputs, outputs, 1) if inputs != outputs else total

    channels, last = vae.channels[-1], levels - 1
    total = _conv(places(last), latent, latent, 1) + _conv(places(last), latent, channels, 9)
    total += _times(resnet(channels, channels, last), 2)
    if vae.mid_attention:
        square, elements = _linear(places(last), channels, channels), places(last) * channels
        total += _norm(elements, channels) + _times(square, 4) + _pointwise(elements, 2)
        total += _attention(images, places(last) / images, places(last) / images, channels)
    widest = 0
    for level in reversed(range(levels)):
        for _ in range(vae.layers_per_block + 1):
            total += resnet(channels, vae.channels[level], level)
            widest = max(widest, 3 * max(channels, vae.channels[level]) * places(level))
            channels = vae.channels[level]
        if level:
            total += _pointwise(places(level - 1) * channels)
            total += _conv(places(level - 1), channels, channels, 9)
            widest = max(widest, 3 * channels * places(level - 1))
    total += _norm(places(0) * channels, channels) + _pointwise(places(0) * channels)
    total += _conv(places(0), channels, vae.image_channels, 9)
    return _peak(total, widest)


def _times(part: Work, count: int) -> Work:
    return replace(
        part,
        flops=part.flops * count,
        moved=part.moved * count,
        kernels=part.kernels * count,
        params=part.params * count,
        attention=part.attention * count,
    )


def _peak(part: Work, elements: float) -> Work:
    return replace(part, peak=elements)
