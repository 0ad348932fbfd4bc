"""Export a trained checkpoint: Core ML packages, LiteRT models, a web page, or a training recipe.

Each format is a function `(checkpoint folder, output folder, ...) -> written paths`, which also records the paths in
the output folder's `export.json`. A new format is one module in this package and one entry in `FORMATS`.
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
from nas.export.random_weights import random_checkpoint
from nas.export.training_recipe import recipe
from nas.export.web_page import web
from nas.locks import output_lock
from nas.profiling.coreml_models import temporary_files_in
from nas.profiling.temporary import TemporaryFolder
from nas.spaces import Architecture, SearchSpace


def _exclusive(write: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    """Wrap an export function so that it locks the output folder and removes unfinished files."""

    @functools.wraps(write)
    def locked(checkpoint: str | Path, out: str | Path, *args: Any, **options: Any) -> list[Path]:
        with (
            output_lock(out, folder=True),
            contextlib.closing(TemporaryFolder("nas-export-")) as scratch,
            temporary_files_in(str(scratch.path)),  # coremltools' temporary packages
        ):
            _remove_unfinished(Path(out))  # left by a killed process
            try:
                return write(checkpoint, out, *args, **options)
            finally:
                _remove_unfinished(Path(out))

    return locked


def _remove_unfinished(out: Path) -> None:
    for path in out.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


def export_random(
    format_name: str, space: SearchSpace, architecture: Architecture, out: str | Path, seed: int = 0, **options: Any
) -> list[Path]:
    """Export an architecture with random weights, before anything is trained; `export.json` says so.

    Args:
        format_name: a key of `FORMATS`.
        seed: of the weights.
        options: of the format's function.

    Returns:
        The written paths.

    Raises:
        SpaceError: the architecture belongs to another space.
        NasError: as the format's function, see `random_checkpoint` too.
    """
    with contextlib.closing(TemporaryFolder("nas-random-")) as scratch, output_lock(out, folder=True):
        checkpoint = random_checkpoint(space, architecture, scratch.path, seed, needs_text=format_name != "recipe")
        return FORMATS[format_name](checkpoint, out, **options)


coreml, recipe, litert, web = _exclusive(coreml), _exclusive(recipe), _exclusive(litert), _exclusive(web)
FORMATS: dict[str, Callable[..., list[Path]]] = {"coreml": coreml, "recipe": recipe, "litert": litert, "web": web}

__all__ = ["FORMATS", "check_package", "coreml", "export_random", "litert", "recipe", "web"]
