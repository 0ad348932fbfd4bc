"""Writing files so that a killed process or a full disk never leaves a half-written one behind."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas.errors import ConfigError
from nas.locks import try_lock

TEMPORARY = ".nas-tmp"
"""How the names end of files that are still being written."""

_cleaned: set[str] = set()


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` in one step: a reader sees the old file or the new one, never a part.

    When it returns, the file and its name are on the disk. What processes that were killed left half-written in the same
    folder is removed.

    Raises:
        OSError: the system refused it; its `filename` is the path, and what was there is as it was.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        handle, temporary = _create_temporary(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                with contextlib.suppress(OSError):
                    os.fchmod(handle, stat.S_IMODE(os.stat(path).st_mode))  # a file that was there keeps its mode
                os.fsync(handle)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    return path


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError of the block that names no file the name of the one that was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(TEMPORARY):
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk; without it a power loss may take back a file that was reported as written."""
    with contextlib.suppress(OSError):  # some filesystems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def duplicate(source: Path, target: Path) -> None:
    """Give a file's content a second name, without a moment in which either is missing or half-written.

    A hard link, or a copy where the filesystem has no links.
    """
    temporary = _temporary_name(target)
    try:
        with naming(target):
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # replacing one link by another to the same file does nothing


def remove_stale(folder: Path) -> None:
    """Remove what processes that are dead were writing to a folder; once per folder and process.

    A living process holds a lock on its temporary file.
    """
    if str(folder) in _cleaned:
        return
    _cleaned.add(str(folder))
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(".") and name.endswith(TEMPORARY):
                with contextlib.suppress(OSError), open(folder / name, "r+b") as file:
                    if try_lock(file.fileno()):
                        os.unlink(folder / name)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{TEMPORARY}")


def _create_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, with the mode that the umask asks for, locked so that nobody takes it for stale."""
    while True:
        temporary = _temporary_name(path)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # no locks here: then nobody else can lock it either, and it stays
            try_lock(handle)
        if temporary.exists():
            return handle, temporary
        os.close(handle)  # another process took it for stale before it was locked


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
