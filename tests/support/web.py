"""The browser and the libraries of the `web` runtime, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas import web_libraries
from nas.errors import MissingDependency
from nas.profiling.web import bundle_page, server

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


def short_timings(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let pages time models for 0.3 s where they take up to 8 s: a copy of the page in `folder`, for servers and bundles."""
    page = Path(shutil.copytree(server.PAGE, folder / "page"))
    script, times = (page / "measure.js").read_text(), "TIME_MS = [2500, 8000], PROBE_MS = [500, 2000]"
    assert times in script
    (page / "measure.js").write_text(script.replace(times, "TIME_MS = [100, 300], PROBE_MS = [100, 300]"))
    patch.setattr(server, "PAGE", page)
    patch.setattr(bundle_page, "PAGE", page)
