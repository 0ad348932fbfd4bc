"""MIL operations that create, reshape, index or resample tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.conversion.mil.registry import Arguments, operation


@operation("reshape")
def reshape(a: Arguments) -> Tensor:
    """A size of 0 keeps the input's size on that axis; -1 is inferred."""
    x, shape = a["x"], a.list("shape")
    if len(shape) == x.ndim:
        shape = [old if new == 0 else new for old, new in zip(x.shape, shape)]
    return x.reshape(shape)


@operation("transpose")
def transpose(a: Arguments) -> Tensor:
    return a["x"].permute(a.list("perm"))


@operation("expand_dims")
def expand_dims(a: Arguments) -> Tensor:
    """`axes` refer to the output."""
    x, rank = a["x"], a["x"].ndim + len(a.list("axes"))
    for axis in sorted(axis % rank for axis in a.list("axes")):
        x = x.unsqueeze(axis)
    return x


@operation("squeeze")
def squeeze(a: Arguments) -> Tensor:
    x, axes = a["x"], a.list("axes")
    axes = [i for i, size in enumerate(x.shape) if size == 1] if axes is None else axes
    return x.squeeze(tuple(axis % x.ndim for axis in axes)) if axes else x


@operation("concat")
def concat(a: Arguments) -> Tensor:
    if a.get("interleave", False):
        stacked = torch.stack(a["values"], a.get("axis") % a["values"][0].ndim + 1)
        return stacked.flatten(a.get("axis") % a["values"][0].ndim, a.get("axis") % a["values"][0].ndim + 1)
    return torch.cat(a["values"], a.get("axis"))


@operation("stack")
def stack(a: Arguments) -> Tensor:
    return torch.stack(a["values"], a.get("axis"))


@operation("split")
def split(a: Arguments) -> tuple[Tensor, ...]:
    x, axis = a["x"], a.get("axis")
    sizes = a.list("split_sizes") or x.shape[axis] // a.get("num_splits")
    return tuple(x.split(sizes, axis))


@operation("tile")
def tile(a: Arguments) -> Tensor:
    return a["x"].repeat(a.list("reps"))


@operation("fill")
def fill(a: Arguments) -> Tensor:
    return torch.full(a.list("shape"), a.get("value", 0.0))


@operation("fill_like")
def fill_like(a: Arguments) -> Tensor:
    return torch.full(a["ref_tensor"].shape, a.get("value", 0.0))


@operation("range_1d")
def range_1d(a: Arguments) -> Tensor:
    return torch.arange(a.get("start"), a.get("end"), a.get("step"))


@operation("shape")
def shape(a: Arguments) -> Tensor:
    return torch.tensor(a["x"].shape)


@operation("reverse")
def reverse(a: Arguments) -> Tensor:
    return a["x"].flip(a.list("axes", list(range(a["x"].ndim))))


@operation("pad")
def pad(a: Arguments) -> Tensor:
    """`pad` holds (before, after) of the last axes in axis order; torch expects the last axis first."""
    sizes = a.list("pad")
    pairs = list(zip(sizes[::2], sizes[1::2]))
    backwards = [size for pair in reversed(pairs) for size in pair]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return F.pad(a["x"], backwards, value=a.get("constant_val", 0.0))
    while backwards and backwards[-2:] == [0, 0]:  # torch reflects and replicates only the last axes
        backwards = backwards[:-2]
    x = a["x"]
    kept = x.shape[: x.ndim - len(backwards) // 2]
    padded = F.pad(x.flatten(0, len(kept) - 1)[None] if kept else x[None, None], backwards, mode=mode)
    return padded.reshape(*kept, *padded.shape[padded.ndim - len(backwards) // 2 :])


@operation("slice_by_index")
def slice_by_index(a: Arguments) -> Tensor:
    x = a["x"]
    begin, end, rank = a.list("begin"), a.list("end"), x.ndim
    stride = a.list("stride", [1] * rank)
    masks = {name: a.list(name, [False] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")}
    index: list = []
    for axis in range(rank):
        if masks["squeeze_mask"][axis]:
            index.append(torch.tensor(begin[axis] % x.shape[axis]))
            continue
        first = None if masks["begin_mask"][axis] else begin[axis]
        last = None if masks["end_mask"][axis] else end[axis]
        selected = range(x.shape[axis])[first : last : stride[axis]]
        index.append(torch.tensor(list(selected), dtype=torch.int64))
    for axis in reversed(range(rank)):
        x = x.select(axis, int(index[axis])) if index[axis].ndim == 0 else x.index_select(axis, index[axis])
    return x


@operation("slice_by_size")
def slice_by_size(a: Arguments) -> Tensor:
    x = a["x"]
    for axis, (begin, size) in enumerate(zip(a.list("begin"), a.list("size"))):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


@operation("gather")
def gather(a: Arguments) -> Tensor:
    """`x[..., indices, ...]` at the axis; negative indices count from the end."""
    x, indices, axis = a["x"], a["indices"].to(torch.int64), a.get("axis", 0)
    batch = a.get("batch_dims", 0)
    if batch:
        raise ValueError(f"batch_dims {batch} is not supported")
    axis %= x.ndim
    if int(indices.min()) < -x.shape[axis] or int(indices.max()) >= x.shape[axis]:
        raise ValueError(f"index out of range for axis {axis} of size {x.shape[axis]}")
    flat = x.index_select(axis, (indices % x.shape[axis]).flatten())
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operation("gather_along_axis")
def gather_along_axis(a: Arguments) -> Tensor:
    axis = a.get("axis", 0)
    return a["x"].gather(axis, a["indices"].to(torch.int64) % a["x"].shape[axis])


@operation("pixel_shuffle")
def pixel_shuffle(a: Arguments) -> Tensor:
    return F.pixel_shuffle(a["x"], a.get("upscale_factor"))


@operation("pixel_unshuffle")
def pixel_unshuffle(a: Arguments) -> Tensor:
    return F.pixel_unshuffle(a["x"], a.get("downscale_factor"))


@operation("depth_to_space")
def depth_to_space(a: Arguments) -> Tensor:
    """The position in the block is the outer part of the channel axis, unlike in `pixel_shuffle`."""
    x, block = a["x"], a.get("block_size")
    count, channels, height, width = x.shape
    parts = x.reshape(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, channels // block**2, height * block, width * block)


@operation("space_to_depth")
def space_to_depth(a: Arguments) -> Tensor:
    x, block = a["x"], a.get("block_size")
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * block**2, height // block, width // block)


@operation("upsample_nearest_neighbor")
def upsample_nearest_neighbor(a: Arguments) -> Tensor:
    scale = [a.get(f"scale_factor_{side}", 1) for side in ("height", "width")]
    x = a["x"]
    if any(not math.isclose(s, round(s)) for s in scale):
        raise ValueError(f"scale factors {scale} are not integers")
    return x.repeat_interleave(round(scale[0]), -2).repeat_interleave(round(scale[1]), -1)


@operation("upsample_bilinear")
def upsample_bilinear(a: Arguments) -> Tensor:
    if not a.get("half_pixel_centers", not a.get("align_corners", True)) and not a.get("align_corners", True):
        raise ValueError("align_corners and half_pixel_centers are both false, which is not supported")
    scale = (float(a.get("scale_factor_height", 1)), float(a.get("scale_factor_width", 1)))
    return F.interpolate(a["x"], scale_factor=scale, mode="bilinear", align_corners=a.get("align_corners", True))
