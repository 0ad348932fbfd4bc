"""Read `export.json`."""

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
    entries = read_json(path, "export manifest", dict)
    version = entries.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version: expected {SCHEMA_VERSION}, not {version}; export it again")
    if name not in entries:
        raise ConfigError(
            f"{path}: has no entry for format {name}; run 'nas export --format {name}' with this folder as --out"
        )
    return build(Manifest, entries[name], str(path), name, ignore_unknown=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
