"""Write files atomically, so that a killed process or a full disk never leaves a partial file, and read user files."""

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
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from nas.errors import ConfigError, MissingDependency, shown
from nas.locks import try_lock

TEMPORARY = ".nas-tmp"
"""Suffix of files that are being written."""

_cleaned: set[str] = set()


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` atomically: a reader sees the old file or the new one.

    When it returns, the file and its directory entry are synced to disk. Temporary files of killed processes in the same
    folder are removed.

    Raises:
        OSError: the file cannot be written; `filename` is the path, and an existing file is unchanged.
    """
    with _replacing(Path(path)) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def copy_atomic(source: str | Path, path: str | Path) -> Path:
    """Copy a file's content to `path` atomically, like `write_atomic`."""
    with open(source, "rb") as content, _replacing(Path(path)) as file:
        shutil.copyfileobj(content, file)
    return Path(path)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with name_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        handle, temporary = _create_temporary(path)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                with contextlib.suppress(OSError):
                    os.fchmod(handle, stat.S_IMODE(os.stat(path).st_mode))  # an existing file keeps its mode
                os.fsync(handle)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` for a library to write to; it replaces `path` if the block succeeds.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    with name_in_errors(path):
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
def name_in_errors(path: str | Path) -> Iterator[None]:
    """Set `filename` of an OSError that has none, or that of the temporary file, to `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(TEMPORARY):
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk; without it, a power loss may undo the creation of a file."""
    with contextlib.suppress(OSError):  # some filesystems do not support it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Link `target` to the file `source` atomically, or copy it if the filesystem has no hard links."""
    temporary = _temporary_name(target)
    try:
        with name_in_errors(target):
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # os.replace does nothing if both are links to the same file


def remove_stale(folder: Path) -> None:
    """Remove temporary files of dead processes from a folder; once per folder and process.

    A running process holds a lock on its temporary file.
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
    """A new file beside `path` with the default mode, locked so that no process removes it as stale."""
    while True:
        temporary = _temporary_name(path)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # without locks, no other process can lock and remove it either
            try_lock(handle)
        if temporary.exists():
            return handle, temporary
        os.close(handle)  # another process removed it before it was locked


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON with `write_atomic`."""
    return write_atomic(path, json.dumps(value, indent=2) + "\n")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, without blocking on a FIFO or a device.

    Raises:
        OSError: it is missing, not a regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
    return os.fdopen(handle, "rb")


def read_text(path: str | Path, what: str) -> str:
    """The text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one. Line ends become newlines.

    Raises:
        ConfigError: the file is missing, a folder or a device, or not text.
    """
    try:
        data = _read_regular(Path(path), what)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file{_hint(Path(path))}") from None
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
    if not stat.S_ISREG(mode):  # reading a pipe or a device may block
        raise ConfigError(f"{path}: is a pipe or a device; give the {what} file")
    return path.read_bytes()


def _decoded(data: bytes, path: str, what: str) -> str:
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file, as every {what} file must be (byte {error.start} is not {encoding.removesuffix('-sig').upper()}); "
            "if it is text, save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ConfigError(
            f"{path}: not a text file, as every {what} file must be (it has zero bytes); if it is text, save it as UTF-8"
        )
    return text


def _hint(path: Path) -> str:
    """A hint for a missing path: the missing folder, or a file of a similar name."""
    with contextlib.suppress(OSError):  # a folder without read permission
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if folder != path.absolute().parent:
            return f"; folder {path.parent} does not exist"
        names = [other.name for other in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        return f"; did you mean '{near[0]}'?" if near else ""
    return ""


def read_json(path: str | Path, what: str, kind: type | None = None) -> Any:
    """The parsed JSON of a file.

    Args:
        what: the kind of file, for error messages.
        kind: `dict` or `list`, if the value must be one.

    Raises:
        ConfigError: the file is missing, or invalid as described at `parse_json`; the message names the line.
    """
    return parse_json(read_text(path, what), str(path), f"{what} file", kind, lines=True)


def parse_json(text: str, where: str, what: str, kind: type | None = None, lines: bool = False) -> Any:
    """The value of a JSON string from an untrusted source.

    Args:
        where: the file, and the line if the text is one line of it, for error messages.
        what: what the text is, for error messages.
        kind: `dict` or `list`, if the value must be one.
        lines: add the line within the text to `where`.

    Raises:
        ConfigError: not JSON, a repeated key, nesting deeper than `MAX_DEPTH`, an integer of more than 40 digits, or a
            lone surrogate, which cannot be written to a file.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number)
        if _depth(value, text) > MAX_DEPTH:
            raise RecursionError
        if _HALF_PAIR.search(text) and has_half_pair(json.dumps(value, ensure_ascii=False)):
            raise _Refused("it has half of a surrogate pair (\\ud800 to \\udfff)")
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if lines else ""
        raise ConfigError(f"{where}{line}: this {what} is not valid JSON: {error.msg}") from None
    except _Refused as error:
        raise ConfigError(f"{where}: this {what} cannot be used: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: this {what} cannot be used: nested more than {MAX_DEPTH} deep") from None
    if kind is not None and not isinstance(value, kind):
        names = {dict: "an object {...}", list: "a list [...]"}
        raise ConfigError(f"{where}: expected {names[kind]}, found {shown(value)}")
    return value


def has_half_pair(text: str) -> bool:
    """Whether a string has a lone surrogate and cannot be encoded as UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


MAX_DEPTH = 64
"""Deepest nesting of lists and mappings in a file; far above that of this library's files."""

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class _Refused(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Refused(f"{shown(twice)} is given twice; keep one")
    return mapping


def _whole_number(digits: str) -> int:
    if len(digits) > 40:
        raise _Refused(f"it has an integer of {len(digits)} digits ({digits[:12]}...)")
    return int(digits)


def _depth(value: Any, text: str) -> int:
    """Nesting depth of lists and objects; 0 if there are at most `MAX_DEPTH` brackets."""
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
        with name_in_errors(path), open_regular(path) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def local_or_hub(name: str, base: Path) -> str:
    """`name` if it can be a Hugging Face Hub repository and is not a folder; else the folder, relative to `base`."""
    folder = (base / Path(name).expanduser()).absolute()
    hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name if hub and not folder.is_dir() else str(folder)


def download_from_hub(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a Hugging Face Hub repository's snapshot with the files that match the patterns, downloaded once.

    Raises:
        ConfigError: the repository does not exist or cannot be reached.
        MissingDependency: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingDependency("huggingface_hub is not installed; run: pip install 'nas-video[diffusers]'") from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), etag_timeout=5))
    except Exception as error:  # the Hub's client raises its own and its HTTP library's classes
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        parts = dict.fromkeys(f"{pattern.split('/')[0]}/*" if "/" in pattern else pattern for pattern in patterns)
        wanted = " ".join(f'--include "{part}"' for part in parts)
        raise ConfigError(
            f"{name}: no such folder, and the download from the Hub failed ({reason}); on a machine with network access run "
            f"'hf download {name} {wanted}' and copy its folder in ~/.cache/huggingface/hub here, or add "
            "--local-dir DIR and give DIR instead"
        ) from None


def shipped_files(folder: str, pattern: str) -> dict[str, Path]:
    """Paths of the data files in the shipped package `nas.FOLDER`, by their names without suffix."""
    try:
        root = Path(str(resources.files(f"nas.{folder}")))
    except ModuleNotFoundError:  # run from a source tree that was never installed
        root = Path(__file__).resolve().parents[1] / folder
    return {path.stem: path for path in sorted(root.glob(pattern))}
