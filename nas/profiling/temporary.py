"""Temporary folders that are also deleted after their process was killed: by the next process that creates one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from nas.errors import NasError
from nas.locks import try_lock

LOCK_FILE = ".owner"
"""A file in the folder that its process holds a lock on."""
UNLOCKED_AGE_S = 24 * 3600.0
"""A folder without that file is deleted when it was not modified for this long."""


class TemporaryFolder:
    """A folder in the system's folder for temporary files.

    Args:
        prefix: of its name. Folders with this prefix whose processes have ended are deleted.

    Attributes:
        path: the folder.

    Raises:
        NasError: it cannot be created.
    """

    def __init__(self, prefix: str) -> None:
        try:
            _remove_abandoned(prefix)
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
        except OSError as error:
            raise NasError(
                f"cannot create a temporary folder: {error}; free some space, or set TMPDIR to another folder"
            ) from None
        self.handle = self._own()

    def close(self) -> None:
        """Delete the folder. Closing twice is allowed."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def _own(self) -> int | None:
        """Create and lock the lock file. It gets its name when it is locked, so that no other process sees it unlocked."""
        with contextlib.suppress(OSError):  # a filesystem without locks: the folder is deleted after a day
            handle = os.open(self.path / f"{LOCK_FILE}.new", os.O_RDWR | os.O_CREAT, 0o600)
            try_lock(handle)
            os.rename(self.path / f"{LOCK_FILE}.new", self.path / LOCK_FILE)
            return handle
        return None


def _remove_abandoned(prefix: str) -> None:
    """Delete temporary folders whose process has ended without deleting them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # of another user, or deleted by another process just now
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
                continue
            if (folder / LOCK_FILE).is_file():
                handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    abandoned = try_lock(handle)
                finally:
                    os.close(handle)
            else:
                abandoned = time.time() - folder.stat().st_mtime > UNLOCKED_AGE_S
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)
