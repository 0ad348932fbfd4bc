"""The lookup table: measured latency and memory per workload on one (device, runtime), with provenance.

`NAME.csv` holds one row a workload and is append-only while it is measured; `NAME.meta.json` beside it says where the
numbers come from, and `NAME.calibration.json`, once `nas calibrate` wrote it, how sums are corrected.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from nas.config import build
from nas.costs.row import COLUMNS, HEADER, HEADERS, Row, check_rows, read_cells
from nas.costs.side_files import calibration_path, check_alone, meta_path, read_meta
from nas.errors import NasError, TableError, shown, suggestion
from nas.files import read_json, write_atomic, write_json
from nas.locks import output_lock
from nas.ranges import check_range
from nas.spaces import SearchSpace

COMPARABLE_KEYS = (
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
    "buffers",
    "figures",
)
"""What rows of one table must share, of its metadata; a profile that was begun otherwise is not resumed."""


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
        frame = frame.reset_index(drop=True)
        return cls(check_rows(frame, lambda row: f"table: row {row}", "table"), dict(meta or {}))

    @classmethod
    def load(cls, path: str | Path) -> LookupTable:
        """Read `path`, its `.meta.json` and its `.calibration.json`. A torn last line is dropped.

        Args:
            path: a CSV file, or the name of a table that comes with the package, such as `snapgen_v.litert`.

        Raises:
            TableError: not a lookup table; the text names the line or the column. Or no shipped table of that name.
            ConfigError: no such file.
        """
        path = _file_of(path)
        frame, lines = read_cells(path)
        table = cls(check_rows(frame, lambda row: f"{path}:{lines[row]}", str(path)), path=path)
        if meta_path(path).exists():
            table.meta = read_meta(path)
        if calibration_path(path).exists():
            where, value = str(calibration_path(path)), read_json(calibration_path(path), "calibration", dict)
            if not {"scale", "offset_ms"} <= value.keys():
                raise TableError(f"{where}: needs the numbers 'scale' and 'offset_ms'")
            table.calibration = build(Calibration, value, where, others=True)
        return table

    def save(self, path: str | Path) -> Path:
        """Write the rows and the metadata; the calibration too, if there is one.

        Raises:
            TableError: the disk refused it, another process writes to it, or another table has the same side files; what
                was there is as it was.
        """
        path = Path(path)
        check_alone(path)
        try:
            with output_lock(path):
                write_json(meta_path(path), self.meta)
                if self.calibration:
                    write_json(calibration_path(path), asdict(self.calibration))
                return write_atomic(path, self.frame.to_csv(index=False, columns=list(COLUMNS)))
        except OSError as error:
            raise _cannot_write(path, error) from None
        except NasError as error:
            raise TableError(str(error)) from None

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
        meta: provenance; on resuming, the keys in `COMPARABLE_KEYS` must be what they were.

    Attributes:
        done: the workloads that have a row.

    Raises:
        TableError: the file is no table, or was profiled on another device or in another way.
    """

    def __init__(self, path: str | Path, meta: dict[str, Any]) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        try:
            if self.path.exists() and self.path.stat().st_size:
                self._resume(meta)
            else:
                check_alone(self.path)
                write_json(meta_path(self.path), meta)
                write_atomic(self.path, HEADER)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def append(self, row: Row) -> None:
        """Add one row; it is on the disk when this returns.

        Raises:
            TableError: the disk refused it. The rows before it are safe.
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
            with contextlib.suppress(OSError):  # if not now, the torn line is dropped on load
                os.truncate(self.path, before)
            raise TableError(
                f"{self.path}: cannot write row '{row.workload}': {error.strerror}; free some space and run again, "
                f"the {len(self.done)} finished rows are kept"
            ) from None
        self.done.add(row.workload)

    def _resume(self, meta: dict[str, Any]) -> None:
        data, header = self.path.read_bytes(), HEADER.encode()
        if any(first_line.encode().startswith(data) for first_line in HEADERS):
            write_atomic(self.path, HEADER)
            return
        table = LookupTable.load(self.path)
        if tuple(read_cells(self.path)[0].columns) != COLUMNS:
            raise TableError(
                f"{self.path}:1: has other columns than this version writes; profile into a new file, or join the two "
                "with 'nas table merge'"
            )
        for key in COMPARABLE_KEYS:
            if table.meta.get(key) != meta.get(key):
                raise TableError(
                    f"{self.path}: was profiled with {key}={shown(table.meta.get(key))}, now it is "
                    f"{shown(meta.get(key))}; give another --out"
                )
        if not data.startswith(
            header
        ):  # of an earlier version, or with the separator, line ends or encoding of another program
            write_atomic(self.path, table.frame.to_csv(index=False, columns=list(COLUMNS)))
        elif not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)
        self.done = set(table.frame["workload"])


def shipped_tables() -> dict[str, Path]:
    """The lookup tables that come with the package, by name."""
    try:
        folder = Path(str(resources.files("nas.latency_tables")))
    except ModuleNotFoundError:  # run from a source tree that was never installed
        folder = Path(__file__).resolve().parents[2] / "latency_tables"
    return {path.stem: path for path in sorted(folder.glob("*.csv"))}


def _file_of(name: str | Path) -> Path:
    """The file of a table: a path where there is one, else a shipped table's name."""
    path = Path(name)
    if path.suffix.lower() == ".csv" or os.sep in str(name) or path.exists():
        return path
    known = shipped_tables()
    if str(name) not in known:
        hint = suggestion(str(name), known)
        raise TableError(
            f"no lookup table '{name}': give the path of a .csv file or a shipped table's name ({', '.join(known)}){hint}"
        )
    return known[str(name)]


def _cannot_write(path: Path, error: OSError) -> TableError:
    return TableError(f"{path}: cannot be written: {error.strerror}; free some space, or give another path")


def _cell(value: Any) -> Any:
    """NaN is an empty cell; a text stays on its line, so that a torn row is one without a line end."""
    if isinstance(value, str):
        return " ".join(value.split("\n"))
    return "" if value != value else value
