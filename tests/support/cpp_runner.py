"""Builds and runs the C++ program of apps/cpp."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest
from PIL import Image

from tests.support.exported import built_once

SOURCES = Path(__file__).parents[2] / "apps"
LIBRARY = Path(ai_edge_litert.__file__).with_name("libLiteRt.so")


def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built programs `nas-clip` and `check-golden`, compiled once for all processes of a test run."""

    def compile_in(folder: Path) -> None:
        # Not optimized, and the library as one source file: a third of the time of an optimized build.
        options = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", "-DCMAKE_UNITY_BUILD=ON"]
        for command in (["-S", str(SOURCES / "cpp"), "-B", str(folder), *options], ["--build", str(folder)]):
            done = subprocess.run(["cmake", *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

    return built_once(tmp_path_factory, "cpp_runner", compile_in)


def make_clip(programs: Path, folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nas-clip` with the library of the installed ai-edge-litert."""
    options = ["--library", str(LIBRARY), "--export", str(folder), "--out", str(out)]
    return subprocess.run([str(programs / "nas-clip"), *options, *arguments], capture_output=True, text=True)


def read_png(path: Path) -> np.ndarray:
    """uint8 `(T, H, W, C)` of an animated PNG."""
    with Image.open(path) as image:
        frames = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            frames.append(np.asarray(image.convert(image.mode if image.mode == "L" else "RGB")))
    return np.stack(frames).reshape(*np.stack(frames).shape[:3], -1)
