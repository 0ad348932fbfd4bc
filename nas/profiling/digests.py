"""SHA-256 digests of files and of result lines, and the files that such lines are appended to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; empty if it does not exist."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """The files that are missing or differ from their digests.

    Args:
        folder: that the names are relative to.
        digests: file name -> SHA-256.
    """
    return [name for name, digest in digests.items() if file_hash(folder / name) != digest]


def line_digest(line: Mapping[str, Any], bundle: str) -> str:
    """A digest of a result line that changes when the line is edited, or is copied to the results of another bundle.

    Args:
        line: its `digest`, if it has one, is ignored.
        bundle: identifier of the bundle.
    """
    text = json.dumps({k: v for k, v in line.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(f"{bundle}\n{text}".encode()).hexdigest()


def append_line(path: Path, line: Mapping[str, Any], bundle: str) -> None:
    """Append a result line with its digest as JSON. It is synced to the disk when this returns.

    Raises:
        OSError: the file cannot be written.
    """
    _drop_torn_line(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "digest": line_digest(line, bundle)}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The result lines of a file, without a last one that was not written to its end; empty if the file does not exist."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _drop_torn_line(path: Path) -> None:
    """Remove a last line that was not written to its end."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            os.truncate(path, end)
