"""What a page measures with: device, engine and wasm build, from the page's description; for a table's provenance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from nas import web_libraries
from nas.errors import NasError
from nas.profiling.web.messages import About

BUILDS = {"": "relaxed SIMD", "compat": "SIMD", "threaded": "relaxed SIMD and threads"}
"""Names of the builds of LiteRT.js in a table's metadata."""
MEMORY = (
    "high-water mark of the wasm heap: the last byte ever written to in a fresh worker, less the file, inputs, outputs and "
    "weights"
)


@dataclass(frozen=True)
class Settings:
    """What must be equal for the rows of one table.

    Attributes:
        device: its name.
        chip: its processor, as far as the browser tells.
        engine: the browser's engine and its major version.
        build: of LiteRT.js.
        threads: of the interpreter.
    """

    device: str
    chip: str
    engine: str
    build: str
    threads: int

    @property
    def text(self) -> str:
        """For a person."""
        return f"{self.device}, {self.engine}, {BUILDS[self.build]}, {self.chip}"


def settings_of(about: About, device: str, threads: int) -> Settings:
    """The settings of a page.

    Args:
        device: the name that the user gave; empty to name it after the browser's description.

    Raises:
        NasError: the page cannot use so many threads; the message says what it needs.
    """
    if threads > 1 and not (about.isolated and about.relaxed_simd):
        missing = "https or localhost" if not about.isolated else "relaxed SIMD, which this browser does not have"
        fix = "run 'nas profile' with --https" if not about.isolated else "run 'nas profile' with --threads 1"
        raise NasError(f"{threads} threads need {missing}: {fix}")
    build = "threaded" if threads > 1 else "" if about.relaxed_simd else "compat"
    return Settings(device or device_name(about), chip(about), engine(about), build, threads)


def engine(about: About) -> str:
    """The browser's engine with its major version, such as `Chromium 156`. On an iPhone every browser uses WebKit."""
    agent = about.user_agent
    if ios := re.search(r"(?:iPhone|iPad|iPod).* OS (\d+)_(\d+)", agent):
        version = re.search(r"Version/(\d+\.\d+)", agent)
        return f"WebKit {version[1] if version else f'of iOS {ios[1]}.{ios[2]}'}"
    for pattern, name in (
        (r"Firefox/(\d+)", "Gecko"),
        (r"(?:Chrome|Chromium)/(\d+)", "Chromium"),
        (r"Version/(\d+\.\d+).*Safari/", "WebKit"),
    ):
        if found := re.search(pattern, agent):
            return f"{name} {found[1]}"
    return "unknown engine"


def device_name(about: About) -> str:
    """The model that the browser tells, or the kind of device."""
    if about.model.strip():
        return about.model.strip()
    if kind := re.search(r"iPhone|iPad|iPod", about.user_agent):
        return kind[0]
    system = operating_system(about).partition(" ")[0]
    if system == "macOS" and about.touch:
        return "iPad"
    return "Android device" if system == "Android" else f"{system} computer"


def chip(about: About) -> str:
    """The processor, as far as the browser tells."""
    return f"{about.architecture or 'unknown processor'}, {about.cores or 'unknown number of'} cores"


def operating_system(about: About) -> str:
    """Its name, and its version where the browser tells it."""
    if about.platform:
        return f"{about.platform} {about.platform_version}".strip()
    if ios := re.search(r"(?:iPhone|iPad|iPod).* OS (\d+)_(\d+)", about.user_agent):
        return f"iOS {ios[1]}.{ios[2]}"
    names = {"Android": "Android", "Windows": "Windows", "Macintosh": "macOS", "CrOS": "ChromeOS", "Linux": "Linux"}
    return next((name for word, name in names.items() if word in about.user_agent), "unknown")


def provenance(settings: Settings, about: About) -> dict[str, Any]:
    """A table's metadata."""
    return {
        "runtime": "web",
        "version": f"LiteRT.js {web_libraries.versions()['@litertjs/core']}",
        "device": settings.device,
        "chip": settings.chip,
        "os": operating_system(about),
        "threads": settings.threads,
        "engine": settings.engine,
        "wasm": BUILDS[settings.build],
        "accelerator": "none: WebAssembly on the CPU",
        "browser": about.browser or settings.engine,
        "isolated": about.isolated,
        "clock_ms": about.clock_ms,
        "clock": "performance.now of a worker: wall-clock time, the fastest tenth of 2.5 to 8 s",
        "memory": MEMORY,
        "buffers": "kept",
    }
