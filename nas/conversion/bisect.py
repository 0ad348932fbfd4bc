"""Split a Core ML program in two that run one after the other, for devices that cannot load it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.conversion.libraries import coremltools, first_line, quiet
from nas.errors import NasError


def bisect(path: Path, folder: Path) -> tuple[Any, Any]:
    """The two halves of a package, by the size of their weights, as models that are not loaded.

    The first half returns the tensors that cross the cut in float32, and the second takes them under the same names.

    Args:
        folder: an empty folder for the halves' packages, which the models refer to.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: the program cannot be split.
    """
    ct = coremltools()
    try:
        with quiet():
            ct.models.utils.bisect_model(str(path), str(folder), check_output_correctness=False)
            halves = [next(folder.glob(f"*_chunk{i}.mlpackage")) for i in (1, 2)]
            first, second = (ct.models.MLModel(str(half), skip_model_load=True) for half in halves)
    except Exception as error:  # coremltools raises many types
        if isinstance(error, MemoryError | OSError):
            raise
        raise NasError(f"{path}: coremltools cannot split it in two ({first_line(error)})") from None
    return first, second
