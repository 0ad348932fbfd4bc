"""Read and write Core ML packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from nas.conversion.libraries import coremltools
from nas.errors import NasError


def read_package(path: str | Path) -> Any:
    """Load the protobuf of a Core ML program.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: it is not a package with an ML program.
    """
    ct = coremltools()
    try:
        spec = ct.utils.load_spec(str(path))
    except Exception as error:  # coremltools raises many types on broken files
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NasError(f"{path}: cannot be read as a Core ML package ({reason})") from None
    if spec.WhichOneof("Type") != "mlProgram":
        raise NasError(f"{path}: is not an ML program; export it again")
    return spec


def save(model: Any, path: Path) -> Path:
    """Save a package under a temporary name, then rename it, so that `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save(str(temporary))
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
    return path


def size_mb(path: Path) -> float:
    """Size of a file or of all files in a folder, in 10^6 bytes."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
