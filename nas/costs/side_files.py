"""The files beside a lookup table: its metadata and its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.config import Share, build
from nas.errors import ConfigError, TableError
from nas.files import read_json


def meta_path(path: str | Path) -> Path:
    """Where a table's metadata is: `t.meta.json` of `t.csv`, and `pixel.v1.meta.json` of `pixel.v1`."""
    return _side_file(Path(path), "meta.json")


def calibration_path(path: str | Path) -> Path:
    """Where a table's calibration is, named like its metadata."""
    return _side_file(Path(path), "calibration.json")


def _side_file(path: Path, kind: str) -> Path:
    """A file beside a table that carries its whole name, but for `.csv`.

    Earlier versions dropped whatever stood behind the name's last dot. Such a file is used where it can belong to one table
    only.

    Raises:
        TableError: it can belong to several.
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


def check_alone(path: Path) -> None:
    """
    Raises:
        TableError: another table would have the same side files: `t` and `t.csv`.
    """
    other = path.with_name(path.name.removesuffix(".csv") if path.name.endswith(".csv") else f"{path.name}.csv")
    if other.is_file():
        raise TableError(f"{path}: {other.name} beside it has the same metadata file; give another name")


def read_meta(path: str | Path) -> dict[str, Any]:
    """The metadata of the table at `path`.

    Raises:
        TableError: missing, or of another kind; the text names the field.
    """
    file = meta_path(path)
    try:
        meta = read_json(file, "table metadata", dict)
        build(_Meta, meta, str(file), others=True)
    except ConfigError as error:
        raise TableError(str(error)) from None
    return meta


@dataclass(frozen=True)
class _Part:
    """What is read of the metadata of one visit to a device."""

    repeated: Share | None = None


@dataclass(frozen=True)
class _Meta(_Part):
    """What is read of a table's metadata; there may be more, which is only shown."""

    runtime: str | None = None
    version: str | None = None
    device: str | None = None
    chip: str | None = None
    dtype: str | None = None
    memory: str | None = None
    buffers: str | None = None
    operators: str | None = None
    space: str | None = None
    space_hash: str | None = None
    continued: tuple[_Part, ...] = ()
