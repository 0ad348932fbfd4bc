"""Captioned clips and images in files, at the sizes of a search space: what folders and shards have in common."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nas.data.buckets import Size
from nas.data.frame_conversion import DecodingError
from nas.data.image_reader import read_image
from nas.data.source import Sample, UnreadableSample
from nas.data.video_reader import read_video
from nas.errors import ConfigError, NasError
from nas.progress import progress

WHOLE, PLACES = 1 << 18, 4
"""Bytes up to which a file is hashed whole, and from how many places of a larger one as many are taken."""
ENVIRONMENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
"""Errors of the machine, of which no clip is to blame."""
SLOW = 2000
"""Files whose check takes long enough for a bar."""
HELD_OUT = 20
"""Where nothing says what is held out, one item in so many is."""


class FileSource(ABC):
    """A `Source` of clips and images in files; a subclass says what there is and how to open it.

    Clips are resampled to `fps`, scaled to cover the bucket nearest to their shape and cropped at the centre; which
    frames of a longer clip are taken is a function of the item's index. Where there are no images, single frames of
    the clips are the images.

    Args:
        folder: the data set's.
        buckets: the sizes that clips are brought to, the largest first.
    """

    channels = 3

    def __init__(self, folder: Path, buckets: Sequence[Size], fps: float) -> None:
        self.folder = folder
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
    def key(self, kind: str, index: int) -> str:
        """Where the item lies within the data, wherever that is."""

    @cached_property
    def hash(self) -> str:
        """Changes with what there is: names, captions, and the content of the files (see `content_hash`)."""
        found = hashlib.sha256()
        items = [(kind, index) for kind in ("videos", "images") for index in range(self.count(kind))]
        bar = progress(items, "check the data", unit="file") if len(items) > SLOW else items
        for kind, index in bar:
            try:
                captions = repr(self.captions(kind, index))
                with self.open(kind, index) as file:
                    content = content_hash(file)
            except (UnreadableSample, OSError) as error:
                captions, content = "", f"unreadable: {type(error).__name__}"
            line = f"{kind} {self.key(kind, index)} {captions} {content}\n"
            found.update(line.encode(errors="backslashreplace"))
        return found.hexdigest()[:12]

    def _read(self, kind: str, index: int, read: Callable[[BinaryIO], np.ndarray]) -> Sample:
        name = self.name(kind, index)
        try:
            first, *others = self.captions(kind, index)
            if not first.strip():
                raise UnreadableSample(name, "has an empty caption")
            with self.open(kind, index) as file:
                return Sample(read(file), first, tuple(others))
        except DecodingError as error:
            raise UnreadableSample(name, str(error)) from None
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise ConfigError(f"{self.folder}: the data are no longer there; run again when they are") from None
            raise UnreadableSample(name, "no such file") from None
        except OSError as error:
            if error.errno in ENVIRONMENT:
                raise NasError(f"{name}: cannot be read: {error.strerror}; repair that and run again") from None
            raise UnreadableSample(name, f"cannot be read ({error.strerror or error})") from None


def content_hash(file: BinaryIO) -> str:
    """Tells a file's content from another's, reading no more than a few places of a large one.

    A file of up to `WHOLE` bytes is its bytes alone, so that a copy or a checkout elsewhere is the same; of a larger one
    the time of its last change counts as well.
    """
    size = file.seek(0, io.SEEK_END)
    found = hashlib.sha256(f"{size}".encode())
    if size <= WHOLE:
        starts, length = [0], WHOLE
    else:
        length = WHOLE // PLACES
        starts = [place * (size - length) // (PLACES - 1) for place in range(PLACES)]
        found.update(f" {os.fstat(file.fileno()).st_mtime_ns}".encode())
    for start in starts:
        file.seek(start)
        found.update(file.read(length))
    return found.hexdigest()


def split_indices(names: Sequence[str], split: str) -> list[int]:
    """Places of the names that belong to `train` or `test` where nothing else says: one in twenty, by hash, is held out.

    Of a few names at least one is held out. Items of one name go the same way.
    """
    digests = [int(hashlib.sha256(name.encode(errors="replace")).hexdigest(), 16) for name in names]
    held = {digest for digest in digests if digest % HELD_OUT == 0}
    if not held and len(set(digests)) > 1:
        held = {min(digests)}
    return [place for place, digest in enumerate(digests) if (digest in held) == (split == "test")]
