"""Python programs in processes of their own that do not import torch again: copies of one process that has."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

LIBRARIES = ["torch", "torch._dynamo", "pandas", "optuna", "sklearn.metrics"]
"""What is imported once; torch._dynamo and sklearn.metrics are what optimizers and transformers import. Not this library: a
program must import what it uses of it."""
START_TIMEOUT_S = 300
"""The first one imports the libraries."""


@dataclass(frozen=True)
class Finished:
    """A program that has ended, as `subprocess.CompletedProcess` describes it."""

    returncode: int
    stdout: str
    stderr: str


class Running:
    """A program that was started, with the methods of `subprocess.Popen`.

    Attributes:
        stdout, stderr: files with what it has written.
    """

    def __init__(self, process: BaseProcess, logs: tempfile.TemporaryDirectory[str]) -> None:
        self.process, self._logs, self.pid = process, logs, process.pid
        self.stdout, self.stderr = (Path(logs.name, name) for name in ("stdout", "stderr"))

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s")
        return self.process.exitcode

    def kill(self) -> None:
        """Kill it; no error if it has ended already, which `poll` may not know yet."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def finish(self, timeout: float | None = None) -> Finished:
        """Wait for its end."""
        return Finished(self.wait(timeout), *(path.read_text(errors="replace") for path in (self.stdout, self.stderr)))


def start_python(
    program: str,
    *arguments: object,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    new_session: bool = False,
) -> Running:
    """Start `program` as `python -c PROGRAM ARGUMENTS` would, in the environment of this process.

    It returns when the process has its files and its session, so that both can be used at once.

    Args:
        folder: the working folder; by default that of this process.
        environment: variables that are other than here. PYTHONPATH is one folder.
        new_session: whether it leads a session and a group of processes of its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    logs = tempfile.TemporaryDirectory()
    variables = {**os.environ, **(environment or {})}
    words, ready = tuple(map(str, arguments)), context.Event()
    process = context.Process(
        target=_run, args=(program, words, str(folder or Path.cwd()), variables, logs.name, new_session, ready)
    )
    process.start()
    end = time.monotonic() + START_TIMEOUT_S
    while not ready.wait(1):
        if process.exitcode is not None or time.monotonic() > end:
            raise TimeoutError(f"the process did not start within {START_TIMEOUT_S} s, or ended before (see above)")
    return Running(process, logs)


def run_python(program: str, *arguments: object, folder: Path, environment: dict[str, str] | None = None) -> Finished:
    """Run `program` to its end, see `start_python`."""
    return start_python(program, *arguments, folder=folder, environment=environment).finish()


def _run(
    program: str,
    arguments: tuple[str, ...],
    folder: str,
    variables: dict[str, str],
    logs: str,
    new_session: bool,
    ready: Event,
) -> None:
    if new_session:
        os.setsid()
    for number, name in enumerate(("stdout", "stderr"), start=1):
        with open(Path(logs, name), "wb") as file:
            os.dup2(file.fileno(), number)
    ready.set()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # by TMPDIR, whatever was imported before
    sys.argv = ["-c", *arguments]
    sys.path[:0] = ["", *filter(None, [variables.get("PYTHONPATH")])]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
