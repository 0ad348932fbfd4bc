"""Constants, and weights that are stored compressed, by coremltools' own definition of each kind of compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

COMPRESSED = "constexpr_"
"""How the names of operations begin that only unpack weights, such as a palette and indices into it."""


def is_weight(op: Any) -> bool:
    """Whether an operation does nothing but give a stored value."""
    return op.op_type == "const" or op.op_type.startswith(COMPRESSED)


def value_of(var: Any) -> Tensor | str:
    """A stored value: float32 for floats, int64 for whole numbers, unpacked if it is compressed."""
    if var.op is not None and var.op.op_type.startswith(COMPRESSED):
        found = var.op.materialized_val_inference()
        value = found[var.op.outputs.index(var)] if isinstance(found, tuple | list) else found
    else:
        value = var.val
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        return str(array)
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(bool if array.dtype.kind == "b" else np.int64))
    return torch.from_numpy(array.astype(np.float32))
