"""Reads WebDataset shards: tar files whose members `KEY.mp4` (or `.jpg` ...) and `KEY.txt` (or `.json`) form an item.

    data/00000.tar, data/00001.tar ...         without a test folder every twentieth key (by hash) is held out
    data/train/00000.tar, data/test/00000.tar  or separate splits

Tar headers are read once; items are then read in place and in any order, so that a run resumes in constant time and
nothing is unpacked. Damaged parts of a shard are skipped: reading continues at the next valid header.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nas.data.buckets import Size
from nas.data.file_source import FileSource, split_indices
from nas.data.metadata import captions_in, kind_of, parse_object
from nas.data.source import UnreadableSample
from nas.errors import ConfigError
from nas.files import open_regular

MAX_BYTES = 1 << 20
"""Most bytes of a caption file."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a shard: name, offset and size of its data in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """A clip or image with its caption file."""

    shard: Path
    media: Member
    caption: Member


class WebDataset(FileSource):
    """The clips and images of tar files; see `FileSource`.

    Args:
        folder: contains `.tar` files, or one folder per split that does.
        split: `train` or `test`.

    Raises:
        ConfigError: there are no shards, or they are compressed, which prevents random access.
    """

    def __init__(self, folder: str | Path, split: str, buckets: Sequence[Size], fps: float) -> None:
        folder = Path(folder)
        super().__init__(folder, buckets, fps)
        has_splits = (folder / split).is_dir()
        all_items: dict[str, list[Item]] = {"videos": [], "images": []}
        for shard in shards_in(folder / split if has_splits else folder):
            for item in self._items_in(shard):
                all_items[kind_of(item.media.name)].append(item)
        self._items = {
            kind: items
            if has_splits
            else [items[index] for index in split_indices([_key(i.media.name) for i in items], split)]
            for kind, items in all_items.items()
        }

    def count(self, kind: str) -> int:
        return len(self._items[kind])

    def name(self, kind: str, index: int) -> str:
        item = self._items[kind][index]
        return f"{item.shard}/{item.media.name}"

    def captions(self, kind: str, index: int) -> tuple[str, ...]:
        item = self._items[kind][index]
        name = f"{item.shard}/{item.caption.name}"
        if item.caption.size > MAX_BYTES:
            raise UnreadableSample(name, f"{item.caption.size} bytes are too long for a caption")
        with MemberFile(item.shard, item.caption) as file:
            data = file.read()
        text = data.decode("utf-8-sig", errors="surrogateescape")
        try:
            plain = not item.caption.name.lower().endswith(".json")
            return captions_in({"text": text.strip()} if plain else parse_object(text))
        except ValueError as error:
            raise UnreadableSample(name, str(error)) from None

    def key(self, kind: str, index: int) -> str:
        item = self._items[kind][index]
        return f"{item.shard.relative_to(self.folder)}/{item.media.name}"

    def open(self, kind: str, index: int) -> BinaryIO:
        item = self._items[kind][index]
        return io.BufferedReader(MemberFile(item.shard, item.media))

    def _items_in(self, shard: Path) -> Iterator[Item]:
        """The items of a shard: consecutive members of one key that include a clip or image and a caption."""
        key, group = None, {}
        for member in self._members(shard):
            if _key(member.name) != key:
                yield from self._item(shard, group)
                key, group = _key(member.name), {}
            suffix = member.name[len(key) :].lower()
            if suffix in group:
                self._skip(f"{shard}/{member.name}", "occurs twice; the first is used")
            group.setdefault(suffix, member)
        yield from self._item(shard, group)

    def _item(self, shard: Path, group: dict[str, Member]) -> Iterator[Item]:
        """The item of the members of one key (by suffix), if it is complete."""
        media = [suffix for suffix, member in group.items() if kind_of(member.name)]
        inner = media[0].rpartition(".")[0] if media else ""  # ".small" of KEY.small.mp4, usually empty
        texts = [suffix for suffix in (f"{inner}.txt", f"{inner}.json", ".txt", ".json") if suffix in group]
        for extra in media[1:]:
            self._skip(f"{shard}/{group[extra].name}", f"has the same key as {group[media[0]].name}, which is used")
        if media and texts:
            yield Item(shard, group[media[0]], group[texts[0]])
        elif media:
            self._skip(f"{shard}/{group[media[0]].name}", "has no caption: no .txt or .json with the same key")
        elif texts:
            self._skip(f"{shard}/{group[texts[0]].name}", "has no clip or image with the same key")

    def _members(self, shard: Path) -> Iterator[Member]:
        """The intact members of a shard; damaged ranges are added to `skipped`."""
        end = length = 0
        try:
            with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
                length = os.fstat(file.fileno()).st_size  # ignore_zeros: continue after a damaged header
                while (info := tar.next()) is not None:
                    tar.members.clear()  # tarfile would keep every header of the shard
                    if info.offset > end and not _zeros(shard, end, info.offset):
                        self._skip(str(shard), f"bytes {end} to {info.offset} are damaged")
                    end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if info.offset_data + info.size > length:
                        self._skip(f"{shard}/{info.name}", "is truncated: the shard ends inside it")
                    elif info.name.rsplit("/", 1)[-1].startswith("."):
                        continue
                    elif info.isreg() and not info.issparse():
                        yield Member(info.name, info.offset_data, info.size)
                    elif kind_of(info.name):
                        self._skip(f"{shard}/{info.name}", "is a link, a folder or a device, not a file")
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            if end <= length:  # otherwise the last member was reported as truncated
                where = f"cannot be read from byte {end} on" if end else "is not a tar file"
                self._skip(str(shard), f"{where} ({error})")
            return
        if end < length and not _zeros(shard, end, length):
            self._skip(str(shard), f"bytes {end} to {length} are damaged")

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append(UnreadableSample(name, reason))


class MemberFile(io.RawIOBase):
    """Read-only file with the data of one member of a shard."""

    def __init__(self, shard: Path, member: Member) -> None:
        super().__init__()
        self._file, self._member, self._position = open_regular(shard), member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer) -> int:
        view = memoryview(buffer)[: max(0, self._member.size - self._position)]
        self._file.seek(self._member.offset + self._position)
        count = self._file.readinto(view) if len(view) else 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder, sorted by name.

    Raises:
        ConfigError: there are none, or only compressed ones.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        compressed = next((path for ending in ("*.tar.gz", "*.tgz", "*.tar.zst") for path in folder.glob(ending)), None)
        if compressed:
            raise ConfigError(f"{compressed}: a compressed shard has no random access; decompress it to a .tar file")
        raise ConfigError(f"{folder}: contains no .tar shard")
    return shards


def _key(name: str) -> str:
    """WebDataset's key of a member: its path up to the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _zeros(path: Path, start: int, end: int) -> bool:
    """Whether a range of a file contains only zero bytes."""
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            part = file.read(min(1 << 20, end - start))
            if not part or part.strip(b"\0"):
                return False
            start += len(part)
    return True
