"""The exit status and the one-line message of a command that failed."""

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
"""A disk with less free space counts as full."""


def explained(error: BaseException, out: str | None) -> tuple[int, str]:
    """The exit status of a command that ended in `error`, and its message, which may be empty.

    Args:
        out: the command's output path, if it has one.
    """
    if isinstance(error, NasError):
        return FAILED, str(error)
    if isinstance(error, BrokenPipeError) and _reader_closed():
        return BUG, ""
    for cause in _causes(error):
        if isinstance(cause, NasError):
            return FAILED, str(cause)
        if isinstance(cause, MemoryError) or MEMORY.search(str(cause)):
            return FAILED, f"out of memory ({_short(cause)}); free some, or make the work smaller"
        if isinstance(cause, OSError) and cause.strerror:
            return FAILED, _refused(cause.errno, cause.strerror, cause.filename, out)
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):  # as libraries outside Python word it
            if os.strerror(number).lower() in str(cause).lower():
                return FAILED, _refused(number, os.strerror(number), None, out)
        if isinstance(cause, UnicodeError):
            return FAILED, f"text that cannot be written or read: {_short(cause)}"
        if "can't start new thread" in str(cause):
            return FAILED, "no new thread can be started; allow more processes (ulimit -u), or more memory"
    return BUG, f"internal error: {_short(error)}; please report it{_saved_traceback(error)}"


def close_output() -> None:
    """Flush standard output, so that an error in writing it is reported as one of the command."""
    with contextlib.suppress(AttributeError, ValueError):  # it is absent or closed
        sys.stdout.flush()


def discard_output() -> None:
    """Redirect a standard output that cannot be written to; Python would print an error at exit."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _refused(number: int | None, reason: str, file: object, out: str | None) -> str:
    if file is None and number in (errno.ENOSPC, errno.EDQUOT):
        file = _full_disk(out)
    file = os.fsdecode(file) if isinstance(file, bytes) else file
    return f"{'' if file is None else f'{file}: '}{reason}; {FIXES.get(number, 'give another path')}"


def _full_disk(out: str | None) -> str | None:
    """The first of the places that a command writes to whose disk is full."""
    for place in (*([out] if out else []), tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")):
        folder = next((folder for folder in (Path(place), *Path(place).absolute().parents) if folder.is_dir()), None)
        if folder is not None and shutil.disk_usage(folder).free < FULL_MB * 1e6:
            return place
    with contextlib.suppress(AttributeError, ValueError, OSError):
        output = sys.stdout.fileno()
        disk = os.fstatvfs(output)
        if stat.S_ISREG(os.fstat(output).st_mode) and disk.f_bavail * disk.f_frsize < FULL_MB * 1e6:
            return "standard output"
    return out


def _reader_closed() -> bool:
    """Whether the reader of standard output has closed it; a broken pipe may also be another one."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, ValueError, OSError):
        return True


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _saved_traceback(error: BaseException) -> str:
    """Save the traceback to a file, and say where."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="nas-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return ""
    return f", with {file.name}"
