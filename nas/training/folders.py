"""Folders of captioned clips and images, in the Hugging Face `videofolder` / `imagefolder` convention.

    data/metadata.csv (or metadata.jsonl)      file_name, text
    data/clip-1.mp4 ...                        any name and depth, as file_name says
    data/train/..., data/test/...              optional: each with its own metadata

Without a test folder every twentieth file, chosen by the hash of its name, is held out. Rows that say nothing usable
are in `skipped`; what cannot be decoded (corrupt, too short, no video at all) raises `UnreadableSample`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nas.errors import ConfigError, suggestion
from nas.training.buckets import Size
from nas.training.clips import IMAGES, VIDEOS, Clips, caption_in, kind_of, missing_caption, of_split
from nas.training.data import UnreadableSample


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of metadata."""

    path: Path
    caption: str


class Folder(Clips):
    """The clips and images of a folder; see `Clips`.

    Args:
        folder: holds `metadata.csv` or `metadata.jsonl`, or one folder per split that does.
        split: `train` or `test`.

    Raises:
        ConfigError: no metadata, or none of its rows names a file and a caption.
    """

    def __init__(self, folder: str | Path, split: str, buckets: Sequence[Size], fps: float = 8.0) -> None:
        super().__init__(buckets, fps)
        folder = Path(folder)
        own = (folder / split).is_dir()
        found = self._entries(folder / split if own else folder)
        self._items: dict[str, list[Entry]] = {"videos": [], "images": []}
        for kind, entries in self._items.items():
            there = [entry for entry in found if kind_of(entry.path.name) == kind]
            chosen = range(len(there)) if own else of_split([entry.path.name for entry in there], split)
            entries += [there[place] for place in chosen]

    def count(self, kind: str) -> int:
        return len(self._items[kind])

    def name(self, kind: str, index: int) -> str:
        return str(self._items[kind][index].path)

    def caption(self, kind: str, index: int) -> str:
        return self._items[kind][index].caption

    def identity(self, kind: str, index: int) -> str:
        return self.caption(kind, index)

    def open(self, kind: str, index: int) -> AbstractContextManager[BinaryIO]:
        return self._items[kind][index].path.open("rb")

    def _entries(self, folder: Path) -> list[Entry]:
        """The usable rows of a folder's metadata; the others go to `skipped`, unless there is no other."""
        metadata = next((folder / name for name in READERS if (folder / name).exists()), None)
        if metadata is None:
            raise ConfigError(
                f"{folder}: holds neither metadata.csv nor metadata.jsonl with the columns file_name, text"
            )
        entries: dict[Entry, None] = {}
        for line, row in READERS[metadata.name](metadata):
            try:
                entry = _entry(folder, row)
                if entry in entries:
                    raise ValueError(f"names {entry.path.name} with the same caption again")
                entries[entry] = None
            except ValueError as error:
                self.skipped.append(UnreadableSample(f"{metadata}:{line}", str(error)))
        if self.skipped and not entries:
            raise ConfigError(str(self.skipped[0]))
        return list(entries)


Row = tuple[int, dict | str]
"""A line's number and what it says, or why it says nothing."""


def _entry(folder: Path, row: dict | str) -> Entry:
    """
    Raises:
        ValueError: the row does not say what is needed.
    """
    if isinstance(row, str):
        raise ValueError(row)
    if not row.get("file_name"):
        raise ValueError(f"file_name: missing{suggestion('file_name', [key for key in row if key])}")
    name, caption = str(row["file_name"]), caption_in(row)
    if caption is None:
        raise ValueError(missing_caption(row))
    if "\0" in name:
        raise ValueError("file_name: holds a zero byte")
    if kind_of(name) is None:
        known = " ".join(sorted(VIDEOS | IMAGES))
        raise ValueError(f"file_name: {name} is named as neither a clip nor an image; known: {known}")
    return Entry(folder / name, caption)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield reader.line_num, f"not CSV: {error}"
                continue
            if row is None:
                return
            yield reader.line_num, row


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, f"not JSON: {getattr(error, 'msg', error)}"
                continue
            yield number, row if isinstance(row, dict) else "expected an object with file_name and text"


READERS = {"metadata.csv": _csv_rows, "metadata.jsonl": _jsonl_rows}
