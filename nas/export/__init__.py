"""Floor 3: a trained checkpoint as files for a phone or for a training cluster.

Each format is a function `(checkpoint folder, out folder, ...) -> paths it wrote`, which also records them in the out
folder's `export.json`. A new format is one file here and one line in `FORMATS`.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.export.litert_models import litert
from nas.export.packages import check_package, coreml
from nas.export.training_recipe import recipe
from nas.locks import output_lock
from nas.profiling.coreml_models import temporary_files_in
from nas.profiling.temporary import TemporaryFolder


def _alone(write: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    """A format that no other process writes to the same folder with, and that leaves nothing half-written."""

    @functools.wraps(write)
    def locked(checkpoint: str | Path, out: str | Path, *args: Any, **options: Any) -> list[Path]:
        with (
            output_lock(out, folder=True),
            contextlib.closing(TemporaryFolder("nas-export-")) as scratch,
            temporary_files_in(str(scratch.path)),  # coremltools' packages, which a kill would leave for good
        ):
            _remove_unfinished(Path(out))  # what a killed process left
            try:
                return write(checkpoint, out, *args, **options)
            finally:
                _remove_unfinished(Path(out))

    return locked


def _remove_unfinished(out: Path) -> None:
    for path in out.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


coreml, recipe, litert = _alone(coreml), _alone(recipe), _alone(litert)
FORMATS: dict[str, Callable[..., list[Path]]] = {"coreml": coreml, "recipe": recipe, "litert": litert}

__all__ = ["FORMATS", "check_package", "coreml", "litert", "recipe"]
