"""Named tensors to one safetensors file and back, in one atomic step. No pickle, so reading runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from nas.errors import ConfigError
from nas.files import write_atomic


def save(path: str | Path, values: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors, and `metadata` into the file's header."""
    plain = {name: value.detach().contiguous().cpu() for name, value in values.items()}
    return write_atomic(path, to_bytes(plain, dict(metadata or {}) or None))


def load(path: str | Path, what: str = "weights") -> dict[str, torch.Tensor]:
    """Read every tensor of a file.

    Raises:
        ConfigError: it is missing or is not a safetensors file.
    """
    return read(path, what)[0]


def metadata(path: str | Path) -> dict[str, str]:
    """What stands in a file's header; its tensors are not read."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata() or {}


def read(path: str | Path, what: str = "weights") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file. Raises as `load`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file") from None
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: this {what} file cannot be read ({error})") from None
