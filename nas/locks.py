"""Locks so that one process writes to an output; the kernel releases them when the process ends, even if killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError, unwritable

HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
"""Error numbers if another process holds a lock; others mean that the filesystem does not support locks."""


EXIT_WAIT_S = 1.0
"""Seconds to wait for a lock, for example of a killed process that is still exiting."""


class LockedError(NasError):
    """Another process is writing to the same output."""


@dataclass
class _Held:
    handle: int
    count: int = 1


_held: dict[str, _Held] = {}
_registry = threading.RLock()
_warned: set[str] = set()


@contextlib.contextmanager
def output_lock(path: str | Path, folder: bool = False) -> Iterator[None]:
    """Prevent other processes from writing to `path` inside the `with` block.

    The lock file is `.NAME.lock` beside a file, and `.nas.lock` inside a folder; it is removed at the end. The lock is an
    flock, which also works between machines on NFS; if the filesystem does not support locks, a warning is printed and
    the block runs without one. A process may acquire a lock again (a job that profiles into its own folder), but its
    child processes may not, so acquire it in the parent.

    Args:
        path: the output: a file, or a folder.
        folder: `path` is a folder; it is created, and removed at the end if it is empty.

    Raises:
        LockedError: another process holds it.
        NasError: the lock file cannot be written: read-only, disk full, or a parent is a file.
    """
    path = Path(path)
    if not folder and path.is_dir():
        raise NasError(f"{path}: is a folder; give the output a file name")
    parent = path if folder else path.parent
    created = _create(parent, path)
    file = os.path.join(os.path.realpath(parent), ".nas.lock" if folder else f".{path.name}.lock")
    try:
        with _registry:
            if file in _held:
                _held[file].count += 1
            else:
                _held[file] = _Held(_acquire(file, path))
        try:
            yield
        finally:
            _release(file)
    finally:
        for empty in created:
            with contextlib.suppress(OSError):
                empty.rmdir()


def try_lock(handle: int) -> bool:
    """Lock an open file without waiting; False if another process holds it.

    Raises:
        OSError: the filesystem does not support locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        raise
    return True


def _create(folder: Path, path: Path) -> list[Path]:
    """Create a folder; returns the created folders, the innermost first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    return missing


def _acquire(file: str, path: Path) -> int:
    until = time.monotonic() + EXIT_WAIT_S
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            locked = try_lock(handle)
        except OSError as error:
            locked = True
            _warn(file, path, error)
        if locked and _is_same(file, handle):
            break
        holder = _holder(handle)
        os.close(handle)
        if not locked:  # else the last holder has just removed the file
            if time.monotonic() > until:
                raise LockedError(f"{path}: {holder} is writing to it; wait for it, or give another path")
            time.sleep(0.05)
    program = os.path.basename(sys.argv[0])
    words = " ".join(["nas", *sys.argv[1:2]]) if program in ("nas", "__main__.py") else program
    holder_info = {"pid": os.getpid(), "host": socket.gethostname(), "command": words, "since": time.strftime("%F %T")}
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder_info).encode(), 0)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(file)
        os.close(handle)
        raise unwritable(path, error) from None
    return handle


def _release(file: str) -> None:
    with _registry:
        held = _held.get(file)
        if held is None:  # in a forked child
            return
        held.count -= 1
        if not held.count:
            del _held[file]
            with contextlib.suppress(OSError):  # before unlocking, or the next holder's file would be removed
                os.unlink(file)
            os.close(held.handle)


def _is_same(file: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except OSError:
        return False


def _holder(handle: int) -> str:
    try:
        info = json.loads(os.pread(handle, 4096, 0))
        return f"process {info['pid']} on {info['host']} ('{info['command']}', since {info['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _warn(file: str, path: Path, error: OSError) -> None:
    if file not in _warned:
        _warned.add(file)
        print(
            f"warning: {path}: this filesystem does not support locks ({error.strerror}); do not write to it from another process",
            file=sys.stderr,
        )


def _close_after_fork() -> None:
    """Close inherited locks in a forked child, or they would outlive the parent."""
    global _registry
    _registry = threading.RLock()
    for held in _held.values():
        with contextlib.suppress(OSError):
            os.close(held.handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_after_fork)
