"""Moving digits, the data set of the demo: handwritten digits of scikit-learn that move in one of four directions."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from nas.data.source import Sample
from nas.errors import ConfigError, MissingDependency

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Name to (dy, dx); their order is the classifier's order of classes."""

SIZE, DIGIT, SPEED = 32, 16, 1
"""Pixels: side of the canvas, side of a digit, and how far it moves per frame."""


def caption(digit: int, direction: str | None = None) -> str:
    """Caption of a clip, or of an image if `direction` is None."""
    return f"the digit {WORDS[digit]}" + (f" moves {direction}" if direction else "")


LABELS = tuple((digit, direction) for digit in range(len(WORDS)) for direction in range(len(DIRECTIONS)))
"""Every (digit, direction) that a clip can show."""


def caption_of(label: tuple[int, int]) -> str:
    """Caption of a clip with this (digit, direction)."""
    return caption(label[0], list(DIRECTIONS)[label[1]])


class MovingDigits:
    """Clips `(1, frames, 32, 32)` of one digit moving left, right, up or down; images are its clips' single frames.

    What leaves the canvas on one side enters on the opposite one, so that a clip of any length moves as its caption says.

    Every fifth image of the data set is held out: clips of the test split show digits that are not in the train split.
    A clip is a function of its index alone, so nothing needs to be stored.

    Args:
        split: `train` or `test`.
        frames: length of a clip.

    Raises:
        ConfigError: an unknown split.
        MissingDependency: scikit-learn is not installed.
    """

    channels, height, width = 1, SIZE, SIZE
    skipped = ()

    def __init__(self, split: str = "train", frames: int = 8) -> None:
        _check_split(split)
        self.split, self.frames = split, frames

    @cached_property
    def _digits(self) -> tuple[np.ndarray, np.ndarray]:
        """Images `(N, 16, 16)` in [-1, 1] and their labels `(N,)`."""
        from scipy.ndimage import zoom

        images, labels = _split_images(self.split)
        images = zoom(images / 8 - 1, (1, 2, 2), order=1, mode="nearest", grid_mode=True)
        return images.astype(np.float32), labels

    @property
    def videos(self) -> int:
        return 4 * len(self._digits[0])

    images = videos

    def labels(self, index: int) -> tuple[int, int]:
        """(digit, direction) of the clip at `index`."""
        return int(self._digits[1][index // 4]), index % 4

    def video(self, index: int) -> Sample:
        return Sample(self._render(index), caption_of(self.labels(index)))

    def image(self, index: int) -> Sample:
        digit, _ = self.labels(index)
        frame = np.random.default_rng((1, index)).integers(self.frames)
        return Sample(self._render(index)[:, frame : frame + 1], caption(digit))

    def _render(self, index: int) -> np.ndarray:
        dy, dx = list(DIRECTIONS.values())[index % 4]
        random = np.random.default_rng((0, index))
        # Across its path a digit is inside the canvas; along it, it starts anywhere, also partly outside.
        y, x = (random.integers(SIZE if moving else SIZE - DIGIT + 1) for moving in (dy, dx))
        first = np.full((SIZE, SIZE), -1, np.float32)
        first[:DIGIT, :DIGIT] = self._digits[0][index // 4]
        steps = SPEED * np.arange(self.frames)
        return np.stack([np.roll(first, (y + dy * step, x + dx * step), (0, 1)) for step in steps])[None]


def handwritten(split: str) -> dict[str, np.ndarray]:
    """The handwritten images `(N, 8, 8)` of each digit, by its word, from 0 (paper) to 1 (ink).

    Raises:
        ConfigError: an unknown split.
        MissingDependency: scikit-learn is not installed.
    """
    _check_split(split)
    images, labels = _split_images(split)
    return {word: images[labels == digit] / 16 for digit, word in enumerate(WORDS)}


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ConfigError(f"digits: unknown split '{split}'; known: train, test")


def _split_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, 8, 8)` from 0 to 16 and their labels `(N,)`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependency("scikit-learn is not installed; run: pip install 'nas-video[demo]'") from None
    data = load_digits()
    held_out = np.arange(len(data.images)) % 5 == 0
    chosen = held_out if split == "test" else ~held_out
    return data.images[chosen], data.target[chosen]
