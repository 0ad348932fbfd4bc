"""The `Source` protocol for captioned clips and images, and the order in which training steps see its items.

A `Source` is finite and indexable. The items of step `s` are a function of (seed, s) alone, so a resumed run continues
with the batch it would have seen, in constant time, without fast-forwarding a loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from nas.errors import NasError


@dataclass(frozen=True)
class Sample:
    """Pixels `(C, T, H, W)` in [-1, 1], float32, and the caption. An image is a clip with T = 1.

    Attributes:
        others: further captions of the same pixels; each epoch of training uses one of all captions.
    """

    pixels: np.ndarray
    caption: str
    others: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.caption, *self.others)


def _printable(text: str) -> str:
    """Escape what is not valid Unicode, which file names may contain."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str, limit: int) -> str:
    """The text as one line of at most `limit` characters: values from a broken file may be very long."""
    text = " ".join(text[: 4 * limit].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


class UnreadableSample(NasError):
    """A clip or image cannot be used; readers of a source skip it and list it.

    Attributes:
        file: its path, or its path inside a shard.
        reason: why it cannot be used.
    """

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = _printable(file), shorten(_printable(reason), 300)
        super().__init__(f"{self.file}: {self.reason}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.file, self.reason)


class Source(Protocol):
    """A finite set of captioned clips and of captioned images; `video(i)` and `image(i)` depend on `i` alone.

    Both raise `UnreadableSample` for an item that cannot be used. `skipped` lists what was found
    unusable on construction and has no index. Clips may have several sizes: `frames`, `height` and `width` are those of
    the largest.
    """

    channels: int
    frames: int
    height: int
    width: int
    videos: int
    images: int
    skipped: Sequence[UnreadableSample]

    def video(self, index: int) -> Sample: ...

    def image(self, index: int) -> Sample: ...


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """Indices of the items of a step: `batch` of `count`, each item once per epoch, reshuffled every epoch."""
    positions = range(step * batch, (step + 1) * batch)
    return [int(_permutation(seed, position // count, count)[position % count]) for position in positions]


def bucket_batch(seed: int, step: int, batch: int, counts: Sequence[int]) -> tuple[int, list[int]]:
    """The bucket of a step and the indices of `batch` of its items: all items of a batch are from one bucket.

    Batches of the buckets come in random order. After e epochs a bucket of n items has given floor(e n / batch) batches:
    every item is seen once per epoch, and items that do not fill a batch are carried over to the next epoch. With one
    bucket this is `batch_indices`.

    Args:
        counts: number of items of each bucket.
    """
    counts = tuple(counts)
    if len(counts) == 1:
        return 0, batch_indices(seed, step, batch, counts[0])
    epoch = step * batch // sum(counts)  # or a later one: carried-over items shorten the first epochs
    while _batches_before(epoch + 1, batch, counts).sum() <= step:
        epoch += 1
    before = _batches_before(epoch, batch, counts)
    order, rank = _bucket_order(seed, epoch, batch, counts)
    position = step - int(before.sum())
    bucket = int(order[position])
    return bucket, batch_indices(seed + bucket, int(before[bucket] + rank[position]), batch, counts[bucket])


def _batches_before(epoch: int, batch: int, counts: tuple[int, ...]) -> np.ndarray:
    """Number of batches of each bucket before an epoch."""
    return np.array([epoch * count // batch for count in counts])


@lru_cache(maxsize=8)
def _bucket_order(seed: int, epoch: int, batch: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each batch of an epoch, and the number of earlier batches of that bucket in the epoch."""
    batches = _batches_before(epoch + 1, batch, counts) - _batches_before(epoch, batch, counts)
    order = np.random.default_rng((seed, epoch, len(counts))).permutation(np.repeat(np.arange(len(counts)), batches))
    rank = np.empty_like(order)
    for bucket, number in enumerate(batches):
        rank[order == bucket] = np.arange(number)
    return order, rank
