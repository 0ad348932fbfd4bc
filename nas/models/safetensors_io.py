"""Reading and writing safetensors files: values checked to be finite and to fit the module. Nothing is unpickled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from nas.errors import ConfigError, NasError
from nas.files import write_atomic


def save(path: str | Path, values: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors, with `metadata` in the header of the file.

    Raises:
        NasError: a tensor holds NaN or infinity; nothing is written.
    """
    check_finite(path, not_finite(values))
    return write(path, values, metadata)


def write(path: str | Path, values: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """`save` without looking at the values."""
    plain = {name: value.detach().contiguous().cpu() for name, value in values.items()}
    return write_atomic(path, to_bytes(plain, dict(metadata or {}) or None))


def check_finite(path: str | Path, broken: str | None) -> None:
    """
    Raises:
        NasError: `not_finite` has found the tensor `broken`, so `path` is not written.
    """
    if broken:
        raise NasError(
            f"{path}: not written, since '{broken}' holds NaN or infinity: the training diverged; "
            "lower the learning rate and train in another folder"
        )


def load(path: str | Path, what: str = "weights") -> dict[str, Tensor]:
    """Read every tensor of a file.

    Raises:
        ConfigError: it is missing, is not a safetensors file, or holds NaN or infinity.
    """
    return read(path, what)[0]


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata in the header of a file; tensors are not read."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata() or {}


def read(path: str | Path, what: str = "weights") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises as `TensorFile`."""
    file = TensorFile(path, what)
    return dict(file), file.metadata


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for.

    Raises:
        ConfigError: it is missing, is not a safetensors file, or a tensor that is read holds NaN or infinity.
    """

    def __init__(self, path: str | Path, what: str = "weights") -> None:
        self.path, self.what = Path(path), what
        if not self.path.exists():
            raise ConfigError(f"{path}: no such {what} file")
        if not self.path.is_file():  # opening a pipe would block
            raise ConfigError(f"{path}: is not a regular file; give the path of the {what} file")
        with self._explain_errors():
            self._file = safe_open(str(self.path), framework="pt")
            self._names = dict.fromkeys(self._file.keys())
            self.metadata: dict[str, str] = self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with self._explain_errors():
            value = self._file.get_tensor(name)
        if not_finite({name: value}):
            raise ConfigError(
                f"{self.path}: '{name}' holds NaN or infinity; this {self.what} file is damaged, or training diverged"
            )
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read; raises KeyError if there is none of this name."""
        if name not in self._names:
            raise KeyError(name)
        return tuple(self._file.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError, RuntimeError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"{self.path}: this {self.what} file cannot be read ({reason})") from None


def not_finite(values: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    for name, value in values.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            return name
    return None


def load_into(
    module: nn.Module, path: str | Path, optional: Iterable[str] = (), described: str = "the files beside it"
) -> None:
    """Load the tensors of a file into a module; see `load_state`.

    Raises:
        ConfigError: as `load` and `load_state`.
    """
    load_state(module, load(path), path, optional, described)


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path,
    optional: Iterable[str] = (),
    described: str = "the files beside it",
) -> None:
    """Load a state dict into a module, which may be on the meta device. Tensors are converted to the dtypes of the module.

    Args:
        path: of the file, for error messages.
        optional: prefixes of names that may be missing, all that begin with a prefix or none.
        described: name of what defines the module, for error messages.

    Raises:
        ConfigError: a tensor is missing, unexpected, or of another shape or kind.
    """
    expected = module.state_dict()
    absent = [prefix for prefix in optional if not any(name.startswith(prefix) for name in state)]
    for name, value in expected.items():
        if name not in state and not any(name.startswith(prefix) for prefix in absent):
            raise ConfigError(f"{path}: does not fit {described}: it lacks '{name}' {_shape(value)}")
    converted = {}
    for name, value in state.items():
        if name not in expected:
            raise ConfigError(f"{path}: does not fit {described}: '{name}' is not part of the model")
        if expected[name].shape != value.shape:
            raise ConfigError(
                f"{path}: does not fit {described}: '{name}' is {_shape(value)}, expected {_shape(expected[name])}"
            )
        if expected[name].is_floating_point() != value.is_floating_point():
            raise ConfigError(
                f"{path}: '{name}' is {value.dtype}, expected {expected[name].dtype}".replace("torch.", "")
            )
        converted[name] = value.to(expected[name].dtype)
    module.load_state_dict(converted, strict=False, assign=any(value.is_meta for value in expected.values()))


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
