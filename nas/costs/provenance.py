"""The provenance of a lookup table (`NAME.meta.json`), and the paths of the files beside a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nas.config import Share, build
from nas.errors import ConfigError, TableError
from nas.files import read_json, write_json

COMPARABLE_KEYS = (
    "runtime",
    "version",
    "device",
    "phone",
    "chip",
    "dtype",
    "precision",
    "threads",
    "wait",
    "compute_unit",
    "target",
    "engine",
    "wasm",
    "operators",
    "buffers",
    "figures",
)
"""Fields of the provenance that must be equal for rows to be in one table. A profile is not resumed if one differs."""


@dataclass(frozen=True)
class _Visit:
    """What is read of an entry of `Provenance.continued`."""

    repeated: Share | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the rows of a lookup table come from; a field is None if it is not recorded.

    Attributes:
        runtime, version: the runtime and its version.
        device, phone, chip, os: the device; `phone` is a hash of its serial number.
        dtype: of weights and activations.
        precision: of the stored weights, such as `int8`, if it is not that of `dtype`.
        threads, wait, compute_unit, target: settings of the runtime.
        engine, wasm: of a browser, with its major version, and the build of the WebAssembly library.
        memory: how memory was measured; begins with `estimated` if it was not.
        buffers: `kept` if the runtime does not release its buffers between layers.
        operators: `in place` if operators were timed inside the backbone, `alone` if each was a model of its own.
        figures: of an estimate, the numbers of the device that it is based on.
        space, space_hash: the search space.
        bundle: the bundle that the table was collected from.
        date, commit: when, and with which version of this library.
        repeated: share of the timed blocks that were repeated because the reference workload was slow.
        continued: for each later run that added rows, the values that differed.
        other: all other entries, which are only displayed.

    Raises:
        ConfigError: a share that is none.
    """

    runtime: str | None = None
    version: str | None = None
    device: str | None = None
    phone: str | None = None
    chip: str | None = None
    os: str | None = None
    dtype: str | None = None
    precision: str | None = None
    threads: int | None = None
    wait: str | None = None
    compute_unit: str | None = None
    target: str | None = None
    engine: str | None = None
    wasm: str | None = None
    memory: str | None = None
    buffers: str | None = None
    operators: str | None = None
    figures: dict[str, Any] | None = None
    space: str | None = None
    space_hash: str | None = None
    bundle: str | None = None
    date: str | None = None
    commit: str | None = None
    repeated: Share | None = None
    continued: tuple[dict[str, Any], ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, visit in enumerate(self.continued):
            build(_Visit, visit, "", f"continued[{i}]", ignore_unknown=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | Provenance, where: str = "provenance") -> Provenance:
        """The provenance with the entries of a `.meta.json`; `where` is its name for error messages.

        A `Provenance` is returned as it is.

        Raises:
            TableError: an entry of another type; the message names it.
        """
        if isinstance(values, Provenance):
            return values
        names = {f.name for f in fields(cls)} - {"other"}
        known = {name: value for name, value in values.items() if name in names}
        other = {name: value for name, value in values.items() if name not in names}
        try:
            return build(cls, {**known, "other": other}, where)
        except ConfigError as error:
            raise TableError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """The entries that are recorded, as `from_dict` reads them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "other"}
        values["continued"] = list(self.continued) or None
        return {**{name: value for name, value in values.items() if value is not None}, **self.other}

    @classmethod
    def read(cls, path: str | Path) -> Provenance:
        """The provenance of the table at `path`.

        Raises:
            TableError: the file is missing, or an entry has another type; the message names it.
        """
        file = meta_path(path)
        try:
            values = read_json(file, "table metadata", dict)
        except ConfigError as error:
            raise TableError(str(error)) from None
        return cls.from_dict(values, str(file))

    def write(self, path: str | Path) -> Path:
        """Write it beside the table at `path`."""
        return write_json(meta_path(path), self.to_dict())

    def difference(self, later: Provenance) -> tuple[str, Any, Any] | None:
        """The first of `COMPARABLE_KEYS` that differs, with both values; None if rows of both may be in one table."""
        for key in COMPARABLE_KEYS:
            if getattr(self, key) != getattr(later, key):
                return key, getattr(self, key), getattr(later, key)
        return None


def meta_path(path: str | Path) -> Path:
    """The path of a table's provenance: `t.meta.json` of `t.csv`, and `pixel.v1.meta.json` of `pixel.v1`."""
    return _side_file(Path(path), "meta.json")


def calibration_path(path: str | Path) -> Path:
    """The path of a table's calibration, named like its provenance."""
    return _side_file(Path(path), "calibration.json")


def _side_file(path: Path, kind: str) -> Path:
    """The file beside a table that has its whole name, except for `.csv`.

    Earlier versions dropped the table's last suffix. Such a file is used if it can belong to one table only.

    Raises:
        TableError: it can belong to several tables.
    """
    own, old = path.with_name(f"{path.name.removesuffix('.csv')}.{kind}"), path.with_suffix(f".{kind}")
    if own == old or own.exists() or not (path.is_file() and old.exists()):
        return own
    stem = path.with_suffix("").name
    if path.with_name(f"{stem}.csv").exists():  # it is that table's
        return own
    tables = [file for file in path.parent.iterdir() if file.is_file() and file.with_suffix("").name == stem]
    others = [
        file.name
        for file in tables
        if file.suffix not in (".json", ".journal", ".yaml", ".png", ".html")
        and file.name != path.name
        and not file.with_name(f"{file.name}.{kind}").exists()
    ]
    if others:
        raise TableError(
            f"{path}: {old.name} beside it may belong to it or to {others[0]}; rename it to {own.name}, or to "
            f"{others[0]}.{kind}"
        )
    return old


def check_side_files(path: Path) -> None:
    """Check that no other table has the same side files, as `t` and `t.csv` would.

    Raises:
        TableError: there is such a table.
    """
    other = path.with_name(path.name.removesuffix(".csv") if path.name.endswith(".csv") else f"{path.name}.csv")
    if other.is_file():
        raise TableError(f"{path}: {other.name} beside it has the same metadata file; give another name")
