"""Operation counts (flops, memory traffic, parameters, peak activations), computed from shapes, and those of common layers."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class OpCounts:
    """Operation counts of one forward pass.

    Attributes:
        flops: floating-point operations, a multiply-add counted as two.
        memory_traffic: elements read and written, weights included, if every kernel reads its inputs from memory and
            writes its outputs to it.
        kernels: kernels launched.
        params: parameters.
        peak: largest number of activation elements in memory at once, without the inputs.
        attention_flops: the part of `flops` that is inside softmax attention.
        attention_scores: number of logits of each attention, over all heads. Fused attention does not store them, which
            `memory_traffic` and `peak` assume.
    """

    flops: float = 0.0
    memory_traffic: float = 0.0
    kernels: int = 0
    params: int = 0
    peak: float = 0.0
    attention_flops: float = 0.0
    attention_scores: tuple[float, ...] = ()

    def __add__(self, other: OpCounts) -> OpCounts:
        """The counts of both, executed one after the other."""
        return OpCounts(
            self.flops + other.flops,
            self.memory_traffic + other.memory_traffic,
            self.kernels + other.kernels,
            self.params + other.params,
            max(self.peak, other.peak),
            self.attention_flops + other.attention_flops,
            self.attention_scores + other.attention_scores,
        )

    def times(self, count: int) -> OpCounts:
        """The counts of `count` executions in sequence, each with its own parameters."""
        return sum((self for _ in range(count)), OpCounts())

    def with_peak(self, elements: float) -> OpCounts:
        """The same with another `peak`."""
        return replace(self, peak=elements)

    def unfused(self) -> OpCounts:
        """The counts without fused attention: logits are written, read and written by the softmax, and read again.

        Two copies of the largest logits are in memory at once.
        """
        scores = self.attention_scores
        written = OpCounts(memory_traffic=4 * sum(scores), kernels=2 * len(scores))
        return (self + written).with_peak(self.peak + 2 * max(scores, default=0))


def linear(rows: float, inputs: int, outputs: int, bias: bool = True) -> OpCounts:
    """A linear layer on `rows` vectors."""
    params = inputs * outputs + outputs * bias
    return OpCounts(2.0 * rows * inputs * outputs, rows * (inputs + outputs) + params, 1, params)


def conv(positions: float, inputs: int, outputs: int, taps: int, bias: bool = True, scale: float = 1.0) -> OpCounts:
    """A convolution with `taps` weights per channel pair at `positions` output positions; `scale`: input positions per output position."""
    params = taps * inputs * outputs + outputs * bias
    traffic = positions * (scale * inputs + outputs) + params
    return OpCounts(2.0 * positions * taps * inputs * outputs, traffic, 1, params)


def norm(elements: float, channels: int) -> OpCounts:
    """A normalization with a scale and a shift per channel."""
    return OpCounts(8.0 * elements, 2 * elements, 1, 2 * channels)


def pointwise(elements: float, inputs: int = 1) -> OpCounts:
    """An elementwise operation of `inputs` tensors, or a copy."""
    return OpCounts(elements, (inputs + 1) * elements, 1)


def attention(batch: float, queries: float, keys: float, channels: int, heads: int = 0) -> OpCounts:
    """Fused softmax attention, without its projections."""
    flops = batch * (4.0 * queries * keys * channels + 5.0 * queries * keys)
    scores = (batch * heads * queries * keys,) if heads else ()
    return OpCounts(
        flops, batch * channels * (2 * queries + 2 * keys), 1, attention_flops=flops, attention_scores=scores
    )


def feed_forward(rows: float, channels: int) -> OpCounts:
    """A gated feed-forward layer (GEGLU) of four times the channels."""
    gate = OpCounts(10.0 * rows * 4 * channels, rows * 12 * channels, 2)
    return linear(rows, channels, 8 * channels) + gate + linear(rows, 4 * channels, channels)
