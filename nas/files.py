"""Writing files so that a killed process or a full disk never leaves a half-written one behind, and reading those of
other people."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nas.errors import ConfigError, shown
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
    with _replacing(Path(path)) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def copy_atomic(source: str | Path, path: str | Path) -> Path:
    """Copy a file's content to `path`, as `write_atomic` writes it."""
    with open(source, "rb") as content, _replacing(Path(path)) as file:
        shutil.copyfileobj(content, file)
    return Path(path)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        handle, temporary = _create_temporary(path)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
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


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` for a library to write to; it takes the place of `path` if the block ends well.

    Raises:
        OSError: the system refused it; what was there is as it was.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        handle, temporary = _create_temporary(path)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
        sync_folder(path.parent)


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


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file for reading. Opening a FIFO would wait for its writer, and reading a device may never end.

    Raises:
        OSError: it is missing, is no regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
    return os.fdopen(handle, "rb")


def read_text(path: str | Path, what: str) -> str:
    """The text of a file a person named: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Line ends are those of Python, however the file has them.

    Raises:
        ConfigError: the file is missing, is a folder or a device, or is not text.
    """
    try:
        data = _read_regular(Path(path), what)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file{_neighbour(Path(path))}") from None
    except OSError as error:
        raise ConfigError(f"{path}: this {what} file cannot be read: {error.strerror}") from None
    except ConfigError:
        raise
    except ValueError as error:  # a zero byte in the path
        raise ConfigError(f"{shown(str(path))}: no such {what} file: {error}") from None
    return _decoded(data, str(path), what).replace("\r\n", "\n").replace("\r", "\n")


def _read_regular(path: Path, what: str) -> bytes:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path}: is a folder; give the {what} file")
    if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
        raise ConfigError(f"{path}: is a pipe or a device; give a {what} file")
    return path.read_bytes()


def _decoded(data: bytes, path: str, what: str) -> str:
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not text, and so no {what} file (byte {error.start} is not {encoding.removesuffix('-sig').upper()}); "
            "if it is text, save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ConfigError(f"{path}: not text, and so no {what} file (zero bytes); if it is text, save it as UTF-8")
    return text


def _neighbour(path: Path) -> str:
    """What a person may have meant by a path that is not there."""
    with contextlib.suppress(OSError):  # a folder that may not be listed
        there = next(parent for parent in path.absolute().parents if parent.exists())
        if there != path.absolute().parent:
            return f"; there is no folder {path.parent}"
        names = [other.name for other in there.iterdir()] if there.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        return f"; did you mean '{near[0]}'?" if near else ""
    return ""


def read_json(path: str | Path, what: str, kind: type | None = None) -> Any:
    """The parsed JSON of a file a person named.

    Args:
        what: the file's kind, for errors.
        kind: `dict` or `list`, if the whole must be one.

    Raises:
        ConfigError: the file is missing or is not JSON; the text names the line. As `parse_json` besides.
    """
    return parse_json(read_text(path, what), str(path), f"{what} file", kind, lines=True)


def parse_json(text: str, where: str, what: str, kind: type | None = None, lines: bool = False) -> Any:
    """The value of a JSON text that another program, or a person, may have written.

    Args:
        where: the file's name, with its line if the text is one line of it, for errors.
        what: what the text is, for errors.
        kind: `dict` or `list`, if the whole must be one.
        lines: add the line within the text to `where`.

    Raises:
        ConfigError: not JSON, a key given twice, brackets nested more than `MAX_DEPTH` deep, an integer of more than 40
            digits, or half of a surrogate pair, which cannot be written to a file.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number)
        if _depth(value, text) > MAX_DEPTH:
            raise RecursionError
        if _HALF_PAIR.search(text) and has_half_pair(json.dumps(value, ensure_ascii=False)):
            raise _Refused("it holds half of a surrogate pair (\\ud800 to \\udfff)")
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if lines else ""
        raise ConfigError(f"{where}{line}: this {what} is no JSON: {error.msg}") from None
    except _Refused as error:
        raise ConfigError(f"{where}: this {what} cannot be used: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: this {what} cannot be used: nested more than {MAX_DEPTH} deep") from None
    if kind is not None and not isinstance(value, kind):
        names = {dict: "an object {...}", list: "a list [...]"}
        raise ConfigError(f"{where}: expected {names[kind]}, found {shown(value)}")
    return value


def has_half_pair(text: str) -> bool:
    """Whether a text holds a lone surrogate, so that it cannot be written as UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


MAX_DEPTH = 64
"""Brackets within brackets; no file of this library comes near."""

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class _Refused(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"{shown(twice)} is given twice; keep one")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > 40:
        raise _Refused(f"it holds an integer of {len(digits)} digits ({digits[:12]}...)")
    return int(digits)


def _depth(value: Any, text: str) -> int:
    """How deep lists and objects are nested; 0 where there are too few brackets to matter."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    depth, level = 0, [value]
    while level := [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]:
        depth += 1
    return depth


def _inside(outer: dict | list) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer


def short_hash(value: Any) -> str:
    """12 hexadecimal digits that change whenever the JSON form of `value` does."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_hash(*paths: str | Path) -> str:
    """12 hexadecimal digits that change with the content of any of the files."""
    digest = hashlib.sha256()
    for path in paths:
        with naming(path), open_regular(path) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def local_or_hub(name: str, base: Path) -> str:
    """The folder `name`, relative to `base`, if there is one or `name` cannot be the Hub's; else the name."""
    folder = (base / Path(name).expanduser()).absolute()
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name if hub and not folder.is_dir() else str(folder)
