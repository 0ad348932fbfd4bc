"""Exceptions for user errors: the command line prints their one-line message and exits with status 2."""

from __future__ import annotations

import difflib
import errno
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class NasError(Exception):
    """Base class of this library's errors. The message is one line: where, what is wrong, and how to fix it."""


class ConfigError(NasError, ValueError):
    """A file or an argument has an invalid value."""


class SpaceError(ConfigError):
    """A search space is malformed, or an architecture does not belong to it."""


class TableError(NasError, ValueError):
    """A lookup table is malformed, or needed rows are missing."""


class BudgetError(NasError, ValueError):
    """A budget cannot be parsed, or no architecture satisfies it."""


class MissingDependency(NasError, ImportError):
    """A package or tool is not installed; the message says how to install it."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'latency'?"` for the nearest known word, else the list of known words."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word)[:100], known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


FIXES = {
    errno.EACCES: "change its permissions, or give another path",
    errno.EDQUOT: "free some space and run again",
    errno.EEXIST: "a file is where a folder is needed; give another path",
    errno.EMFILE: "allow more open files (ulimit -n), or use fewer workers",
    errno.ENFILE: "allow more open files, or close other programs",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOMEM: "free some memory, or make the work smaller",
    errno.ENOSPC: "free some space and run again",
    errno.ENOTDIR: "a parent folder of it is a file; give another path",
    errno.EROFS: "give another path",
}
"""How to fix a system error, by errno."""


def unwritable(path: str | Path, error: OSError) -> NasError:
    """The error for an output that cannot be written."""
    return NasError(f"{path}: cannot be written: {error.strerror}; {FIXES.get(error.errno, 'give another path')}")


def shown(value: Any) -> str:
    """A value for an error message: on one line and short, for any value.

    Lists and mappings are described by their size, since they may be recursive, or very large through YAML anchors.
    """
    if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # numpy scalars: 1.0, not np.float64(1.0)
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} values" if value else "an empty list"
    if type(value) is int and abs(value) >= 10**20:
        return f"an integer of about {int(value.bit_length() * 0.30103) + 1} digits"
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def encodable(text: str) -> bool:
    """Whether a string can be encoded as UTF-8, which one with lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
