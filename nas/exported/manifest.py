"""Read `export.json`, and check that an export folder holds what it lists."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nas.config import build
from nas.errors import ConfigError
from nas.exported.app import SCHEMA_VERSION, Manifest
from nas.files import read_json

MANIFEST = "export.json"


def read(folder: str | Path, name: str) -> Manifest:
    """Read the entry of format `name` in an export folder's manifest.

    Raises:
        ConfigError: `export.json` is missing, has another schema version, or has no entry of the format.
    """
    path = Path(folder) / MANIFEST
    if Path(folder).is_file() or (Path(folder).is_dir() and not path.exists()):
        what = "is a file" if Path(folder).is_file() else f"contains no {MANIFEST}"
        raise ConfigError(f"{folder}: {what}; give a folder that 'nas export' wrote")
    entries = read_json(path, "export manifest", dict)
    version = entries.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version: expected {SCHEMA_VERSION}, not {version}; export it again")
    if name not in entries:
        raise ConfigError(
            f"{path}: has no entry for format {name}; run 'nas export --format {name}' with this folder as --out"
        )
    return build(Manifest, entries[name], str(path), name, ignore_unknown=True)


def check_files(folder: str | Path, manifest: Manifest) -> None:
    """Check that every file of an entry is in the folder, unchanged.

    Raises:
        ConfigError: a file is missing or differs from the one that was exported.
    """
    for file in manifest.files:
        path = Path(folder) / file.path
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise ConfigError(f"{folder}/{MANIFEST}: files: '{file.path}' is outside the folder; export it again")
        if not path.is_file():
            raise ConfigError(f"{path}: is missing, but {MANIFEST} lists it; copy it again, or export again")
        if sha256(path) != file.sha256:
            raise ConfigError(f"{path}: is not the file that {MANIFEST} lists (sha256); copy it again, or export again")


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
