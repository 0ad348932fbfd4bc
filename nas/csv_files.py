"""Read CSV files as spreadsheets save them: separated by semicolons or tabs, with decimal commas or empty rows."""

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
    """The cells of a CSV file as text.

    Attributes:
        header: the columns' names.
        rows: the cells of each row.
        lines: the line number of each row.
        decimal_comma: whether numbers may be written 1,5, because commas do not separate cells.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal_comma: bool

    def number(self, cell: str) -> str:
        """A cell with a number, in Python's notation."""
        cell = cell.strip()
        return cell.replace(",", ".") if self.decimal_comma and "." not in cell and cell.count(",") == 1 else cell


def read_csv(path: str | Path, what: str, needed: Sequence[str], appended: Sequence[str] = ()) -> CsvFile:
    """Read a CSV file whose first line has the column names.

    Args:
        what: the file's kind, for errors.
        needed: required columns, by which the separator is recognized.
        appended: first lines by which a file is known to be written row by row. Its last line, if it has no line end,
            was not completely written and is dropped.

    Raises:
        ConfigError: a missing file or column, a row with the wrong number of cells, or an unclosed quote.
    """
    text = read_text(path, what)
    first = text.partition("\n")[0]
    skipped = 0
    if first.lower().startswith("sep=") and len(first) <= 5:  # Excel's declaration of the separator
        text, skipped = text.partition("\n")[2], 1
        first = text.partition("\n")[0]
    if first.strip() in [line.strip() for line in appended]:
        text = text[: text.rfind("\n") + 1]
    if not text.strip():
        raise ConfigError(f"{path}: empty; a {what} starts with the line '{','.join(needed[:2])},...'")
    separator = _separator(first, needed)
    lines_of_cells: list[tuple[int, list[str]]] = list(_rows(text, separator, str(path), skipped))
    header = [name.strip() for name in lines_of_cells[0][1]]
    columns = len(header)
    if missing := [name for name in needed if name not in header]:
        raise ConfigError(f"{path}: column '{missing[0]}' is missing; a {what} needs {', '.join(needed)}")
    while (
        header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for _, row in lines_of_cells[1:])
    ):
        header.pop()  # empty columns on the right, as spreadsheets leave them
    rows, lines = [], []
    for line, row in lines_of_cells[1:]:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != columns:
            raise ConfigError(
                f"{path}:{line}: not a {what}: {len(row)} cells for {columns} columns; "
                f"quote text that contains a {_NAMES[separator]}"
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
    """Each row with its line number. A row is one line, so that an unclosed quote does not span the rest of the file."""
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
            raise ConfigError(f"{path}:{start}: a quoted cell does not end on its line; close the quote")
        if row:
            yield end, row


def shown_cell(cell: object) -> str:
    """A cell that is not a number, for error messages, with the fix if it is known."""
    return f"{shown(cell)}, not a number" + ("; write a decimal point" if "," in str(cell)[:100] else "")
