"""The errors a person can cause. The command line prints their one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasError(Exception):
    """Base of every error this library raises on purpose. Its text is one line: what is wrong, where, and the fix."""


class ConfigError(NasError, ValueError):
    """A file or an argument holds something that cannot be meant."""


class SpaceError(ConfigError):
    """A search space is malformed, or an architecture does not belong to it."""


class TableError(NasError, ValueError):
    """A lookup table is malformed or lacks rows that are needed."""


class BudgetError(NasError, ValueError):
    """A budget cannot be read, or no architecture meets it."""


class MissingDependency(NasError, ImportError):
    """Something that is not installed is needed; the text says how to get it."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'latency'?"` for the nearest known word, else the list of known words."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
