"""The lookup table: measured latency and memory per workload on one (device, runtime), with provenance.

`NAME.csv` has one row per workload and is append-only while it is measured. Beside it are `NAME.meta.json`, its
provenance, and, after `nas calibrate`, `NAME.calibration.json`, the correction of sums over the table.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nas.config import build
from nas.costs.provenance import Provenance, calibration_path, check_side_files, meta_path
from nas.costs.row import COLUMNS, HEADER, HEADERS, Row, check_rows, read_cells
from nas.errors import NasError, TableError, shown, suggestion
from nas.files import read_json, shipped_files, write_atomic, write_json
from nas.locks import output_lock
from nas.ranges import check_range
from nas.spaces import SearchSpace


@dataclass(frozen=True)
class Calibration:
    """The correction of a sum over the table to a whole model: `latency = scale * sum + offset_ms`.

    Raises:
        ConfigError: a scale of 0 or less, or a number that is not finite.
    """

    scale: float = 1.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, ("scale",), 0, 1e6, above=True)
        check_range(self, ("offset_ms",), -1e12, 1e12)


@dataclass
class LookupTable:
    """Measured or estimated rows by workload, with their provenance.

    Attributes:
        frame: columns as in `Row`, one row a workload.
        provenance: device, chip, runtime and version, dtype, threads, date, commit, ...
        calibration: the correction of sums over the table, if it was fitted.
        path: the file it was read from, for error messages.
    """

    frame: pd.DataFrame
    provenance: Provenance = field(default_factory=Provenance)
    calibration: Calibration | None = None
    path: Path | None = None

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, provenance: Provenance | Mapping[str, Any] | None = None) -> LookupTable:
        """A table from columns workload, latency_ms, memory_mb, weights_mb, params, and any other of `Row`'s.

        Without a column `source`, rows count as `estimated`.

        Raises:
            TableError: a missing or unknown column, a repeated workload, or an invalid value.
        """
        frame = frame.reset_index(drop=True)
        return cls(check_rows(frame, lambda row: f"table: row {row}", "table"), Provenance.from_dict(provenance or {}))

    @classmethod
    def load(cls, path: str | Path) -> LookupTable:
        """Read `path`, its `.meta.json` and its `.calibration.json`. A torn last line is dropped.

        Args:
            path: a CSV file, or the name of a shipped table, such as
                `snapgen_v.roofline.iphone_16_pro_max`.

        Raises:
            TableError: not a lookup table (the message names the line or the column), or an unknown shipped table.
            ConfigError: no such file.
        """
        path = _resolve_path(path)
        frame, lines = read_cells(path)
        table = cls(check_rows(frame, lambda row: f"{path}:{lines[row]}", str(path)), path=path)
        if meta_path(path).exists():
            table.provenance = Provenance.read(path)
        if calibration_path(path).exists():
            where, value = str(calibration_path(path)), read_json(calibration_path(path), "calibration", dict)
            if not {"scale", "offset_ms"} <= value.keys():
                raise TableError(f"{where}: needs the numbers 'scale' and 'offset_ms'")
            table.calibration = build(Calibration, value, where, ignore_unknown=True)
        return table

    def save(self, path: str | Path) -> Path:
        """Write the rows, the provenance and the calibration, if there is one.

        Raises:
            TableError: it cannot be written, another process writes to it, or another table has the same side files. The
                existing files are then unchanged.
        """
        path = Path(path)
        check_side_files(path)
        try:
            with output_lock(path):
                self.provenance.write(path)
                if self.calibration:
                    write_json(calibration_path(path), asdict(self.calibration))
                return write_atomic(path, self.frame.to_csv(index=False, columns=list(COLUMNS)))
        except OSError as error:
            raise _cannot_write(path, error) from None
        except NasError as error:
            raise TableError(str(error)) from None

    @property
    def meta(self) -> dict[str, Any]:
        """The provenance as the dictionary that `.meta.json` holds."""
        return self.provenance.to_dict()

    def rows(self) -> dict[str, Row]:
        """All rows by workload."""
        return {record["workload"]: Row(**record) for record in self.frame.to_dict("records")}


def command_to_measure(space: SearchSpace, table: LookupTable, pipeline: bool = False) -> str:
    """The command that adds the missing rows of a space to a table."""
    options = ["--space", space.name, "--runtime", (table.provenance.runtime or "eager").partition("+")[0]]
    if (device := table.provenance.device or "local") != "local":
        options += ["--device", device]
    options += ["--pipeline"] * pipeline
    return " ".join(["nas profile", *options, "--out", str(table.path or "table.csv")])


class TableWriter:
    """Appends finished rows to a table file so that none is lost if the process is killed.

    Args:
        path: the CSV file; existing rows are kept, except for transferred ones, which measured rows replace.
        provenance: when resuming, its `COMPARABLE_KEYS` must be equal to those of the existing table.

    Attributes:
        done: the workloads with a row.

    Raises:
        TableError: the file is not a table, or was profiled on another device or with other settings.
    """

    def __init__(self, path: str | Path, provenance: Provenance | Mapping[str, Any]) -> None:
        self.path, provenance = Path(path), Provenance.from_dict(provenance)
        self.done: set[str] = set()
        try:
            if self.path.exists() and self.path.stat().st_size:
                self._resume(provenance)
            else:
                check_side_files(self.path)
                provenance.write(self.path)
                write_atomic(self.path, HEADER)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def append(self, row: Row) -> None:
        """Add one row; it is on the disk when this returns.

        Raises:
            TableError: it cannot be written. Earlier rows are not affected.
        """
        line = io.StringIO()
        values = (_cell(value) for value in asdict(row).values())
        csv.writer(line, lineterminator="\n").writerow(values)
        before = self.path.stat().st_size
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # otherwise the incomplete line is dropped on load
                os.truncate(self.path, before)
            raise TableError(
                f"{self.path}: cannot write row '{row.workload}': {error.strerror}; free some space and run again, "
                f"the {len(self.done)} finished rows are kept"
            ) from None
        self.done.add(row.workload)

    def _resume(self, provenance: Provenance) -> None:
        data, header = self.path.read_bytes(), HEADER.encode()
        if any(first_line.encode().startswith(data) for first_line in HEADERS):
            write_atomic(self.path, HEADER)
            return
        table = LookupTable.load(self.path)
        if tuple(read_cells(self.path)[0].columns) != COLUMNS:
            raise TableError(
                f"{self.path}:1: has other columns than this version writes; profile into a new file, and merge both "
                "with 'nas table merge'"
            )
        if differs := table.provenance.difference(provenance):
            key, before, now = differs
            raise TableError(
                f"{self.path}: was profiled with {_setting(key, before)}, now it is {_setting(key, now)}; "
                "give another --out"
            )
        if not data.startswith(
            header
        ):  # of an earlier version, or with the separator, line ends or encoding of another program
            write_atomic(self.path, table.frame.to_csv(index=False, columns=list(COLUMNS)))
        elif not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)
        transferred = table.frame["source"] == "transferred"
        if transferred.any():
            table.frame = table.frame[~transferred]
            if meta_path(self.path).exists():
                stored = table.provenance
                replace(stored, other={k: v for k, v in stored.other.items() if k != "transfer"}).write(self.path)
            write_atomic(self.path, table.frame.to_csv(index=False, columns=list(COLUMNS)))
        self.done = set(table.frame["workload"])


def shipped_tables() -> dict[str, Path]:
    """Paths of the shipped lookup tables by name."""
    return shipped_files("latency_tables", "*.csv")


def _resolve_path(name: str | Path) -> Path:
    """The file of a table, given by a path or by a shipped table's name."""
    path = Path(name)
    if path.suffix.lower() == ".csv" or os.sep in str(name) or path.exists():
        return path
    known = shipped_tables()
    if str(name) not in known:
        hint = suggestion(str(name), known)
        raise TableError(
            f"unknown lookup table '{name}': give the path of a .csv file or a shipped table's name ({', '.join(known)}){hint}"
        )
    return known[str(name)]


def _setting(key: str, value: Any) -> str:
    """A value of the provenance for an error message."""
    return f"no {key}" if value is None else f"{key}={shown(value)}"


def _cannot_write(path: Path, error: OSError) -> TableError:
    return TableError(f"{path}: cannot be written: {error.strerror}; free some space, or give another path")


def _cell(value: Any) -> Any:
    """A value as a CSV cell: NaN is empty, and text has no line breaks, so that a row without line end is incomplete."""
    if isinstance(value, str):
        return " ".join(value.split("\n"))
    return "" if value != value else value
