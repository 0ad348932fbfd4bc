"""Writing files so that a killed process or a full disk never leaves a half-written one behind."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from nas.errors import ConfigError


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` in one step: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path


def write_json(path: str | Path, value: Any) -> Path:
    return write_atomic(path, json.dumps(value, indent=2) + "\n")


def read_text(path: str | Path, what: str) -> str:
    """The text of a file a person named.

    Raises:
        ConfigError: the file is missing, is a folder, or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file{_neighbour(Path(path))}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the {what} file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text, and so no {what} file (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: this {what} file cannot be read: {error.strerror}") from None


def _neighbour(path: Path) -> str:
    """What a person may have meant by a path that is not there."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if there != path.absolute().parent:
        return f"; there is no folder {path.parent}"
    near = difflib.get_close_matches(
        path.name, [other.name for other in there.iterdir()] if there.is_dir() else [], n=1
    )
    return f"; did you mean '{near[0]}'?" if near else ""


def read_json(path: str | Path, what: str) -> Any:
    """The parsed JSON of a file a person named.

    Raises:
        ConfigError: the file is missing or is not JSON; the text names the line.
    """
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: this {what} file is no JSON: {error.msg}") from None


def short_hash(value: Any) -> str:
    """12 hexadecimal digits that change whenever the JSON form of `value` does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
