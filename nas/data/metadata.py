"""Reads the rows of `metadata.csv` and `metadata.jsonl` and the captions in them.

An invalid row is yielded as the reason why it is invalid; reading continues with the next line.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from nas.errors import ConfigError, encodable, suggestion
from nas.files import open_regular

VIDEOS = frozenset(
    [
        ".mp4",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".gif",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".wmv",
        ".asf",
        ".flv",
        ".3gp",
        ".ogv",
        ".mxf",
    ]
)
IMAGES = frozenset([".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif"])
CAPTION_KEYS = ("text", "caption", "prompt")
MAX_CAPTION = 1 << 17
"""Most characters of a caption; longer text is not a caption."""
MAX_NAME = 4096
"""Most characters of a path, on most systems."""
DELIMITERS = ",;\t"

Row = tuple[int, dict[str, Any] | str]
"""Line number, and the values of the row or the reason why it is invalid."""


def kind_of(name: str) -> str | None:
    """`videos` or `images`, by a file name's suffix; None for other files."""
    suffix = PurePosixPath(name).suffix.lower()
    return "videos" if suffix in VIDEOS else "images" if suffix in IMAGES else None


def captions_in(row: dict[str, Any]) -> tuple[str, ...]:
    """The captions in a row of metadata: one text, or a list of texts. A single empty one is kept.

    Raises:
        ValueError: there is no caption, or it is not text.
    """
    key = next((key for key in CAPTION_KEYS if row.get(key) is not None), None)
    if key is None:
        raise ValueError(f"text: missing{suggestion('text', [key for key in row if key])}; give each file a caption")
    value = row[key]
    if isinstance(value, int) and not isinstance(value, bool):  # a class number is a valid caption
        value = str(value)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        invalid = next((text for text in texts if not isinstance(text, str)), [])
        names = {dict: "an object", list: "a list" if invalid else "an empty list", bool: "true or false"}
        where = " in a list" if value and isinstance(value, list) else ""
        kind = names.get(type(invalid), "null" if invalid is None else "a number")
        raise ValueError(f"{key}: must be a text or a list of texts, not {kind}{where}")
    for text in texts:
        check_text(key, text)
    return tuple(dict.fromkeys(text for text in texts if text.strip())) or (texts[0],)


def read_caption(path: Path) -> str:
    """The caption in a text file.

    Raises:
        ValueError: it cannot be read.
    """
    with _open_text(path) as file:
        return file.read(MAX_CAPTION + 2).strip()


def check_text(key: str, text: str) -> None:
    """Check a caption.

    Raises:
        ValueError: it is too long, contains a zero byte, or is not valid Unicode.
    """
    if len(text) > MAX_CAPTION:
        raise ValueError(f"{key}: {len(text)} characters are too long for a caption")
    if "\0" in text:
        raise ValueError(f"{key}: contains a zero byte")
    if not encodable(text):
        raise ValueError(f"{key}: is not valid Unicode; save the file as UTF-8")


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not one.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # too many digits raise a plain ValueError
        raise ValueError(f"not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(row, dict):
        raise ValueError("expected an object with file_name and text")
    return row


def _open_text(path: Path) -> TextIO:
    """Open a text file; bytes that are not UTF-8 become lone surrogates, which `check_text` reports.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        file = open_regular(path)
        start = file.read(2)
        file.seek(0)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(file, "utf-16" if wide else "utf-8-sig", "surrogateescape", newline="")


class _Lines(Iterator[str]):
    """Iterator over lines that can return the lines of the current record after the first one to the input."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._back = iter(lines), []
        self.taken: list[str] = []
        self.number = 0

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._lines)
        self.taken.append(line)
        self.number += 1
        return line

    def keep_first(self) -> None:
        """Return all lines of the record but its first to the input."""
        self._back += reversed(self.taken[1:])
        self.number -= len(self.taken) - 1


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows below the header. Quoting is strict: rows that an unclosed quote would swallow are read as rows."""
    with _open_text(path) as file:
        lines = _Lines(file)
        header: list[str] = []
        delimiter = ","
        while True:
            lines.taken = []
            start = lines.number + 1
            try:
                fields = next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), None)
            except csv.Error as error:
                reason = (
                    _unclosed(len(lines.taken))
                    or f"not CSV: {error}; put the caption in quotes, and double those in it"
                )
                lines.keep_first()
                yield start, reason
                continue
            if fields is None:
                return
            if not any(fields):
                continue
            if not header:
                header, delimiter = _header(path, lines.taken, fields, delimiter)
            elif _swallowed(lines.taken[1:], header, delimiter):
                yield start, _unclosed(len(lines.taken))
                lines.keep_first()
            elif len(fields) > len(header):
                yield (
                    start,
                    f"has {len(fields)} fields, the header names {len(header)}; put a caption with '{delimiter}' in quotes",
                )
            else:
                yield start, {name: _value(field) for name, field in zip(header, fields)}


def _header(path: Path, lines: list[str], fields: list[str], delimiter: str) -> tuple[list[str], str]:
    """Column names and the delimiter, which may be a comma, a semicolon or a tab (as Excel writes in many countries).

    Raises:
        ConfigError: two columns have the same name.
    """
    if len(fields) == 1 and fields[0].strip().startswith("sep=") and len(fields[0].strip()) == 5:
        return [], fields[0].strip()[4]
    if "file_name" not in fields:
        for other in DELIMITERS[1:]:
            split = next(csv.reader(lines, delimiter=other, skipinitialspace=True))
            if "file_name" in [field.strip() for field in split]:
                fields, delimiter = split, other
    names = [field.strip() for field in fields]
    duplicate = next((name for name in names if name and names.count(name) > 1), None)
    if duplicate is not None:
        raise ConfigError(f"{path}: has two columns '{duplicate}'; remove one")
    return names, delimiter


def _unclosed(lines: int) -> str:
    """Message for an unclosed quote; empty if the record has only one line."""
    return "a quote in this line is not closed; close it, or double it if it belongs to the text" if lines > 1 else ""


def _swallowed(lines: list[str], header: list[str], delimiter: str) -> bool:
    """Whether continuation lines of a quoted field are rows that an unclosed quote swallowed."""
    column = header.index("file_name") if "file_name" in header else 0
    for line in lines:
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        whole = not column or line.count('"') % 2 == 0  # otherwise it may be the end of a caption and then the name
        if len(fields) > max(1, column) and whole and kind_of(fields[column].strip()):
            return True
    return False


def _value(field: str) -> Any:
    """The text of a field, or the list or object that it contains in JSON or Python notation."""
    if not field.startswith(("[", "{")) or len(field) > MAX_CAPTION:
        return field
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(field)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, list | dict) else field
    return field


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, parse_object(line)
            except ValueError as error:
                yield number, str(error)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {"metadata.csv": _csv_rows, "metadata.jsonl": _jsonl_rows}
