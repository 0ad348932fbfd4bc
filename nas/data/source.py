"""Captioned clips and images, and which of them a step sees.

A `Source` is finite and indexable. Which items step `s` of a run sees is a function of (seed, s) alone, so a resumed
run goes on with the very batch it would have seen, in constant time, with nothing to fast-forward.
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
        others: further captions of the same pixels; each epoch of training sees one of all.
    """

    pixels: np.ndarray
    caption: str
    others: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.caption, *self.others)


def _printable(text: str) -> str:
    """Names of files may be no Unicode; lists and notes must be."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str, most: int) -> str:
    """One line of at most so many characters: what a broken file holds may be very long."""
    text = " ".join(text[: 4 * most].split())
    return text if len(text) <= most else text[: most - 3] + "..."


class UnreadableSample(NasError):
    """One clip or image cannot be used; what reads a source goes on without it and lists it.

    Attributes:
        file: its path, or its place in a shard.
        reason: what is wrong with it.
    """

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = _printable(file), shorten(_printable(reason), 300)
        super().__init__(f"{self.file}: {self.reason}")


class Source(Protocol):
    """A finite set of captioned clips and of captioned images; `video(i)` and `image(i)` depend on `i` alone.

    Both raise `UnreadableSample` for an item that cannot be used. `skipped` is what is known to be unusable from the
    start and is no item. Clips may be of several sizes: `frames`, `height` and `width` are the largest one's.
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
    """Items of step `step`: `batch` of `count`, each item once per epoch, shuffled anew every epoch."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_permutation(seed, place // count, count)[place % count]) for place in places]


def bucket_batch(seed: int, step: int, batch: int, counts: Sequence[int]) -> tuple[int, list[int]]:
    """The bucket of step `step`, and `batch` of that bucket's items: a batch is of one bucket and always full.

    An epoch holds, in random order, as many batches of each bucket as its items have filled since the run began:
    bucket b with n items has given floor(e n / batch) batches after e epochs. So every item is seen once per epoch;
    what does not fill a batch waits for the next epoch. One bucket alone is exactly `batch_indices`.

    Args:
        counts: items of each bucket.
    """
    counts = tuple(counts)
    if len(counts) == 1:
        return 0, batch_indices(seed, step, batch, counts[0])
    epoch = step * batch // sum(counts)  # or a later one, as unfilled batches make the first epochs shorter
    while _batches_before(epoch + 1, batch, counts).sum() <= step:
        epoch += 1
    before = _batches_before(epoch, batch, counts)
    order, rank = _bucket_order(seed, epoch, batch, counts)
    place = step - int(before.sum())
    bucket = int(order[place])
    return bucket, batch_indices(seed + bucket, int(before[bucket] + rank[place]), batch, counts[bucket])


def _batches_before(epoch: int, batch: int, counts: tuple[int, ...]) -> np.ndarray:
    """Batches that each bucket has given before an epoch."""
    return np.array([epoch * count // batch for count in counts])


@lru_cache(maxsize=8)
def _bucket_order(seed: int, epoch: int, batch: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each batch of an epoch, and how many batches of that bucket come before it in the epoch."""
    given = _batches_before(epoch + 1, batch, counts) - _batches_before(epoch, batch, counts)
    order = np.random.default_rng((seed, epoch, len(counts))).permutation(np.repeat(np.arange(len(counts)), given))
    rank = np.empty_like(order)
    for bucket, many in enumerate(given):
        rank[order == bucket] = np.arange(many)
    return order, rank
