"""Captioned clips and images in files, at the sizes of a search space: what folders and shards have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from nas.training.buckets import Size
from nas.training.data import Sample, UnreadableSample
from nas.training.decoding import Undecodable, read_image, read_video

HELD_OUT = 20
"""Where nothing says what is held out, one item in so many is."""


class Clips(ABC):
    """A `Source` of clips and images in files; a subclass says what there is and how to open it.

    Clips are resampled to `fps`, scaled to cover the bucket nearest to their shape and cropped at the centre; which
    frames of a longer clip are taken is a function of the item's index. Where there are no images, single frames of
    the clips are the images.

    Args:
        buckets: the sizes that clips are brought to, the largest first.
    """

    channels = 3

    def __init__(self, buckets: Sequence[Size], fps: float) -> None:
        self.buckets, self.fps = tuple(buckets), fps
        self.frames, self.height, self.width = buckets[0].frames, buckets[0].height, buckets[0].width
        self.skipped: list[UnreadableSample] = []

    @abstractmethod
    def count(self, kind: str) -> int:
        """How many files of `videos` or of `images` there are."""

    @abstractmethod
    def name(self, kind: str, index: int) -> str:
        """What the item of `videos` or `images` is called in lists of what was skipped."""

    @abstractmethod
    def captions(self, kind: str, index: int) -> tuple[str, ...]:
        """One or more, each of which describes the item."""

    def caption(self, kind: str, index: int) -> str:
        return self.captions(kind, index)[0]

    @abstractmethod
    def open(self, kind: str, index: int) -> AbstractContextManager[BinaryIO]: ...

    @property
    def videos(self) -> int:
        return self.count("videos")

    @property
    def images(self) -> int:
        return self.count("images") or self.videos

    def video(self, index: int) -> Sample:
        share = float(np.random.default_rng((2, index)).random())
        return self._read("videos", index, lambda file: read_video(file, self.buckets, self.fps, share))

    def image(self, index: int) -> Sample:
        if self.count("images"):
            return self._read("images", index, lambda file: read_image(file, self.buckets))
        share = float(np.random.default_rng((3, index)).random())
        frames = [replace(bucket, frames=1) for bucket in self.buckets]
        return self._read("videos", index, lambda file: read_video(file, frames, self.fps, share))

    @abstractmethod
    def identity(self, kind: str, index: int) -> str:
        """What, beside its name, tells the item from another one, without opening it."""

    @property
    def hash(self) -> str:
        """Changes with what there is; files are not opened for it."""
        found = hashlib.sha256()
        for kind in ("videos", "images"):
            for index in range(self.count(kind)):
                line = f"{kind} {self.name(kind, index)} {self.identity(kind, index)}\n"
                found.update(line.encode(errors="replace"))
        return found.hexdigest()[:12]

    def _read(self, kind: str, index: int, read: Callable[[BinaryIO], np.ndarray]) -> Sample:
        name = self.name(kind, index)
        try:
            first, *others = self.captions(kind, index)
            if not first.strip():
                raise UnreadableSample(name, "has an empty caption")
            with self.open(kind, index) as file:
                return Sample(read(file), first, tuple(others))
        except Undecodable as error:
            raise UnreadableSample(name, str(error)) from None
        except FileNotFoundError:
            raise UnreadableSample(name, "no such file") from None
        except OSError as error:
            raise UnreadableSample(name, f"cannot be read ({error.strerror or error})") from None


def of_split(names: Sequence[str], split: str) -> list[int]:
    """Places of the names that belong to `train` or `test` where nothing else says: one in twenty, by hash, is held out.

    Of a few names at least one is held out. Items of one name go the same way.
    """
    digests = [int(hashlib.sha256(name.encode(errors="replace")).hexdigest(), 16) for name in names]
    held = {digest for digest in digests if digest % HELD_OUT == 0}
    if not held and len(set(digests)) > 1:
        held = {min(digests)}
    return [place for place, digest in enumerate(digests) if (digest in held) == (split == "test")]
