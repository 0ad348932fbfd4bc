"""Storages of studies: Optuna journals and databases, opened, repaired, locked and validated."""

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
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from nas.errors import FIXES, ConfigError, NasError
from nas.spaces import SearchSpace

KEPT = "what finished is kept; run again to resume"


class StorageError(NasError, RuntimeError):
    """A study's storage failed while it was used: a full disk, a lost connection."""


def open_storage(storage: str | Path | None) -> optuna.storages.BaseStorage:
    """An Optuna storage from an RDB URL or the path of a journal file; in memory for None.

    Incomplete last lines of a journal, left by a crash or a full disk, are dropped: Optuna cannot read past them.

    Raises:
        ConfigError: it cannot be opened, or is not a journal.
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
        raise ConfigError(f"{path}: not a regular file; give another --storage")
    with storage_errors(storage):
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = Journal(path)
        backend.drop_torn_lines()
    try:
        return optuna.storages.JournalStorage(backend)
    except NasError:
        raise
    except Exception as error:  # Optuna does not validate what it reads
        raise ConfigError(
            f"{path}: a broken journal ({one_line(error)}); restore it, or give another --storage"
        ) from None


def is_database(storage: str | Path | None) -> bool:
    return storage is not None and "://" in str(storage)


def storage_file(storage: str | Path | None) -> Path | None:
    """The file that holds a study: a journal or an SQLite database; None in memory and on a server."""
    if storage is None or not is_database(storage):
        return None if storage is None else Path(storage)
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", str(storage))
    return Path(found[1]) if found and found[1] != ":memory:" and not found[1].startswith("file:") else None


# -- messages without passwords ------------------------------------------------------------------------------------------------


_USER = re.compile(r"(:/{1,2}[^:/?#\s@]*:)[^\s'\"]*@")
_FIELD = re.compile(r"((?:pass|pwd|secret|token|key)\w*\s*=\s*)[^&\s'\",;)]+", re.IGNORECASE)


def without_password(storage: str | Path | None) -> str:
    """The storage for messages: a URL with its password masked."""
    return (
        _FIELD.sub(r"\1***", _USER.sub(r"\1***@", str(storage)))
        if "://" in str(storage) or "@" in str(storage)
        else str(storage)
    )


def _reason(error: BaseException, storage: str | Path | None) -> str:
    """The first line of an error, with the passwords of the storage's URL masked."""
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
    """Turn errors of the system, Optuna or a database into a one-line error without the password.

    Raises:
        StorageError: for OSError and errors of Optuna's storage or SQLAlchemy.
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
    if message:  # raised here, so that no exception with the URL is chained
        raise StorageError(message)


def _message(error: Exception, storage: str | Path | None) -> str:
    if isinstance(error, OSError):
        fix = FIXES.get(error.errno or 0, "give another --storage")
        return f"{error.filename or without_password(storage)}: the study cannot be written: {error.strerror or error}; {fix}; {KEPT}"
    cause = error.__cause__ or error
    return f"{without_password(storage)}: the study's database failed ({_reason(cause, storage)}); {KEPT}"


def _open_database(url: str) -> optuna.storages.BaseStorage:
    reason = ""
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # of any type that SQLAlchemy or a database driver raises
        reason = _reason(error, url)
    raise ConfigError(f"{without_password(url)}: cannot be opened ({reason}); give a journal file or another --storage")


# -- the journal --------------------------------------------------------------------------------------------------------


class Journal(JournalFileBackend):
    """Optuna's journal file; an incompletely written line is removed again."""

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

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with storage_errors(self.path):
            yield from super().read_logs(log_number_from)

    def drop_torn_lines(self) -> None:
        """Drop incomplete or garbled last lines, and check all others.

        Raises:
            ConfigError: the file is not a journal, or another line is broken.
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
    """Whether a line is a complete entry of an Optuna journal."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    known = {int(operation) for operation in JournalOperation}
    fields = isinstance(entry, dict) and type(entry.get("op_code")) is int and isinstance(entry.get("worker_id"), str)
    return fields and entry["op_code"] in known and line.endswith(b"\n")


def _may_be_torn(data: bytes) -> bool:
    """Whether a file without a complete entry may be the incomplete first entry of a journal."""
    return not data.strip(b"\0") or (b"\n" not in data and b'{"op_code":'.startswith(data[:11]))


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class _FileLock(BaseJournalFileLock):
    """A lock that the kernel releases when its holder is killed; Optuna's stays for 30 s.

    On filesystems without such locks (some NFS) it falls back to Optuna's, a symbolic link.
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
                self.handle = os.open(self.path, os.O_RDONLY)  # enough for reading
            if self.link is None:
                try:
                    fcntl.flock(self.handle, fcntl.LOCK_EX)
                except OSError:
                    self.link = JournalFileSymlinkLock(self.path)
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


# -- validation ----------------------------------------------------------------------------------------------


def check_trials(study: optuna.Study, space: SearchSpace, where: str) -> None:
    """Validate the trials of a study, which Optuna does not.

    Raises:
        ConfigError: a trial's score, step, parameter or attribute has the wrong type.
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
    except Exception as error:  # of a type that the checks do not expect
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
            yield "intermediate values", {step: value}
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
