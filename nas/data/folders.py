"""Folders of captioned clips and images, in the Hugging Face `videofolder` / `imagefolder` convention.

    data/metadata.csv (or metadata.jsonl)      file_name, text
    data/clip-1.mp4 ...                        any name and depth, as file_name says
    data/train/..., data/test/...              optional: each with its own metadata

Without a test folder every twentieth file, chosen by the hash of its name, is held out. Invalid rows are listed in
`skipped`; a file that cannot be decoded (corrupt, too short, not a video) raises `UnreadableSample`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nas.data.buckets import Size
from nas.data.file_source import FileSource, split_indices
from nas.data.metadata import IMAGES, MAX_NAME, READERS, VIDEOS, captions_in, kind_of
from nas.data.source import UnreadableSample
from nas.errors import ConfigError, suggestion
from nas.files import open_regular


@dataclass(frozen=True, slots=True)
class Entry:
    """A valid row of the metadata."""

    path: Path
    captions: tuple[str, ...]


class VideoFolder(FileSource):
    """The clips and images of a folder; see `FileSource`.

    Args:
        folder: contains `metadata.csv` or `metadata.jsonl`, or one folder per split that does.
        split: `train` or `test`.

    Raises:
        ConfigError: there is no metadata file, or none of its rows has a file name and a caption.
    """

    def __init__(self, folder: str | Path, split: str, buckets: Sequence[Size], fps: float) -> None:
        folder = Path(folder)
        super().__init__(folder, buckets, fps)
        has_splits = (folder / split).is_dir()
        used = folder / split if has_splits else folder
        self._roots = _roots({folder, used})
        all_entries = self._entries(used)
        self._items: dict[str, list[Entry]] = {"videos": [], "images": []}
        for kind, entries in self._items.items():
            of_kind = [entry for entry in all_entries if kind_of(entry.path.name) == kind]
            indices = (
                range(len(of_kind)) if has_splits else split_indices([entry.path.name for entry in of_kind], split)
            )
            entries += [of_kind[index] for index in indices]

    def count(self, kind: str) -> int:
        return len(self._items[kind])

    def name(self, kind: str, index: int) -> str:
        return str(self._items[kind][index].path)

    def captions(self, kind: str, index: int) -> tuple[str, ...]:
        return self._items[kind][index].captions

    def key(self, kind: str, index: int) -> str:
        return str(self._items[kind][index].path.relative_to(os.path.normpath(self.folder)))

    def open(self, kind: str, index: int) -> AbstractContextManager[BinaryIO]:
        path = self._items[kind][index].path
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in self._roots):
            raise UnreadableSample(str(path), f"is a link to {real}, outside the data folder; copy the file into it")
        return open_regular(real)

    def _entries(self, folder: Path) -> list[Entry]:
        """The valid rows of a folder's metadata; the others are added to `skipped`.

        Raises:
            ConfigError: there is no metadata file, or no valid row.
        """
        metadata = next((folder / name for name in READERS if (folder / name).exists()), None)
        if metadata is None:
            raise ConfigError(
                f"{folder}: contains neither metadata.csv nor metadata.jsonl; add one with the columns file_name, text"
            )
        entries: dict[Entry, None] = {}
        for line, row in READERS[metadata.name](metadata):
            try:
                entry = _entry(folder, row)
                if entry in entries:
                    raise ValueError(f"repeats {entry.path.name} with the same caption")
                entries[entry] = None
            except ValueError as error:
                self.skipped.append(UnreadableSample(f"{metadata}:{line}", str(error)))
        if self.skipped and not entries:
            raise ConfigError(str(self.skipped[0]))
        return list(entries)


def _entry(folder: Path, row: dict[str, Any] | str) -> Entry:
    """The entry of a row.

    Raises:
        ValueError: the row is invalid.
    """
    if isinstance(row, str):
        raise ValueError(row)
    name = row.get("file_name")
    if not name:
        raise ValueError(f"file_name: missing{suggestion('file_name', [key for key in row if key])}")
    if not isinstance(name, str):
        raise ValueError("file_name: must be text")
    captions = captions_in(row)
    if "\0" in name:
        raise ValueError("file_name: contains a zero byte")
    if len(name) > MAX_NAME:
        raise ValueError(f"file_name: {len(name)} characters are too long for a path")
    if kind_of(name) is None:
        known = " ".join(sorted(VIDEOS | IMAGES))
        raise ValueError(f"file_name: {name} has the suffix of neither a clip nor an image; known: {known}")
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"file_name: {name} is outside {folder}; move the file into it")
    return Entry(path, captions)


def _roots(folders: Iterable[Path]) -> list[Path]:
    """Folders that may contain the files of a data set: its own, and the blobs folder of a Hub cache snapshot."""
    roots = [folder.resolve() for folder in folders]
    snapshots = [root.parent.parent for root in roots if root.parent.name == "snapshots"]
    return roots + [repository / "blobs" for repository in snapshots]
