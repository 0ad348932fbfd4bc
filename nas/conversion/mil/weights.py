"""Read constants and compressed weights of an ML program, decompressed by coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

COMPRESSED = "constexpr_"
"""Prefix of the operations that decompress weights, such as a palette lookup."""


def is_weight(op: Any) -> bool:
    """Whether an operation is a constant or decompresses one."""
    return op.op_type == "const" or op.op_type.startswith(COMPRESSED)


def value_of(var: Any) -> Tensor | str:
    """A stored value, decompressed: float32 for floats, int64 for integers, bool, or a string."""
    if var.op is not None and var.op.op_type.startswith(COMPRESSED):
        values = var.op.materialized_val_inference()
        value = values[var.op.outputs.index(var)] if isinstance(values, tuple | list) else values
    else:
        value = var.val
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        return str(array)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(bool if array.dtype.kind == "b" else np.int64))
    return torch.from_numpy(array.astype(np.float32))
