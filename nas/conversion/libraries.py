"""Import the optional converter libraries and suppress their output."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType

from nas.errors import MissingDependency

UNUSED = ("sklearn", "torchao", "transformers", "xgboost")
"""Libraries that coremltools imports if they are installed, for models other than ours, which takes several
seconds."""


def coremltools() -> ModuleType:
    """Import coremltools without its warnings about features missing on Linux, and without libraries that we do not use.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        with quiet(), _not_importable(UNUSED):
            import coremltools
    except ImportError as error:
        raise missing_library("coremltools", "coremltools", error) from None
    return coremltools


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress bars, warnings and log lines of a converter. Exceptions propagate."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _not_importable(names: Sequence[str]) -> Iterator[None]:
    """Let imports of these modules fail as if they were not installed; those that are imported already stay."""
    blocked = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def missing_library(library: str, target: str, error: ImportError) -> MissingDependency:
    """The error for a library that is not installed, or that cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name == library.replace("-", "_"):
        return MissingDependency(f"{library} is not installed; run: pip install {target}")
    return MissingDependency(f"{library} cannot be imported ({first_line(error)}); run: pip install {target}")


def first_line(error: Exception) -> str:
    """The first non-blank line of an error message, at most 200 characters."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
