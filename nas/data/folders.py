"""Folders of captioned clips and images, in the Hugging Face `videofolder` / `imagefolder` convention.

    data/metadata.csv (or metadata.jsonl)      file_name, text
    data/clip-1.mp4 ...                        any name and depth, as file_name says
    data/clip-1.txt ...                        the captions of rows without one; without metadata, of all files
    data/train/..., data/test/...              optional: each with its own metadata or captions

Without a test folder every twentieth file, chosen by the hash of its name, is held out. Invalid rows are listed in
`skipped`; a file that cannot be decoded (corrupt, too short, not a video) raises `UnreadableSample`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nas.data.buckets import Size
from nas.data.file_source import FileSource, split_indices
from nas.data.metadata import CAPTION_KEYS, IMAGES, MAX_NAME, READERS, VIDEOS, captions_in, kind_of, read_caption
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
        folder: contains `metadata.csv`, `metadata.jsonl` or clips with text files beside them, or one folder per split
            that does.
        split: `train` or `test`.

    Raises:
        ConfigError: there is neither a metadata file nor a caption, or no row has a file name and a caption.
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
        try:
            return open_regular(self._real(path))
        except ValueError as error:
            raise UnreadableSample(str(path), str(error)) from None

    def _real(self, path: Path) -> Path:
        """Where a path leads to.

        Raises:
            ValueError: out of the data folder.
        """
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in self._roots):
            raise ValueError(f"is a link to {real}, outside the data folder; copy the file into it")
        return real

    def _entries(self, folder: Path) -> list[Entry]:
        """The valid rows of a folder's metadata; the others are added to `skipped`.

        Raises:
            ConfigError: there is neither a metadata file nor a caption beside a file, or no valid row.
        """
        entries: dict[Entry, None] = {}
        for where, row in self._rows(folder):
            try:
                entry = self._entry(folder, row)
                if entry in entries:
                    raise ValueError(f"repeats {entry.path.name} with the same caption")
                entries[entry] = None
            except ValueError as error:
                self.skipped.append(UnreadableSample(where, str(error)))
        if self.skipped and not entries:
            raise ConfigError(str(self.skipped[0]))
        return list(entries)

    def _rows(self, folder: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Where each row of the metadata is, and what it says; without metadata there is a row for each file.

        Raises:
            ConfigError: there is neither metadata nor a text file.
        """
        metadata = next((folder / name for name in READERS if (folder / name).exists()), None)
        if metadata is not None:
            yield from ((f"{metadata}:{line}", row) for line, row in READERS[metadata.name](metadata))
            return
        # A folder `train` without a folder `test` would be held out of as well as trained on.
        has_splits = folder == self.folder and any((folder / split).is_dir() for split in ("train", "test"))
        files = [] if has_splits else sorted(path for path in _files(folder) if kind_of(path.name))
        if not any(os.path.lexists(path.with_suffix(".txt")) for path in files):
            raise ConfigError(
                f"{folder}: contains neither metadata.csv nor metadata.jsonl, nor a text file beside each clip; add one with "
                "the columns file_name, text"
            )
        yield from ((str(path), {"file_name": str(path.relative_to(folder))}) for path in files)

    def _entry(self, folder: Path, row: dict[str, Any] | str) -> Entry:
        """The entry of a row, whose caption may be in a text file beside the clip.

        Raises:
            ValueError: the row is invalid.
        """
        if isinstance(row, str):
            raise ValueError(row)
        path = _path(folder, row)
        beside = path.with_suffix(".txt")
        if all(row.get(key) is None for key in CAPTION_KEYS) and os.path.lexists(beside):
            row = {CAPTION_KEYS[0]: read_caption(self._real(beside))}
        return Entry(path, captions_in(row))


def _files(folder: Path) -> Iterator[Path]:
    """All files in a folder and those below it, except hidden ones; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _path(folder: Path, row: dict[str, Any]) -> Path:
    """The path of a row's file.

    Raises:
        ValueError: it is invalid.
    """
    name = row.get("file_name")
    if not name:
        raise ValueError(f"file_name: missing{suggestion('file_name', [key for key in row if key])}")
    if not isinstance(name, str):
        raise ValueError("file_name: must be text")
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
    return path


def _roots(folders: Iterable[Path]) -> list[Path]:
    """Folders that may contain the files of a data set: its own, and the blobs folder of a Hub cache snapshot."""
    roots = [folder.resolve() for folder in folders]
    snapshots = [root.parent.parent for root in roots if root.parent.name == "snapshots"]
    return roots + [repository / "blobs" for repository in snapshots]
