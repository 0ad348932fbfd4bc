"""The errors a person can cause. The command line prints their one line and exits with status 2."""

from __future__ import annotations

import difflib
import errno
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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
    near = difflib.get_close_matches(str(word)[:100], known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


FIXES = {
    errno.EACCES: "ask for the right to, or give another path",
    errno.EDQUOT: "free some space and run again",
    errno.EEXIST: "a file is where a folder is needed; give another path",
    errno.EMFILE: "allow more open files (ulimit -n), or use fewer workers",
    errno.ENFILE: "allow more open files, or close other programs",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOMEM: "free some memory, or make the work smaller",
    errno.ENOSPC: "free some space and run again",
    errno.ENOTDIR: "something above it is a file, not a folder; give another path",
    errno.EROFS: "give another path",
}
"""What to do when the system refuses something, by its error number."""


def unwritable(path: str | Path, error: OSError) -> NasError:
    """The error of an output that the system refuses."""
    return NasError(f"{path}: cannot be written: {error.strerror}; {FIXES.get(error.errno, 'give another path')}")


def shown(value: Any) -> str:
    """A value out of a file as an error message may print it: on one line, short, whatever the value is.

    A list or a mapping is told by its size, since it may refer to itself or multiply a thousandfold when it is printed.
    """
    if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # of numpy: 1.0 rather than np.float64(1.0)
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
    """Whether it is Unicode: no half of a surrogate pair, as broken files and arguments leave it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
