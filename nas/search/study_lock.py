"""Who searches a study: one process, unless others join it on purpose."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nas.locks import HELD, LockedError, output_lock
from nas.search.storage import storage_file


class StudyLock:
    """One search's hold on the storage of its study.

    Attributes:
        exclusive: no other search was alive at the start; trials that run are what a killed one left.
    """

    def __init__(self, path: Path | None, join: bool, exclusive: bool) -> None:
        self.path, self.join, self.exclusive = path, join, exclusive
        self.joined = None if path is None else _beside(path, "joined")
        self.handle: int | None = None

    def is_shared(self) -> bool:
        """Whether other searches may have joined."""
        return self.join if self.path is None else self.join or self.joined.exists()

    @contextlib.contextmanager
    def starting_trial(self) -> Iterator[None]:
        """Inside, no other search of this study begins a trial, so that together they begin no more than asked for."""
        if not self.is_shared():
            yield
            return
        if self.path is None:
            yield
            return
        handle = _lock(_beside(self.path, "start"), shared=False, wait=True)
        try:
            yield
        finally:
            os.close(handle)

    def allow_joins(self) -> None:
        """Searches may join from now on: what a killed one left has been read."""
        if self.exclusive and self.handle is not None:
            _remove(self.joined, self.handle)
            self.handle = None

    def close(self) -> None:
        if self.path is None:
            return
        if self.handle is not None:
            os.close(self.handle)
        if self.joined.exists() and (handle := _lock(self.joined, shared=False, wait=False)) is not None:
            _remove(_beside(self.path, "start"))
            _remove(self.joined, handle)


@contextlib.contextmanager
def lock_study(storage: str | Path | None, join: bool) -> Iterator[StudyLock]:
    """Keep other searches from the study's file inside the block, but for those that join.

    A study on a database server is not locked.

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
        joined = _beside(path, "joined")
        handle = _lock(joined, shared=not first, wait=not first)
        if handle is None and not join:
            raise LockedError(f"{path}: searches that joined it still run; wait for them, or join them with --join")
        lock = StudyLock(path, join, exclusive=first and handle is not None)
        lock.handle = handle
        stack.callback(lock.close)
        yield lock


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f".{path.name}.{name}.lock")


def _lock(path: Path, shared: bool, wait: bool) -> int | None:
    """The handle of a lock on a file that is created for it; None if another process holds it.

    Where the filesystem does not lock, the handle is returned all the same; `output_lock` has warned.
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
        os.close(handle)  # its last holder has just removed it


def _remove(path: Path, handle: int | None = None) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    if handle is not None:
        os.close(handle)
