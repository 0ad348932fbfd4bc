"""The data classes of a bundle's `manifest.json`, and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from nas.config import AtLeast0, renamed
from nas.errors import ConfigError, shown
from nas.profiling.compile import CompiledWorkload
from nas.ranges import Range

Megabytes = Annotated[float, Range(0, 1e9)]


@dataclass(frozen=True)
class ManifestEntry:
    """A package: the fields of `nas.profiling.compile.CompiledWorkload`, with paths relative to the bundle."""

    workload: str
    path: str
    several: str | None
    copies: Annotated[int, Range(0, 1000)]
    params: AtLeast0
    weights_mb: Megabytes
    inputs_mb: Megabytes
    activations_mb: Annotated[float, Range(0, 1e9, unknown=True)]
    variant: str = renamed("form")

    def __post_init__(self) -> None:
        if not self.workload.strip():
            raise ConfigError("workload is empty")
        if (self.several is None) != (self.copies == 0):
            raise ConfigError(f"copies is {self.copies}: expected at least 1 with a package 'several', 0 without one")
        for name in (self.path, self.several):
            if name is not None:
                _check_inside(name)

    def package(self, folder: Path) -> CompiledWorkload:
        """The package with paths in the bundle's folder."""
        several = folder / self.several if self.several else None
        return CompiledWorkload(**{**vars(self), "path": folder / self.path, "several": several})


@dataclass(frozen=True)
class BundleManifest:
    """The content of a bundle.

    Attributes:
        space, space_hash, dtype: of the search space.
        runtime: that it is compiled for.
        target: for Core ML the oldest system version; else empty.
        versions: of this library and the converters.
        date, commit: when and with which commit it was created.
        packages: the compiled workloads.
        reference: the workload that is timed between the others.
        infeasible: workloads that could not be compiled, with the reason.
        files: SHA-256 of every file.
        bundle: a hash of all of the above.
    """

    space: str
    space_hash: str
    dtype: str
    runtime: Literal["coreml", "litert", "web"]
    target: str
    versions: dict[str, str | None]
    date: str
    commit: str | None
    packages: tuple[ManifestEntry, ...]
    reference: ManifestEntry
    infeasible: dict[str, str]
    files: dict[str, str]
    bundle: str

    def __post_init__(self) -> None:
        names = [entry.workload for entry in self.packages] + list(self.infeasible)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"workload {shown(twice)} is listed twice")
        for name in self.files:
            _check_inside(name)
        for entry in (*self.packages, self.reference):
            for name in (entry.path, entry.several):
                if name and not any(file == name or file.startswith(f"{name}/") for file in self.files):
                    raise ConfigError(f"package {shown(name)} is not listed in files")


def _check_inside(name: str) -> None:
    """Check that a file name is a valid relative path inside the bundle.

    Raises:
        ConfigError: it is not.
    """
    path = PurePosixPath(name)
    invalid = not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name or ":" in name
    if invalid or len(name) > 1000 or any(len(part.encode()) > 255 for part in path.parts):
        raise ConfigError(f"{shown(name)} is not a file inside the bundle")
