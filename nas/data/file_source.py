"""Base class of the sources that read captioned clips and images from files, resized to the sizes of a search space."""

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

FULL_HASH_BYTES, SAMPLED_CHUNKS = 1 << 18, 4
"""Files up to this size are hashed completely; of larger ones this many chunks, of this size in all, are hashed."""
SYSTEM_ERRORS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
}
"""Errors of the machine, not of a file: they end the run instead of skipping a clip."""
PROGRESS_FILES = 2000
"""From this number of files on, hashing them shows a progress bar."""
HELD_OUT = 20
"""Without a test folder, one item in this many is held out."""


class FileSource(ABC):
    """A `Source` of clips and images in files; subclasses list the files and open them.

    Clips are resampled to `fps`, scaled to cover the bucket of the nearest aspect ratio and center-cropped. Which
    frames of a longer clip are used is a function of the item's index. Without images, single frames of the clips serve
    as images.

    Args:
        folder: folder of the data set.
        buckets: sizes that clips are resized to, the largest first.
        fps: frames per second that clips are resampled to.
    """

    channels = 3

    def __init__(self, folder: Path, buckets: Sequence[Size], fps: float) -> None:
        self.folder = folder
        self.buckets, self.fps = tuple(buckets), fps
        self.frames, self.height, self.width = buckets[0].frames, buckets[0].height, buckets[0].width
        self.skipped: list[UnreadableSample] = []

    @abstractmethod
    def count(self, kind: str) -> int:
        """Number of files of a kind, `videos` or `images`."""

    @abstractmethod
    def name(self, kind: str, index: int) -> str:
        """Name of an item in the list of skipped files."""

    @abstractmethod
    def captions(self, kind: str, index: int) -> tuple[str, ...]:
        """The captions of an item, at least one."""

    def caption(self, kind: str, index: int) -> str:
        """The first caption of an item."""
        return self.captions(kind, index)[0]

    @abstractmethod
    def open(self, kind: str, index: int) -> AbstractContextManager[BinaryIO]:
        """Open the file of an item for reading."""

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
        """Path of an item relative to the data set, which does not change when the data set is moved."""

    @cached_property
    def hash(self) -> str:
        """Hash of the names, the captions and the content of the files (see `content_hash`)."""
        digest = hashlib.sha256()
        items = [(kind, index) for kind in ("videos", "images") for index in range(self.count(kind))]
        bar = progress(items, "hash the data", unit="file") if len(items) > PROGRESS_FILES else items
        for kind, index in bar:
            try:
                captions = repr(self.captions(kind, index))
                with self.open(kind, index) as file:
                    content = content_hash(file)
            except (UnreadableSample, OSError) as error:
                captions, content = "", f"unreadable: {type(error).__name__}"
            line = f"{kind} {self.key(kind, index)} {captions} {content}\n"
            digest.update(line.encode(errors="backslashreplace"))
        return digest.hexdigest()[:12]

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
                raise ConfigError(
                    f"{self.folder}: the data folder no longer exists; restore it and run again"
                ) from None
            raise UnreadableSample(name, "no such file") from None
        except OSError as error:
            if error.errno in SYSTEM_ERRORS:
                raise NasError(f"{name}: cannot be read: {error.strerror}; fix this and run again") from None
            raise UnreadableSample(name, f"cannot be read ({error.strerror or error})") from None


def content_hash(file: BinaryIO) -> str:
    """Hash of a file's content that reads only a few chunks of a large file.

    A file of up to `FULL_HASH_BYTES` is hashed by its bytes alone, so a copy has the same hash; of a larger one the
    modification time is hashed too.
    """
    size = file.seek(0, io.SEEK_END)
    digest = hashlib.sha256(f"{size}".encode())
    if size <= FULL_HASH_BYTES:
        starts, length = [0], FULL_HASH_BYTES
    else:
        length = FULL_HASH_BYTES // SAMPLED_CHUNKS
        starts = [chunk * (size - length) // (SAMPLED_CHUNKS - 1) for chunk in range(SAMPLED_CHUNKS)]
        digest.update(f" {os.fstat(file.fileno()).st_mtime_ns}".encode())
    for start in starts:
        file.seek(start)
        digest.update(file.read(length))
    return digest.hexdigest()


def split_indices(names: Sequence[str], split: str) -> list[int]:
    """Indices of the names that belong to the `train` or `test` split: one name in twenty, by its hash, is held out.

    At least one is held out if there are two different names. Equal names are in the same split.
    """
    digests = [int(hashlib.sha256(name.encode(errors="replace")).hexdigest(), 16) for name in names]
    held = {digest for digest in digests if digest % HELD_OUT == 0}
    if not held and len(set(digests)) > 1:
        held = {min(digests)}
    return [index for index, digest in enumerate(digests) if (digest in held) == (split == "test")]
