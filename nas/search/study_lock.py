"""Lock of a study's file: one search at a time, unless others join."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nas.locks import HELD, LockedError, output_lock
from nas.search.storage import storage_file

JOINED, START = "joined", "start"
"""Lock files: held by every search that joined; held while one starts a trial."""


class StudyLock:
    """A search's lock on the file of its study.

    Attributes:
        exclusive: no other search was running at the start; trials in the state RUNNING were left by a killed one.
    """

    def __init__(self, path: Path | None, join: bool, exclusive: bool, handle: int | None = None) -> None:
        self.path, self.join, self.exclusive, self._handle = path, join, exclusive, handle

    def is_shared(self) -> bool:
        """Whether other searches may have joined."""
        return self.join or (self.path is not None and _beside(self.path, JOINED).exists())

    @contextlib.contextmanager
    def starting_trial(self) -> Iterator[None]:
        """Inside, no other search of this study starts a trial, so that together they do not exceed `trials`."""
        if self.path is None or not self.is_shared():
            yield
            return
        handle = _lock(_beside(self.path, START), shared=False, wait=True)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def allow_joins(self) -> None:
        """Let other searches join, once the trials of a killed one have been read."""
        if self.exclusive and self.path is not None and self._handle is not None:
            _remove(_beside(self.path, JOINED), self._handle)
            self._handle = None

    def close(self) -> None:
        if self.path is None:
            return
        if self._handle is not None:
            os.close(self._handle)
        joined = _beside(self.path, JOINED)
        if joined.exists() and (handle := _lock(joined, shared=False, wait=False)) is not None:
            _remove(_beside(self.path, START))
            _remove(joined, handle)


@contextlib.contextmanager
def lock_study(storage: str | Path | None, join: bool) -> Iterator[StudyLock]:
    """Lock a study's file inside the block; only searches with `join` may share it.

    A study in memory or on a database server is not locked.

    Raises:
        LockedError: another search holds it, and `join` is not set.
    """
    path = storage_file(storage)
    if path is None:
        yield StudyLock(None, join, exclusive=storage is None or not join)
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(output_lock(path))
            first = True
        except LockedError as error:
            if not join:
                raise LockedError(f"{error}, or join it with --join (join=True)") from None
            first = False
        joined = _beside(path, JOINED)
        handle = _lock(joined, shared=not first, wait=not first)
        if handle is None and not join:
            raise LockedError(f"{path}: searches that joined it still run; wait for them, or join them with --join")
        lock = StudyLock(path, join, exclusive=first and handle is not None, handle=handle)
        stack.callback(lock.close)
        yield lock


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f".{path.name}.{name}.lock")


def _lock(path: Path, shared: bool, wait: bool) -> int | None:
    """The descriptor of a locked file, created if it is missing; None if another process holds the lock.

    On filesystems without locks the descriptor is returned, too; `output_lock` has warned.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in HELD:
                os.close(handle)
                return None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        os.close(handle)  # removed by its last holder meanwhile


def _remove(path: Path, handle: int | None = None) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    if handle is not None:
        os.close(handle)
