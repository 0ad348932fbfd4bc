"""`skipped.csv`: the list of clips and images that could not be used, with the columns file and reason."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
from collections.abc import Iterable
from pathlib import Path

from nas.data.source import Sample, Source, UnreadableSample
from nas.errors import ConfigError
from nas.files import name_in_errors, write_atomic

SKIPPED = "skipped.csv"


def write(path: Path, skipped: Iterable[tuple[str, str]]) -> int:
    """Write (file, reason) rows without duplicates; returns their number."""
    rows = list(dict.fromkeys(skipped))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *rows])
    write_atomic(path, text.getvalue().encode(errors="backslashreplace"))  # names may not be valid Unicode
    return len(rows)


def add(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Add those (file, reason) rows that a list lacks, while other processes may do so, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with name_in_errors(path), path.open("a+", encoding="utf-8", errors="backslashreplace", newline="") as file:
        with contextlib.suppress(OSError):  # some filesystems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        known = dict.fromkeys(read(path))
        new = [row for row in dict.fromkeys(rows) if row not in known]
        header = [] if path.stat().st_size else [("file", "reason")]
        csv.writer(file, lineterminator="\n").writerows([*header, *new])


def read(path: str | Path) -> list[tuple[str, str]]:
    """The (file, reason) rows of a list; empty if the file does not exist.

    Raises:
        ConfigError: the file is not such a list.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [(row[0], row[1]) for row in list(csv.reader(file))[1:]]
    except (csv.Error, IndexError, UnicodeDecodeError):
        raise ConfigError(f"{path}: is not a CSV file with the columns file, reason; remove it") from None


class SkippingSource:
    """Clips of a source for training on pixels; an unusable clip is listed and replaced by the next one.

    The replacement is a function of the index, so a resumed run sees the same clips.

    Args:
        path: of the list, which is extended whenever a clip turns out to be unusable.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.source, self.path, self.videos = source, path, source.videos
        self._known = dict.fromkeys(read(path))
        self._known |= dict.fromkeys((bad.file, bad.reason) for bad in source.skipped)
        self._bad: set[int] = set()
        add(path, self._known)

    def video(self, index: int) -> Sample:
        """The clip at an index, or the next usable one.

        Raises:
            UnreadableSample: no clip of the source is usable.
        """
        for candidate in range(index, index + self.videos):
            candidate %= self.videos
            if candidate in self._bad:
                continue
            try:
                return self.source.video(candidate)
            except UnreadableSample as error:
                last = error
                self._bad.add(candidate)
                if (error.file, error.reason) not in self._known:
                    self._known[error.file, error.reason] = None
                    add(self.path, [(error.file, error.reason)])
        raise UnreadableSample(str(self.path), f"no clip is usable; the last one: {last}")
