"""Captioned clips and images, and which of them a step sees.

A `Source` is finite and indexable. Which items step `s` of a run sees is a function of (seed, s) alone, so a resumed
run goes on with the very batch it would have seen, in constant time, with nothing to fast-forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from nas.errors import NasError


@dataclass(frozen=True)
class Sample:
    """Pixels `(C, T, H, W)` in [-1, 1], float32, and the caption. An image is a clip with T = 1."""

    pixels: np.ndarray
    caption: str


class UnreadableSample(NasError):
    """One clip or image cannot be used; what reads a source goes on without it and lists it."""


class Source(Protocol):
    """A finite set of captioned clips and of captioned images; `video(i)` and `image(i)` depend on `i` alone.

    Both raise `UnreadableSample` for an item that cannot be used.
    """

    channels: int
    frames: int
    height: int
    width: int
    videos: int
    images: int

    def video(self, index: int) -> Sample: ...

    def image(self, index: int) -> Sample: ...


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """Items of step `step`: `batch` of `count`, each item once per epoch, shuffled anew every epoch."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_permutation(seed, place // count, count)[place % count]) for place in places]
