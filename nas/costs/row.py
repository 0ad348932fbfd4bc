"""A row of a lookup table, and reading rows out of a file that a person may have edited."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.csv_files import read_csv, shown_cell
from nas.errors import ConfigError, TableError, shown, suggestion

SOURCES = ("measured", "estimated", "interpolated")
REQUIRED_COLUMNS = ("workload", "latency_ms", "memory_mb", "weights_mb", "params")


@dataclass(frozen=True)
class Row:
    """What is known of one workload.

    Attributes:
        workload: the key, `str(Workload)`.
        latency_ms: median; infinite when the workload cannot run.
        memory_mb: peak activation memory above the inputs, in 10^6 bytes; NaN, an empty cell in the file, where the
            device does not tell (Apple's GPU, an iPhone).
        weights_mb: weights, in 10^6 bytes.
        params: number of parameters.
        latency_p10_ms, latency_p90_ms: percentiles of the samples.
        latency_ci_ms: half the width of the 95% interval of the median.
        count: samples.
        load_ms: time to compile or load once.
        variant: the operator variant that was measured (`nas.conversion.variants`).
        source: `measured`, `estimated` or `interpolated`.
        status: `ok`, or `infeasible` when it ran out of memory or crashed.
        reason: why it is infeasible.
    """

    workload: str
    latency_ms: float
    memory_mb: float
    weights_mb: float
    params: int
    latency_p10_ms: float = float("nan")
    latency_p90_ms: float = float("nan")
    latency_ci_ms: float = float("nan")
    count: int = 0
    load_ms: float = float("nan")
    variant: str = ""
    source: str = "measured"
    status: str = "ok"
    reason: str = ""


COLUMNS = tuple(f.name for f in fields(Row))
STATUSES = ("ok", "infeasible")
_TEXT = ("workload", "variant", "source", "status", "reason")
HEADER = ",".join(COLUMNS) + "\n"
_OLD_NAMES = {"form": "variant"}
"""Columns of tables that earlier versions wrote, and what they are called now."""
HEADERS = (HEADER, HEADER.replace(",variant,", ",form,"))
"""First lines of tables that this and earlier versions write row by row."""
_LONGEST_MS, _LARGEST_MB, _MOST = 1e12, 1e12, 2**53
_HIGHEST = {
    **dict.fromkeys(("latency_ms", "latency_p10_ms", "latency_p90_ms", "latency_ci_ms", "load_ms"), _LONGEST_MS),
    **dict.fromkeys(("memory_mb", "weights_mb"), _LARGEST_MB),
    **dict.fromkeys(("params", "count"), _MOST),
}
"""So that no sum over a table overflows."""
_LOWEST = dict.fromkeys(("latency_p10_ms", "latency_p90_ms"), -_LONGEST_MS)
"""Percentiles of a difference of two timings may be below zero."""


def read_cells(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """The cells of the file as text, and the line on which each row ends."""
    try:
        found = read_csv(path, "lookup table", REQUIRED_COLUMNS, appended=HEADERS)
    except ConfigError as error:
        raise (error if not path.is_file() else TableError(str(error))) from None
    header = [_OLD_NAMES.get(name, name) for name in found.header]
    _check_columns(header, str(path))
    numbers = [column not in _TEXT for column in header]
    cells = [[found.number(cell) if n else cell for n, cell in zip(numbers, row)] for row in found.rows]
    return pd.DataFrame(cells, columns=header, dtype=object), found.lines


def _check_columns(columns: list[str], where: str) -> None:
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            raise TableError(f"{where}: column '{column}' is missing; a table needs {', '.join(REQUIRED_COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            raise TableError(f"{where}: unknown column '{column}'{suggestion(str(column), COLUMNS)}")
        if columns.count(column) > 1:
            raise TableError(f"{where}: column '{column}' is given twice")


def checked(frame: pd.DataFrame, at: Callable[[int], str], where: str) -> pd.DataFrame:
    """`frame` with every column of `Row` in order and with its type, or a TableError that says where, by `at(row)`."""
    frame = frame.rename(columns=_OLD_NAMES)
    _check_columns(list(frame.columns), where)
    defaults = {f.name: f.default for f in fields(Row)} | {"source": "estimated"}
    for column in COLUMNS:
        if column not in frame.columns:
            frame[column] = defaults[column]
        elif column not in _TEXT:
            cells = frame[column].map(lambda cell: math.inf if isinstance(cell, int) and abs(cell) > 2**63 else cell)
            numbers = pd.to_numeric(cells.replace("", float("nan")), errors="coerce").astype(float)
            odd = numbers.isna() & ~frame[column].map(_says_unknown) | frame[column].map(_is_bool)
            _refuse(odd, at, lambda row, c=column: f"{c} is {shown_cell(frame[c][row])}")
            frame[column] = numbers
        else:
            _refuse(
                ~frame[column].map(_is_text),
                at,
                lambda row, c=column: f"{c} is {shown(frame[c][row])}, not a line of text",
            )
            frame[column] = frame[column].map(_one_line)
    frame = frame[list(COLUMNS)].astype({column: str for column in _TEXT})
    _check_values(frame, at)
    return frame.astype({"params": "int64", "count": "int64"})


def _check_values(frame: pd.DataFrame, at: Callable[[int], str]) -> None:
    names = frame["workload"]
    _refuse(names.str.strip() == "", at, lambda row: "workload is empty")
    _refuse(names.duplicated(), at, lambda row: f"workload {shown(names[row])} has two rows; keep one")
    for column, known in (("source", SOURCES), ("status", STATUSES)):
        values = frame[column]
        _refuse(
            ~values.isin(known),
            at,
            lambda row, v=values, c=column, k=known: f"{c} {shown(v[row])} is none of {', '.join(k)}",
        )
    ok = frame["status"] == "ok"
    for column, highest in _HIGHEST.items():
        values = frame[column]
        unknown = values.isna() & (~ok if column in REQUIRED_COLUMNS else True) | (
            values.isna() & (column == "memory_mb")
        )
        allowed = (values >= _LOWEST.get(column, 0.0)) & (values <= highest) | unknown
        allowed |= ~ok & np.isinf(values) & (values > 0) & (column == "latency_ms")
        least = "a finite number" if column in _LOWEST else "a number of 0 or more"
        _refuse(
            ~allowed,
            at,
            lambda row, v=values, c=column, n=f"{least}, up to {highest:g}": (
                f"row {shown(names[row])}: {c} is {v[row]}, must be {n}"
            ),
        )
    for column in ("params", "count"):
        values = frame[column]
        _refuse(values % 1 != 0, at, lambda row, v=values, c=column: f"{c} is {v[row]}, must be a whole number")


def _refuse(wrong: pd.Series, at: Callable[[int], str], says: Callable[[int], str]) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise TableError(f"{at(row)}: {says(row)}")


def _says_unknown(cell: Any) -> bool:
    return cell != cell or str(cell).strip().lower() in ("", "nan")


def _is_bool(cell: Any) -> bool:
    return isinstance(cell, bool | np.bool_)


def _is_text(cell: Any) -> bool:
    """Whether a cell is text that can be written, or empty."""
    return cell is None or cell != cell or (isinstance(cell, str) and _one_line(cell).isprintable())


def _one_line(cell: Any) -> Any:
    """A text without line ends, which would tear a row apart, and without blanks around it."""
    return " ".join(cell.split()) if isinstance(cell, str) else ""
