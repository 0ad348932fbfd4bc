"""MIL's reductions over axes, softmax and normalizations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.conversion.mil.registry import Arguments, operation

REDUCTIONS = {
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "reduce_log_sum_exp": torch.logsumexp,
    "reduce_max": torch.amax,
    "reduce_mean": torch.mean,
    "reduce_min": torch.amin,
    "reduce_sum": torch.sum,
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _reduction(function):
    def reduce(a: Arguments) -> Tensor:
        axes = a.list("axes", list(range(a["x"].ndim)))
        return function(a["x"], axes, a.get("keep_dims", False))

    return reduce


for _name, _function in REDUCTIONS.items():
    operation(_name)(_reduction(_function))


@operation("reduce_prod")
def reduce_prod(a: Arguments) -> Tensor:
    x = a["x"]
    for axis in sorted((axis % x.ndim for axis in a.list("axes", list(range(x.ndim)))), reverse=True):
        x = x.prod(axis, keepdim=a.get("keep_dims", False))
    return x


@operation("reduce_argmax")
def reduce_argmax(a: Arguments) -> Tensor:
    return a["x"].argmax(a.get("axis", -1), keepdim=a.get("keep_dims", False))


@operation("cumsum")
def cumsum(a: Arguments) -> Tensor:
    if a.get("exclusive", False) or a.get("reverse", False):
        raise ValueError("exclusive and reverse are not supported")
    return a["x"].cumsum(a.get("axis", 0))


@operation("softmax")
def softmax(a: Arguments) -> Tensor:
    return a["x"].softmax(a.get("axis", -1))


@operation("layer_norm")
def layer_norm(a: Arguments) -> Tensor:
    """Normalize over `axes`; gamma and beta have the shape of these axes."""
    x, axes = a["x"], [axis % a["x"].ndim for axis in a.list("axes")]
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    normal = _normalized(a, x, axes)
    return _scaled_and_shifted(a, normal, shape)


@operation("instance_norm")
def instance_norm(a: Arguments) -> Tensor:
    x = a["x"]
    shape = (1, -1, *[1] * (x.ndim - 2))
    normal = _normalized(a, x, list(range(2, x.ndim)))
    return _scaled_and_shifted(a, normal, shape)


@operation("batch_norm")
def batch_norm(a: Arguments) -> Tensor:
    x = a["x"]
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(a["variance"] + a.get("epsilon", 1e-5))
    normal = (x - a["mean"].reshape(shape)) * scale.reshape(shape)
    return _scaled_and_shifted(a, normal, shape)


@operation("l2_norm")
def l2_norm(a: Arguments) -> Tensor:
    """Normalize over the last three axes."""
    axes = list(range(a["x"].ndim - 3, a["x"].ndim))
    return a["x"] / (a["x"].square().sum(axes, True) + a.get("epsilon", 1e-6)).sqrt()


def _normalized(a: Arguments, x: Tensor, axes: list[int]) -> Tensor:
    centered = x - x.mean(axes, True)
    squares = centered.square()
    a.note(squares.max().item())
    return centered / (squares.mean(axes, True) + a.get("epsilon", 1e-5)).sqrt()


def _scaled_and_shifted(a: Arguments, normal: Tensor, shape: Sequence[int]) -> Tensor:
    """`normal * gamma + beta`, with both reshaped to `shape`; either may be missing."""
    if "gamma" in a:
        normal = normal * a["gamma"].reshape(shape)
    return normal + a["beta"].reshape(shape) if "beta" in a else normal
