"""A row of a lookup table, and reading rows out of a file that a person may have edited."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.errors import TableError, suggestion
from nas.files import read_text

SOURCES = ("measured", "estimated", "interpolated")
NEEDED = ("workload", "latency_ms", "memory_mb", "weights_mb", "params")


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
        form: which way of writing the operator was measured.
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
    form: str = ""
    source: str = "measured"
    status: str = "ok"
    reason: str = ""


COLUMNS = tuple(f.name for f in fields(Row))
STATUSES = ("ok", "infeasible")
_TEXT = ("workload", "form", "source", "status", "reason")
HEADER = ",".join(COLUMNS) + "\n"


def whole_lines(text: str) -> str:
    """Without a last line that has no line end: a row that was being written when the power went."""
    return text[: text.rfind("\n") + 1]


def read_cells(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """The cells of the file as text, and the line on which each row ends."""
    reader = csv.reader(io.StringIO(whole_lines(read_text(path, "lookup table")).removeprefix("\ufeff")))
    header = next(reader, None)
    if header is None:
        raise TableError(f"{path}: empty; a lookup table starts with the line 'workload,latency_ms,...'")
    _check_columns(header, str(path))
    cells, lines = [], []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise TableError(
                f"{path}:{reader.line_num}: not a lookup table: {len(row)} cells under {len(header)} columns; "
                "quote a text that holds a comma"
            )
        cells.append(row)
        lines.append(reader.line_num)
    return pd.DataFrame(cells, columns=header, dtype=object), lines


def _check_columns(columns: list[str], where: str) -> None:
    for column in NEEDED:
        if column not in columns:
            raise TableError(f"{where}: column '{column}' is missing; a table needs {', '.join(NEEDED)}")
    for column in columns:
        if column not in COLUMNS:
            raise TableError(f"{where}: unknown column '{column}'{suggestion(str(column), COLUMNS)}")
        if columns.count(column) > 1:
            raise TableError(f"{where}: column '{column}' is there twice")


def checked(frame: pd.DataFrame, at: Callable[[int], str], where: str) -> pd.DataFrame:
    """`frame` with every column of `Row` in order and with its type, or a TableError that says where, by `at(row)`."""
    _check_columns(list(frame.columns), where)
    frame = frame.copy()
    defaults = {f.name: f.default for f in fields(Row)} | {"source": "estimated"}
    for column in COLUMNS:
        if column not in frame.columns:
            frame[column] = defaults[column]
        elif column not in _TEXT:
            numbers = pd.to_numeric(frame[column].replace("", float("nan")), errors="coerce").astype(float)
            odd = numbers.isna() & ~frame[column].map(_says_unknown)
            _refuse(odd, at, lambda row, c=column: f"{c} is {frame[c][row]!r}, not a number")
            frame[column] = numbers
    frame = frame[list(COLUMNS)].astype({column: str for column in _TEXT})
    _check_values(frame, at)
    return frame.astype({"params": "int64", "count": "int64"})


def _check_values(frame: pd.DataFrame, at: Callable[[int], str]) -> None:
    names = frame["workload"]
    _refuse(names.str.strip() == "", at, lambda row: "workload is empty")
    _refuse(names.duplicated(), at, lambda row: f"workload '{names[row]}' has two rows; keep one")
    for column, known in (("source", SOURCES), ("status", STATUSES)):
        values = frame[column]
        _refuse(
            ~values.isin(known),
            at,
            lambda row, v=values, c=column, k=known: f"{c} '{v[row]}' is none of {', '.join(k)}",
        )
    ok = frame["status"] == "ok"
    for column in NEEDED[1:]:
        values = frame[column]
        fits = (values >= 0) & np.isfinite(values) | ((column == "memory_mb") & values.isna())
        _refuse(
            ok & ~fits,
            at,
            lambda row, v=values, c=column: f"row '{names[row]}': {c} is {v[row]}, must be a number of 0 or more",
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
