"""CSV as spreadsheets and people leave it: with semicolons or tabs, decimal commas, a byte order mark, empty rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import ConfigError, shown
from nas.files import read_text


@dataclass(frozen=True)
class CsvFile:
    """The cells of a file, as text.

    Attributes:
        header: the columns' names.
        rows: as many cells each as there are columns; `lines` on which each row stands.
        decimal_comma: whether numbers may be written 1,5: where commas do not separate cells.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal_comma: bool

    def number(self, cell: str) -> str:
        """A cell that holds a number, as Python reads it."""
        cell = cell.strip()
        return cell.replace(",", ".") if self.decimal_comma and "." not in cell and cell.count(",") == 1 else cell


def read_csv(path: str | Path, what: str, needed: Sequence[str], appended: Sequence[str] = ()) -> CsvFile:
    """Read a file that begins with a line of column names.

    Args:
        what: the file's kind, for errors.
        needed: columns that it must have; by them the separator is recognized.
        appended: first lines by which a file is known to be written row by row. Its last line, if it has no line end,
            was not completely written and is dropped.

    Raises:
        ConfigError: no such file, no such columns, a row with other cells than columns, or a quote that is not closed.
    """
    text = read_text(path, what)
    first = text.partition("\n")[0]
    skipped = 0
    if first.lower().startswith("sep=") and len(first) <= 5:  # Excel's own way to say it
        text, skipped = text.partition("\n")[2], 1
        first = text.partition("\n")[0]
    if first.strip() in [line.strip() for line in appended]:
        text = text[: text.rfind("\n") + 1]
    if not text.strip():
        raise ConfigError(f"{path}: empty; a {what} starts with the line '{','.join(needed[:2])},...'")
    separator = _separator(first, needed)
    found: list[tuple[int, list[str]]] = list(_rows(text, separator, str(path), skipped))
    header = [name.strip() for name in found[0][1]]
    columns = len(header)
    if missing := [name for name in needed if name not in header]:
        raise ConfigError(f"{path}: column '{missing[0]}' is missing; a {what} needs {', '.join(needed)}")
    while header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for _, row in found[1:]):
        header.pop()  # empty columns on the right, as spreadsheets leave them
    rows, lines = [], []
    for line, row in found[1:]:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != columns:
            raise ConfigError(
                f"{path}:{line}: not a {what}: {len(row)} cells under {columns} columns; "
                f"quote a text that holds a {_NAMES[separator]}"
            )
        rows.append(row[: len(header)])
        lines.append(line)
    return CsvFile(header, rows, lines, separator != ",")


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def _separator(first: str, needed: Sequence[str]) -> str:
    def known(separator: str) -> int:
        return len(set(needed) & {name.strip(' "') for name in first.split(separator)})

    return max(_NAMES, key=known)


def _rows(text: str, separator: str, path: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Each row and its line; a row is one line, so that a quote that is not closed does not swallow the file."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    end = skipped
    while True:
        start = end + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{path}:{start}: cannot be read: {error}") from None
        if row is None:
            return
        end = reader.line_num + skipped
        if end > start:
            raise ConfigError(f"{path}:{start}: a quoted text does not end on its line; close the quote")
        if row:
            yield end, row


def shown_cell(cell: object) -> str:
    """A cell that is no number, for errors, with what to do where that is clear."""
    return f"{shown(cell)}, not a number" + ("; write a decimal point" if "," in str(cell)[:100] else "")
