"""The page of a bundle: its files, and the records that it writes."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas import web_libraries
from nas.config import AtLeast0
from nas.errors import ConfigError
from nas.files import write_atomic
from nas.profiling.web.messages import About, ModelResult, Ms, Screen, Visit, VisitFailure, VisitResult, check_result
from nas.profiling.web.server import PAGE
from nas.profiling.web.settings import Settings, chip, device_name, engine, provenance

SCRIPTS = ("bundle.js", "measure.js", "sha256.js", "view.js", "worker.js", "style.css")
SAMPLES = 5
"""Samples of a visit, as `bundle.js` asks for them."""
BUILDS = ("", "compat")
"""Builds of LiteRT.js in a bundle: threads need headers that few static hosts send."""


@dataclass(frozen=True)
class WebRecord:
    """One visit to one workload.

    Attributes:
        visit: round, and index of the package.
        workload: its key.
        about: the browser.
        build: of LiteRT.js.
        screen: whether the screen was kept on.
        loaded: in the first round, the models each in a fresh worker, for their memory.
        result: of the timed models.
        reference_ms: latency of the reference workload meanwhile.
        error: why the visit failed.
    """

    visit: tuple[AtLeast0, AtLeast0]
    workload: str
    about: About
    build: Literal["", "compat"]
    screen: Screen
    loaded: tuple[ModelResult, ...] = ()
    result: VisitResult | None = None
    reference_ms: Ms | None = None
    error: VisitFailure | None = None

    def __post_init__(self) -> None:
        if self.error is None and (self.result is None or self.reference_ms is None):
            raise ConfigError("expected an 'error', or 'result' and 'reference_ms'")

    def check(self, sizes: tuple[int, ...], where: str) -> None:
        """Check that the results can be of files of these sizes.

        Raises:
            ConfigError: they cannot.
        """
        if self.error is not None:
            return
        visits = [(self.result, SAMPLES)]
        if self.loaded:
            visits.append((VisitResult(self.loaded, True), 0))
        for result, samples in visits:
            visit = Visit(("",) * len(sizes), samples, self.build, 1, 0.0)
            try:
                check_result(result, visit, sizes, math.inf)
            except ConfigError as error:
                raise ConfigError(f"{where}: {str(error).removeprefix('message: ')}") from None

    def host(self, library: str | None) -> dict[str, Any]:
        """Provenance for a table; `library` is the version of LiteRT.js."""
        about = self.about
        settings = Settings(device_name(about), chip(about), engine(about), self.build, 1)
        return {**provenance(settings, about), "version": f"LiteRT.js {library}", "screen": self.screen}


def write_page(out: Path) -> list[str]:
    """Write the page and LiteRT.js into a bundle; return the names of the files.

    Raises:
        MissingDependency: LiteRT.js is not installed.
    """
    library = web_libraries.folder()
    page = (PAGE / "index.html").read_text(encoding="utf-8").replace('"live.js"', '"bundle.js"')
    write_atomic(out / "index.html", page)
    for name in SCRIPTS:
        shutil.copyfile(PAGE / name, out / name)
    (out / "library").mkdir()
    names = ["litert.js", "litert_loader.js", "licenses.txt"]
    names += [name for build in BUILDS for name in web_libraries.wasm_files(build)]
    for name in names:
        shutil.copyfile(library / name, out / "library" / name)
    return ["index.html", *SCRIPTS, *(f"library/{name}" for name in names)]
