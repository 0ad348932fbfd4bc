"""Temporary folders that do not outlive their process: what a killed one left is deleted by the next."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from nas.errors import NasError
from nas.locks import try_lock

OWNER = ".owner"
"""A file of the folder that its process keeps locked for as long as it lives."""
UNKNOWN_S = 24 * 3600.0
"""A folder without that file is deleted when nothing was put into it for so long."""


class Scratch:
    """A folder for temporary files, beside those of other programs.

    Args:
        prefix: of its name. Folders of that prefix whose processes are dead are deleted.

    Attributes:
        path: the folder.

    Raises:
        NasError: there is no place for temporary files.
    """

    def __init__(self, prefix: str) -> None:
        try:
            remove_abandoned(prefix)
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
        except OSError as error:
            raise NasError(
                f"no temporary folder can be made: {error}; free some space there, or set TMPDIR to another folder"
            ) from None
        self.handle = self._own()

    def close(self) -> None:
        """Delete the folder. Closing twice is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def _own(self) -> int | None:
        """Lock the owner's file; under another name until it is locked, so that nobody finds it unlocked."""
        with contextlib.suppress(OSError):  # a filesystem that does not lock: the folder is deleted after a day
            handle = os.open(self.path / f"{OWNER}.new", os.O_RDWR | os.O_CREAT, 0o600)
            try_lock(handle)
            os.rename(self.path / f"{OWNER}.new", self.path / OWNER)
            return handle
        return None


def remove_abandoned(prefix: str) -> None:
    """Delete temporary folders whose process has ended without deleting them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # of another user, or deleted by another process just now
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
                continue
            if (folder / OWNER).is_file():
                handle = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    abandoned = try_lock(handle)
                finally:
                    os.close(handle)
            else:
                abandoned = time.time() - folder.stat().st_mtime > UNKNOWN_S
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)
