"""The lookup tables of a job's other devices: kept in the run folder, and refused when they have changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nas.costs import LookupTable
from nas.costs.budget import DEVICE_NAME
from nas.costs.provenance import calibration_path, meta_path
from nas.errors import ConfigError, shown
from nas.files import content_hash, copy_atomic

FOLDER = "tables"
"""The folder of the run with the table of each other device, `NAME.csv`, and its side files."""


def own_name(device: str) -> str:
    """What budgets call the device that the job measures on: `adb-1234` for `adb:1234`."""
    name = re.sub(r"[^\w.-]", "-", device)
    return name if DEVICE_NAME.fullmatch(name) else f"device-{name}"


def check_names(tables: Mapping[str, str], device: str, file: str) -> None:
    """
    Raises:
        ConfigError: a name that a budget cannot hold, or that of the job's own device.
    """
    for name in tables:
        if not DEVICE_NAME.fullmatch(name):
            raise ConfigError(
                f"{file}: tables: {shown(name)} is no device's name; use letters, digits, '_', '.' and '-'"
            )
        if name == own_name(device):
            raise ConfigError(f"{file}: tables.{name}: is the job's own device, which it measures itself; remove it")


def load(tables: Mapping[str, str], base: Path) -> dict[str, LookupTable]:
    """The tables by device; relative paths start at `base`, and names of shipped tables are accepted.

    Raises:
        TableError, ConfigError: a table cannot be read.
    """
    return {name: LookupTable.load(base / path if (base / path).exists() else path) for name, path in tables.items()}


def keep(tables: Mapping[str, LookupTable], run: Path) -> None:
    """Copy the tables to the run folder, or compare them with those that were copied when the run was started.

    Raises:
        ConfigError: a table has changed since.
    """
    for name, table in tables.items():
        assert table.path is not None
        kept = run / FOLDER / f"{name}.csv"
        if kept.exists():
            if _content(kept) != _content(table.path):
                raise ConfigError(
                    f"{table.path}: the table of {name} has changed since this run was started; "
                    f"restore it from {kept}, or give another --out"
                )
            continue
        for part in (meta_path, calibration_path):  # the table last: with it the copy is complete
            if part(table.path).exists():
                copy_atomic(part(table.path), part(kept))
        copy_atomic(table.path, kept)


def kept_tables(run: Path) -> dict[str, Path]:
    """The tables of the run's other devices by name, in the order of the names."""
    return {path.stem: path for path in sorted((run / FOLDER).glob("*.csv"))}


def _content(path: Path) -> str:
    return content_hash(path, *(p for p in (calibration_path(path),) if p.exists()))
