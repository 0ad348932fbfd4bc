"""The browser and the libraries of the `web` runtime, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas import web_libraries
from nas.errors import MissingDependency

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def chromium() -> str:
    """The path of a Chromium; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on PATH: apt-get install chromium")
    return CHROMIUM


def own_cache(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Use another cache folder than the user's, with the JavaScript libraries that are installed there."""
    try:
        libraries = web_libraries.folder()
    except MissingDependency:
        libraries = None
    patch.setenv("XDG_CACHE_HOME", str(folder))
    if libraries is not None:
        link = folder / "nas/web" / libraries.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(libraries)
