"""A row of a lookup table, and the validation of rows read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from nas.csv_files import read_csv, shown_cell
from nas.errors import ConfigError, TableError, shown, suggestion

Source = Literal["measured", "estimated", "interpolated", "transferred"]
Status = Literal["ok", "infeasible"]
SOURCES, STATUSES = get_args(Source), get_args(Status)
REQUIRED_COLUMNS = ("workload", "latency_ms", "memory_mb", "weights_mb", "params")


@dataclass(frozen=True)
class Row:
    """The measured or estimated values of one workload.

    Attributes:
        workload: the key, `str(Workload)`.
        latency_ms: median; infinite if the workload cannot run.
        memory_mb: peak activation memory without the inputs, in 10^6 bytes; NaN, an empty cell in the file, if the
            device does not report it (Apple's GPU, an iPhone).
        weights_mb: weights, in 10^6 bytes.
        params: number of parameters.
        latency_p10_ms, latency_p90_ms: percentiles of the samples.
        latency_ci_ms: half the width of the 95% confidence interval of the median; of an interpolated or transferred row, of
            the interval that has its latency in 90% of cases.
        count: number of samples.
        load_ms: time to compile or load the workload once.
        variant: the operator variant that was measured (`nas.conversion.variants`).
        source: `measured`, `estimated`, `interpolated`, or `transferred` from other devices' tables.
        status: `ok`, or `infeasible` if it ran out of memory or crashed.
        reason: why it is infeasible, or why it was timed only once.
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
    source: Source = "measured"
    status: Status = "ok"
    reason: str = ""


COLUMNS = tuple(f.name for f in fields(Row))
_TEXT = ("workload", "variant", "source", "status", "reason")
HEADER = ",".join(COLUMNS) + "\n"
_OLD_NAMES = {"form": "variant"}
"""New names of columns in tables of earlier versions."""
HEADERS = (HEADER, HEADER.replace(",variant,", ",form,"))
"""First lines of tables written row by row, by this and by earlier versions."""
_LONGEST_MS, _LARGEST_MB, _MOST = 1e12, 1e12, 2**53
_HIGHEST = {
    **dict.fromkeys(("latency_ms", "latency_p10_ms", "latency_p90_ms", "latency_ci_ms", "load_ms"), _LONGEST_MS),
    **dict.fromkeys(("memory_mb", "weights_mb"), _LARGEST_MB),
    **dict.fromkeys(("params", "count"), _MOST),
}
"""Largest values, so that no sum over a table overflows."""
_LOWEST = dict.fromkeys(("latency_p10_ms", "latency_p90_ms"), -_LONGEST_MS)
"""Smallest values other than 0: a percentile of differences of two timings may be negative."""


def read_cells(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """The cells of the file as text, and the line number of each row."""
    try:
        csv_file = read_csv(path, "lookup table", REQUIRED_COLUMNS, appended=HEADERS)
    except ConfigError as error:
        raise (error if not path.is_file() else TableError(str(error))) from None
    header = [_OLD_NAMES.get(name, name) for name in csv_file.header]
    _check_columns(header, str(path))
    numbers = [column not in _TEXT for column in header]
    cells = [[csv_file.number(cell) if n else cell for n, cell in zip(numbers, row)] for row in csv_file.rows]
    return pd.DataFrame(cells, columns=header, dtype=object), csv_file.lines


def _check_columns(columns: list[str], where: str) -> None:
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            raise TableError(f"{where}: column '{column}' is missing; a table needs {', '.join(REQUIRED_COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            raise TableError(f"{where}: unknown column '{column}'{suggestion(str(column), COLUMNS)}")
        if columns.count(column) > 1:
            raise TableError(f"{where}: column '{column}' is given twice")


def check_rows(frame: pd.DataFrame, at: Callable[[int], str], where: str) -> pd.DataFrame:
    """`frame` with every column of `Row`, in order and with its type.

    Args:
        at: the position of a row for error messages, such as `table.csv:3`.
        where: the name of the table for error messages.

    Raises:
        TableError: a missing, unknown or repeated column, a repeated workload, or an invalid value.
    """
    frame = frame.rename(columns=_OLD_NAMES)
    _check_columns(list(frame.columns), where)
    defaults = {f.name: f.default for f in fields(Row)} | {"source": "estimated"}
    for column in COLUMNS:
        if column not in frame.columns:
            frame[column] = defaults[column]
        elif column not in _TEXT:
            cells = frame[column].map(lambda cell: math.inf if isinstance(cell, int) and abs(cell) > 2**63 else cell)
            numbers = pd.to_numeric(cells.replace("", float("nan")), errors="coerce").astype(float)
            row = _first(numbers.isna() & ~frame[column].map(_says_unknown) | frame[column].map(_is_bool))
            if row is not None:
                raise TableError(f"{at(row)}: {column} is {shown_cell(frame[column][row])}")
            frame[column] = numbers
        else:
            row = _first(~frame[column].map(_is_text))
            if row is not None:
                raise TableError(f"{at(row)}: {column} is {shown(frame[column][row])}, not a line of text")
            frame[column] = frame[column].map(_one_line)
    frame = frame[list(COLUMNS)].astype({column: str for column in _TEXT})
    _check_values(frame, at)
    return frame.astype({"params": "int64", "count": "int64"})


def _check_values(frame: pd.DataFrame, at: Callable[[int], str]) -> None:
    names, ok = frame["workload"], frame["status"] == "ok"
    if (row := _first(names.str.strip() == "")) is not None:
        raise TableError(f"{at(row)}: workload is empty")
    if (row := _first(names.duplicated())) is not None:
        raise TableError(f"{at(row)}: workload {shown(names[row])} has two rows; keep one")
    for column, known in (("source", SOURCES), ("status", STATUSES)):
        if (row := _first(~frame[column].isin(known))) is not None:
            raise TableError(f"{at(row)}: {column} {shown(frame[column][row])} is none of {', '.join(known)}")
    for column, highest in _HIGHEST.items():
        values = frame[column]
        unknown = values.isna() & (~ok if column in REQUIRED_COLUMNS else True)
        unknown |= values.isna() & (column == "memory_mb")
        allowed = (values >= _LOWEST.get(column, 0.0)) & (values <= highest) | unknown
        allowed |= ~ok & np.isinf(values) & (values > 0) & (column == "latency_ms")
        if (row := _first(~allowed)) is not None:
            numbers = "a finite number" if column in _LOWEST else "a number of 0 or more"
            raise TableError(
                f"{at(row)}: row {shown(names[row])}: {column} is {values[row]}, must be {numbers}, up to {highest:g}"
            )
    for column in ("params", "count"):
        if (row := _first(frame[column] % 1 != 0)) is not None:
            raise TableError(f"{at(row)}: {column} is {frame[column][row]}, must be a whole number")


def _first(wrong: pd.Series) -> int | None:
    """The index of the first True."""
    return int(wrong.to_numpy().argmax()) if wrong.any() else None


def _says_unknown(cell: Any) -> bool:
    return cell != cell or str(cell).strip().lower() in ("", "nan")


def _is_bool(cell: Any) -> bool:
    return isinstance(cell, bool | np.bool_)


def _is_text(cell: Any) -> bool:
    """Whether a cell is printable text or empty."""
    return cell is None or cell != cell or (isinstance(cell, str) and _one_line(cell).isprintable())


def _one_line(cell: Any) -> Any:
    """A text without line breaks and surrounding spaces, so that each row is one line."""
    return " ".join(cell.split()) if isinstance(cell, str) else ""
