"""How a command ends: what is said of each kind of error, and with which exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from nas.errors import FIXES, NasError

FAILED, STOPPED, BUG = 2, 130, 1
MEMORY = re.compile(r"out of memory|bad_alloc|(cannot|can't|failed to|unable to) (allocate|map segment)", re.IGNORECASE)
FULL_MB = 1.0
"""A disk with less room is called full."""


def explained(error: BaseException, out: str | None) -> tuple[int, str]:
    """The exit status of a command that ended in `error`, and its one line, which is empty where nothing need be said.

    Args:
        out: what the command was to write, if anything.
    """
    if isinstance(error, NasError):
        return FAILED, str(error)
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return BUG, ""
    for cause in _causes(error):
        if isinstance(cause, NasError):
            return FAILED, str(cause)
        if isinstance(cause, MemoryError) or MEMORY.search(str(cause)):
            return FAILED, f"out of memory ({_short(cause)}); free some, or make the work smaller"
        if isinstance(cause, OSError) and cause.strerror:
            return FAILED, _refused(cause.errno, cause.strerror, cause.filename, out)
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):  # as libraries that are no Python say it
            if os.strerror(number).lower() in str(cause).lower():
                return FAILED, _refused(number, os.strerror(number), None, out)
        if isinstance(cause, UnicodeError):
            return FAILED, f"a text that cannot be written or read: {_short(cause)}"
        if "can't start new thread" in str(cause):
            return FAILED, "no new thread can be started; allow more processes (ulimit -u), or more memory"
    return BUG, f"internal error: {_short(error)}; please report it{_kept(error)}"


def close_output() -> None:
    """Write what is left for the standard output, so that an error of it is one of the command."""
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        sys.stdout.flush()


def discard_output() -> None:
    """Let nothing be written to a standard output that refuses it; Python would complain when it ends."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _refused(number: int | None, reason: str, file: object, out: str | None) -> str:
    if file is None and number in (errno.ENOSPC, errno.EDQUOT):
        file = _full_disk(out)
    file = os.fsdecode(file) if isinstance(file, bytes) else file
    return f"{'' if file is None else f'{file}: '}{reason}; {FIXES.get(number, 'give another path')}"


def _full_disk(out: str | None) -> str | None:
    """The first of the places that a command writes to that has no room left."""
    for place in (*([out] if out else []), tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")):
        there = next((folder for folder in (Path(place), *Path(place).absolute().parents) if folder.is_dir()), None)
        if there is not None and shutil.disk_usage(there).free < FULL_MB * 1e6:
            return place
    with contextlib.suppress(AttributeError, ValueError, OSError):
        output = sys.stdout.fileno()
        disk = os.fstatvfs(output)
        if stat.S_ISREG(os.fstat(output).st_mode) and disk.f_bavail * disk.f_frsize < FULL_MB * 1e6:
            return "standard output"
    return out


def _nobody_reads() -> bool:
    """Whether the reader of the standard output is gone; other pipes break too."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, ValueError, OSError):
        return True


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _kept(error: BaseException) -> str:
    """Where the traceback was kept, for whoever looks for the cause."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="nas-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return ""
    return f", with {file.name}"
