"""MIL's matrix products, convolutions and pooling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.conversion.mil.registry import Arguments, operation

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@operation("linear")
def linear(a: Arguments) -> Tensor:
    return F.linear(a["x"], a["weight"], a.optional("bias"))


@operation("matmul")
def matmul(a: Arguments) -> Tensor:
    x = a["x"].transpose(-1, -2) if a.get("transpose_x", False) else a["x"]
    y = a["y"].transpose(-1, -2) if a.get("transpose_y", False) else a["y"]
    return x @ y


@operation("einsum")
def einsum(a: Arguments) -> Tensor:
    return torch.einsum(a["equation"], *a["values"])


@operation("conv")
def conv(a: Arguments) -> Tensor:
    x, weight = a["x"], a["weight"]
    rank = weight.ndim - 2
    strides, dilations = a.list("strides", [1] * rank), a.list("dilations", [1] * rank)
    padding = _padding(a, x.shape[2:], weight.shape[2:], strides, dilations)
    bias = a.optional("bias")
    return CONV[rank](F.pad(x, padding), weight, bias, strides, 0, dilations, a.get("groups", 1))


@operation("conv_transpose")
def conv_transpose(a: Arguments) -> Tensor:
    """The weight is `(in, out / groups, ...)`; `pad` is cropped from the result."""
    x, weight = a["x"], a["weight"]
    rank = weight.ndim - 2
    strides, dilations = a.list("strides", [1] * rank), a.list("dilations", [1] * rank)
    bias = a.optional("bias")
    full = CONV_TRANSPOSE[rank](x, weight, bias, strides, 0, 0, a.get("groups", 1), dilations)
    if a.get("pad_type", "valid") == "valid":
        return full
    if a.get("pad_type") != "custom":
        raise ValueError(f"pad_type {a.get('pad_type')} is not supported")
    pad, shape = a.list("pad", [0] * 2 * rank), a.list("output_shape")
    for axis in range(rank):
        size = shape[axis + 2] if shape else full.shape[axis + 2] - pad[2 * axis] - pad[2 * axis + 1]
        missing = max(0, pad[2 * axis] + size - full.shape[axis + 2])
        if missing:  # torch's output_padding
            full = F.pad(full, [0, 0] * (rank - 1 - axis) + [0, missing])
        full = full.narrow(axis + 2, pad[2 * axis], size)
    return full


@operation("max_pool")
def max_pool(a: Arguments) -> Tensor:
    return _pool(a, MAX_POOL, -torch.inf)


@operation("avg_pool")
def avg_pool(a: Arguments) -> Tensor:
    if a.get("exclude_padding_from_average", False) and a.get("pad_type", "valid") != "valid" and any(a.list("pad")):
        raise ValueError("exclude_padding_from_average with padding is not supported")
    return _pool(a, AVG_POOL, 0.0)


def _pool(a: Arguments, pools: dict, fill: float) -> Tensor:
    if a.get("ceil_mode", False):
        raise ValueError("ceil_mode is not supported")
    x, size = a["x"], a.list("kernel_sizes")
    strides = a.list("strides", [1] * len(size))
    padding = _padding(a, x.shape[2:], size, strides, [1] * len(size))
    return pools[len(size)](F.pad(x, padding, value=fill), size, strides)


def _padding(a: Arguments, sizes, kernel, strides, dilations) -> list[int]:
    """Padding of each side, last axis first, as `torch.nn.functional.pad` expects it."""
    kind, rank = a.get("pad_type", "valid"), len(kernel)
    pairs = [(0, 0)] * rank
    if kind == "custom":
        pad = a.list("pad", [0] * 2 * rank)
        pairs = list(zip(pad[::2], pad[1::2]))
    elif kind in ("same", "same_lower"):
        pairs = []
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
            total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
            half = total // 2
            pairs.append((total - half, half) if kind == "same_lower" else (half, total - half))
    return [side for pair in reversed(pairs) for side in pair]
