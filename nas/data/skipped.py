"""The list of clips and images that could not be used, on disk: `skipped.csv` with the columns file, reason."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from nas.data.source import Sample, Source, UnreadableSample
from nas.errors import ConfigError
from nas.files import write_atomic

SKIPPED = "skipped.csv"


def write(path: Path, skipped: Iterable[tuple[str, str]]) -> int:
    """Write (file, reason) rows, each distinct one once; returns how many there are."""
    rows = list(dict.fromkeys(skipped))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *rows])
    write_atomic(path, text.getvalue().encode(errors="backslashreplace"))  # names may be no Unicode
    return len(rows)


def read(path: str | Path) -> list[tuple[str, str]]:
    """The (file, reason) rows of a list; none where there is no list."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [(row[0], row[1]) for row in list(csv.reader(file))[1:]]
    except (csv.Error, IndexError, UnicodeDecodeError):
        raise ConfigError(f"{path}: is not a list of file, reason; remove it") from None


class SkippingSource:
    """Clips of a source for training on pixels; one that cannot be used is listed, and the next one takes its place.

    What takes its place is a function of the index, so a resumed run sees the same clips.

    Args:
        path: the list, which grows as unusable clips are met.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.source, self.path, self.videos = source, path, source.videos
        self._known = dict.fromkeys(read(path))
        self._known |= dict.fromkeys((bad.file, bad.reason) for bad in source.skipped)
        self._bad: set[int] = set()
        write(path, self._known)

    def video(self, index: int) -> Sample:
        """
        Raises:
            UnreadableSample: no clip of the source can be used.
        """
        for place in range(index, index + self.videos):
            place %= self.videos
            if place in self._bad:
                continue
            try:
                return self.source.video(place)
            except UnreadableSample as error:
                last = error
                self._bad.add(place)
                if (error.file, error.reason) not in self._known:
                    self._known[error.file, error.reason] = None
                    write(self.path, self._known)
        raise UnreadableSample(str(self.path), f"not one clip could be used, the last because: {last}")
