"""The lookup table: measured latency and memory per workload on one (device, runtime), with provenance.

`NAME.csv` holds one row a workload and is append-only while it is measured; `NAME.meta.json` beside it says where the
numbers come from, and `NAME.calibration.json`, once `nas calibrate` wrote it, how sums are corrected.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from nas.errors import TableError
from nas.files import read_json, read_text, write_atomic, write_json
from nas.spaces import SearchSpace

SOURCES = ("measured", "estimated", "interpolated")
SAME = (
    "runtime",
    "version",
    "device",
    "phone",
    "chip",
    "dtype",
    "threads",
    "wait",
    "compute_unit",
    "target",
    "operators",
)
"""What rows of one table must share, of its metadata; a profile that was begun otherwise is not resumed."""

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
_TEXT = ("workload", "form", "source", "status", "reason")


@dataclass(frozen=True)
class Calibration:
    """The correction of a sum over the table to a whole model: `latency = scale * sum + offset_ms`."""

    scale: float = 1.0
    offset_ms: float = 0.0


@dataclass
class LookupTable:
    """Rows by workload, and where they come from.

    Attributes:
        frame: columns as in `Row`, one row a workload.
        meta: device, chip, OS, runtime and version, dtype, threads, protocol, date, commit.
        calibration: how sums over the table are corrected, if that was measured.
        path: the file it was read from, for messages.
    """

    frame: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    path: Path | None = None

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, meta: dict[str, Any] | None = None) -> LookupTable:
        """A table from columns workload, latency_ms, memory_mb, weights_mb, params, and any other of `Row`'s.

        Rows that do not say where they come from count as `estimated`.

        Raises:
            TableError: a missing or unknown column, a workload twice, or a value that cannot be.
        """
        return cls(_checked(frame.copy(), "table"), dict(meta or {}))

    @classmethod
    def load(cls, path: str | Path) -> LookupTable:
        """Read `path`, its `.meta.json` and its `.calibration.json`. A torn last line is dropped.

        Raises:
            TableError: not a lookup table; the text names the line or the column.
            ConfigError: no such file.
        """
        path = Path(path)
        try:
            frame = pd.read_csv(io.StringIO(_whole_lines(read_text(path, "lookup table"))), keep_default_na=False)
        except pd.errors.ParserError as error:
            reason = " ".join(str(error).split())
            raise TableError(
                f"{path}: not a lookup table: it starts with 'workload,latency_ms,...' ({reason})"
            ) from None
        except pd.errors.EmptyDataError:
            raise TableError(f"{path}: empty; a lookup table starts with the line 'workload,latency_ms,...'") from None
        table = cls(_checked(frame, str(path)), path=path)
        if meta_path(path).exists():
            table.meta = read_json(meta_path(path), "table metadata")
            if not isinstance(table.meta, dict):
                raise TableError(f"{meta_path(path)}: expected a JSON object of provenance, found {table.meta!r:.40}")
        if calibration_path(path).exists():
            value = read_json(calibration_path(path), "calibration")
            try:
                table.calibration = Calibration(float(value["scale"]), float(value["offset_ms"]))
            except (KeyError, TypeError, ValueError):
                raise TableError(f"{calibration_path(path)}: needs the numbers 'scale' and 'offset_ms'") from None
        return table

    def save(self, path: str | Path) -> Path:
        """Write the rows and the metadata; the calibration too, if there is one."""
        path = Path(path)
        write_json(meta_path(path), self.meta)
        if self.calibration:
            write_json(calibration_path(path), asdict(self.calibration))
        return write_atomic(path, self.frame.to_csv(index=False, columns=list(COLUMNS)))

    def rows(self) -> dict[str, Row]:
        """Every row by its workload."""
        return {record["workload"]: Row(**record) for record in self.frame.to_dict("records")}


def command_to_measure(space: SearchSpace, table: LookupTable, pipeline: bool = False) -> str:
    """The command that adds to a table what a space needs and the table lacks."""
    options = ["--space", space.name, "--runtime", str(table.meta.get("runtime", "eager")).partition("+")[0]]
    if table.meta.get("device", "local") != "local":
        options += ["--device", str(table.meta["device"])]
    options += ["--pipeline"] * pipeline
    return " ".join(["nas profile", *options, "--out", str(table.path or "table.csv")])


class TableWriter:
    """Appends finished rows to a table so that a kill at any moment loses none of them.

    Args:
        path: the CSV; rows that are already there are kept.
        meta: provenance; on resuming, the keys in `SAME` must be what they were.

    Attributes:
        done: the workloads that have a row.

    Raises:
        TableError: the file is no table, or was measured on another device or in another way.
    """

    def __init__(self, path: str | Path, meta: dict[str, Any]) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        if self.path.exists() and self.path.stat().st_size:
            self._resume(meta)
        else:
            write_json(meta_path(self.path), meta)
            write_atomic(self.path, ",".join(COLUMNS) + "\n")

    def append(self, row: Row) -> None:
        """Add one row; it is on the disk when this returns.

        Raises:
            TableError: the disk refused it. The rows before it are safe.
        """
        line = io.StringIO()
        values = ("" if value != value else value for value in asdict(row).values())  # NaN is an empty cell
        csv.writer(line, lineterminator="\n").writerow(values)
        before = self.path.stat().st_size
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, before)
            raise TableError(
                f"{self.path}: cannot write row '{row.workload}': {error.strerror}; free some space and run again, "
                f"the {len(self.done)} finished rows are kept"
            ) from None
        self.done.add(row.workload)

    def _resume(self, meta: dict[str, Any]) -> None:
        whole = _whole_lines(read_text(self.path, "lookup table"))
        os.truncate(self.path, len(whole.encode()))
        if not whole:
            write_atomic(self.path, ",".join(COLUMNS) + "\n")
            return
        table = LookupTable.load(self.path)
        if tuple(table.frame.columns) != COLUMNS:
            raise TableError(f"{self.path}: has other columns than this version writes; profile into a new file")
        for key in SAME:
            if table.meta.get(key) != meta.get(key):
                raise TableError(
                    f"{self.path}: was measured with {key}={table.meta.get(key)!r}, now it is {meta.get(key)!r}; "
                    "give another --out"
                )
        self.done = set(table.frame["workload"])


def meta_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".meta.json")


def calibration_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".calibration.json")


def _whole_lines(text: str) -> str:
    """Without a last line that has no line end: a row that was being written when the power went."""
    return text[: text.rfind("\n") + 1]


def _checked(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """`frame` with every column of `Row` in order and with its type, or a TableError."""
    for column in NEEDED:
        if column not in frame.columns:
            raise TableError(f"{where}: column '{column}' is missing; a table needs {', '.join(NEEDED)}")
    unknown = [column for column in frame.columns if column not in COLUMNS]
    if unknown:
        raise TableError(f"{where}: unknown column '{unknown[0]}'; known: {', '.join(COLUMNS)}")
    defaults = {f.name: f.default for f in fields(Row)} | {"source": "estimated"}
    for column in COLUMNS:
        if column not in frame.columns:
            frame[column] = defaults[column]
        elif column not in _TEXT:
            try:
                frame[column] = pd.to_numeric(frame[column].replace("", float("nan")))
            except (ValueError, TypeError) as error:
                raise TableError(f"{where}: column '{column}': {error}") from None
    frame = frame[list(COLUMNS)].astype({column: str for column in _TEXT}).reset_index(drop=True)
    _check_values(frame, where)
    return frame.astype({"params": "int64", "count": "int64"})


def _check_values(frame: pd.DataFrame, where: str) -> None:
    twice = frame["workload"][frame["workload"].duplicated()]
    if len(twice):
        raise TableError(f"{where}: workload '{twice.iloc[0]}' has two rows; keep one")
    wrong = frame[~frame["source"].isin(SOURCES)]
    if len(wrong):
        raise TableError(f"{where}: source '{wrong['source'].iloc[0]}' is none of {', '.join(SOURCES)}")
    for column in NEEDED[1:]:
        unknown = frame[column].isna() & (column == "memory_mb")
        wrong = frame[~(frame[column] >= 0) & ~unknown & (frame["status"] == "ok")]
        if len(wrong):
            row = wrong.iloc[0]
            raise TableError(f"{where}: row '{row['workload']}': {column} is {row[column]}, must be 0 or more")
    bad = frame[["params", "count"]].isna().any(axis=1)
    if bad.any():
        raise TableError(f"{where}: row '{frame['workload'][bad].iloc[0]}': params and count must be whole numbers")
