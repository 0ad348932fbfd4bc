"""Named tensors to one safetensors file and back, in one atomic step. No pickle, so reading runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from nas.errors import NasError
from nas.files import write_atomic
from nas.models.weights import not_finite, read


def save(path: str | Path, values: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors, and `metadata` into the file's header.

    Raises:
        NasError: a tensor holds NaN or infinity, which would be of no use to anybody; nothing is written.
    """
    broken = not_finite(values)
    if broken:
        raise NasError(
            f"{path}: not written, since '{broken}' holds NaN or infinity: the training diverged; "
            "lower the learning rate and train in another folder"
        )
    plain = {name: value.detach().contiguous().cpu() for name, value in values.items()}
    return write_atomic(path, to_bytes(plain, dict(metadata or {}) or None))


def load(path: str | Path, what: str = "weights") -> dict[str, torch.Tensor]:
    """Read every tensor of a file.

    Raises:
        ConfigError: it is missing, is not a safetensors file, or holds NaN or infinity.
    """
    return read(path, what)[0]


def metadata(path: str | Path) -> dict[str, str]:
    """What stands in a file's header; its tensors are not read."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata() or {}


__all__ = ["load", "metadata", "read", "save"]
