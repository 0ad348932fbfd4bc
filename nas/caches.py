"""Folders of this library in the user's cache folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nas.errors import ConfigError


def user_cache(name: str) -> Path:
    """A folder of this library in the user's cache folder.

    Raises:
        ConfigError: neither XDG_CACHE_HOME nor HOME is set.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # relative paths are to be ignored by the XDG standard
        return Path(named) / "nas" / name
    try:
        return Path.home() / ".cache" / "nas" / name
    except RuntimeError:
        raise ConfigError("HOME is not set; set it, or XDG_CACHE_HOME, to a folder for cached files") from None


def usable(cache: Path) -> Path:
    """Create the folder if it does not exist, and check that it is writable; return it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(bytes(4096))
    except OSError as error:
        fix = "free some space, or set XDG_CACHE_HOME to a writable folder"
        raise ConfigError(f"{cache}: the cache cannot be written: {error.strerror}; {fix}") from None
    return cache
