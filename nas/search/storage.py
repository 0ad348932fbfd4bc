"""Where a study is kept: an Optuna journal or a database; opened, mended, locked, and read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.trial import FrozenTrial, TrialState

from nas.errors import FIXES, ConfigError, NasError
from nas.spaces import SearchSpace

KEPT = "what finished is kept, run again to go on"


class StorageError(NasError, RuntimeError):
    """A study's storage failed while it was used: a full disk, a lost connection."""


def open_storage(storage: str | Path | None) -> optuna.storages.BaseStorage:
    """An Optuna storage from an RDB URL or the path of a journal file; in memory for None.

    A last journal line that a crash or a full disk tore is dropped: Optuna could not read past it.

    Raises:
        ConfigError: it cannot be opened, or is no journal.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage()
    if is_database(storage):
        return _open_database(str(storage))
    path = Path(storage)
    if re.match(r"[\w+]+:/", str(storage)) and "@" in str(storage):  # as a path it would become folders
        raise ConfigError(f"{without_password(storage)}: a database's URL has two slashes after the colon")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the storage a file name, such as {path / 'study.journal'}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no regular file, and so no study's journal; give another --storage")
    with storage_errors(storage):
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = Journal(path)
        backend.drop_torn_lines()
    try:
        return optuna.storages.JournalStorage(backend)
    except NasError:
        raise
    except Exception as error:  # Optuna checks nothing of what it reads
        raise ConfigError(
            f"{path}: a broken journal of a study ({one_line(error)}); restore it, or give another --storage"
        ) from None


def is_database(storage: str | Path | None) -> bool:
    return storage is not None and "://" in str(storage)


def storage_file(storage: str | Path | None) -> Path | None:
    """The file that holds a study: a journal or an SQLite database; None in memory and on a server."""
    if storage is None or not is_database(storage):
        return None if storage is None else Path(storage)
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", str(storage))
    return Path(found[1]) if found and found[1] != ":memory:" and not found[1].startswith("file:") else None


# -- what may be printed ------------------------------------------------------------------------------------------------


_USER = re.compile(r"(:/{1,2}[^:/?#\s@]*:)[^\s'\"]*@")
_FIELD = re.compile(r"((?:pass|pwd|secret|token|key)\w*\s*=\s*)[^&\s'\",;)]+", re.IGNORECASE)


def without_password(storage: str | Path | None) -> str:
    """A storage as it may be printed: a URL without its password."""
    return (
        _FIELD.sub(r"\1***", _USER.sub(r"\1***@", str(storage)))
        if "://" in str(storage) or "@" in str(storage)
        else str(storage)
    )


def _reason(error: BaseException, storage: str | Path | None) -> str:
    """The first line of an error without the passwords of the storage's URL."""
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    for pattern in (r":/{1,2}[^:/?#\s@]*:([^\s'\"]*)@", r"(?i)[?&]\w*(?:pass|pwd|secret|token|key)\w*=([^&\s]+)"):
        for secret in re.findall(pattern, str(storage)):
            for form in {secret, unquote(secret)} - {""}:
                text = text.replace(form, "***")
    return _FIELD.sub(r"\1***", _USER.sub(r"\1***@", text))


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


@contextlib.contextmanager
def storage_errors(storage: str | Path | None) -> Iterator[None]:
    """Turn what the system, Optuna or a database raises about the storage into one line, without its password.

    Raises:
        StorageError: whatever was raised, but for errors of this library.
    """
    message = ""
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        message = _message(error, storage)
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy"):
            raise
        message = _message(error, storage)
    if message:  # outside, so that no exception that holds the URL stays attached
        raise StorageError(message)


def _message(error: Exception, storage: str | Path | None) -> str:
    if isinstance(error, OSError):
        fix = FIXES.get(error.errno, "give another --storage")
        return f"{error.filename or without_password(storage)}: the study cannot be kept here: {error.strerror or error}; {fix}; {KEPT}"
    cause = error.__cause__ or error
    return f"{without_password(storage)}: the study's database failed ({_reason(cause, storage)}); {KEPT}"


def _open_database(url: str) -> optuna.storages.BaseStorage:
    reason = ""
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever SQLAlchemy or a driver raises
        reason = _reason(error, url)
    raise ConfigError(f"{without_password(url)}: cannot be opened ({reason}); give a journal file or another --storage")


# -- the journal --------------------------------------------------------------------------------------------------------


class Journal(optuna.storages.journal.JournalFileBackend):
    """Optuna's journal file; a line that does not reach the disk whole is taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), lock_obj=_FileLock(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with storage_errors(self.path), get_lock_file(self._lock):
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                end = os.fstat(file).st_size
                try:
                    _write(file, data)
                    os.fsync(file)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file, end)
                    raise
            finally:
                os.close(file)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        with storage_errors(self.path):
            yield from super().read_logs(log_number_from)

    def drop_torn_lines(self) -> None:
        """Drop last lines that are torn or garbled, and check the form of all others.

        Raises:
            ConfigError: the file is no journal, or a line in its middle is broken.
        """
        with get_lock_file(self._lock):
            data = self.path.read_bytes()
            lines = data.splitlines(keepends=True) if b"\r" not in data else data.replace(b"\r\n", b"\n").split(b"\n")
            good = [_is_entry(line) for line in lines]
            if lines and not any(good) and not _may_be_torn(data):
                raise ConfigError(f"{self.path}: not a study's journal; give another --storage")
            last = max((i for i, fine in enumerate(good) if fine), default=-1)
            if not all(good[: last + 1]):
                line = good.index(False) + 1
                raise ConfigError(
                    f"{self.path}:{line}: a broken line in a study's journal; restore the file, or give another --storage"
                )
            kept = sum(len(line) for line in lines[: last + 1])
            if b"\r" not in data and kept < len(data):
                if any(line.endswith(b"\n") for line in lines[last + 1 :]):
                    print(
                        f"warning: {self.path}: dropped {len(lines) - last - 1} unreadable lines at its end",
                        file=sys.stderr,
                    )
                os.truncate(self.path, kept)


def _is_entry(line: bytes) -> bool:
    """Whether a line is a whole entry of an Optuna journal, by its form."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    known = set(int(operation) for operation in optuna.storages.journal._storage.JournalOperation)
    fields = isinstance(entry, dict) and type(entry.get("op_code")) is int and isinstance(entry.get("worker_id"), str)
    return fields and entry["op_code"] in known and line.endswith(b"\n")


def _may_be_torn(data: bytes) -> bool:
    """Whether a file without one whole entry may be what is left of a journal's first."""
    return not data.strip(b"\0") or (b"\n" not in data and b'{"op_code":'.startswith(data[:11]))


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class _FileLock(BaseJournalFileLock):
    """A lock that the kernel drops when its holder is killed; Optuna's own outlives it for 30 s.

    Where the filesystem refuses such locks (some NFS), Optuna's own is taken, a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.threads = threading.Lock()
        self.handle: int | None = None
        self.link: BaseJournalFileLock | None = None

    def acquire(self) -> bool:
        self.threads.acquire()
        try:
            try:
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EROFS):
                    raise
                self.handle = os.open(self.path, os.O_RDONLY)  # enough to look at it
            if self.link is None:
                try:
                    fcntl.flock(self.handle, fcntl.LOCK_EX)
                except OSError:
                    self.link = optuna.storages.journal.JournalFileSymlinkLock(self.path)
            if self.link is not None:
                self.link.acquire()
        except BaseException:
            self._close()
            raise
        return True

    def release(self) -> None:
        try:
            if self.link is not None:
                self.link.release()
        finally:
            self._close()

    def _close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)
        self.threads.release()


# -- what a study may hold ----------------------------------------------------------------------------------------------


def check_trials(study: optuna.Study, space: SearchSpace, where: str) -> None:
    """Optuna reads numbers and attributes as they stand; refuse what is none.

    Raises:
        ConfigError: a trial's score, step, parameter or attribute has the wrong type; the text names it.
    """
    here = f"{where}: study '{study.study_name}'"
    fix = "restore the storage, or give another one"
    try:
        trials = study.get_trials(deepcopy=False)
        for number, trial in enumerate(trials):
            if trial.number != number:
                raise ConfigError(f"{here}: trial {number} is missing; {fix}")
            for what, value in _suspicious(trial, space):
                raise ConfigError(f"{here}: trial {number}: {what}: cannot be {_short(value)}; {fix}")
    except NasError:
        raise
    except Exception as error:  # a type that even the checks do not expect
        raise ConfigError(f"{here}: broken ({one_line(error)}); {fix}") from None


def _suspicious(trial: FrozenTrial, space: SearchSpace) -> Iterable[tuple[str, Any]]:
    for name in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
        if not isinstance(getattr(trial, name), dict):
            yield name, getattr(trial, name)
            return
    if not isinstance(trial.state, TrialState):
        yield "state", trial.state
    if trial.state == TrialState.COMPLETE and len(trial.values or ()) != 1:
        yield "score", trial.values
    for slot, choice in trial.params.items():
        if slot in space.slots and choice not in space.slots[slot]:
            yield slot, choice
    for value in trial.values or ():
        if not _is_number(value):
            yield "score", value
    for step, value in trial.intermediate_values.items():
        if not isinstance(step, int) or not (_is_number(value) or (isinstance(value, float) and math.isnan(value))):
            yield "scores in between", {step: value}
    texts = {"error": trial.user_attrs.get("error", ""), "reused": trial.user_attrs.get("reused", "")}
    for name, value in texts.items():
        if not isinstance(value, str):
            yield name, value
    for key, value in trial.system_attrs.items():
        if key.startswith("constraints:") and not _is_number(value):
            yield key, value
        if key == "fixed_params" and not isinstance(value, dict):
            yield key, value
        if key.endswith(":generation") and type(value) is not int:
            yield key, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
