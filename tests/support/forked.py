"""Python programs in processes of their own that do not import torch again: copies of one process that has."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ["torch", "pandas", "optuna"]
"""What is imported once. Not this library: a program must import what it uses of it."""


@dataclass(frozen=True)
class Finished:
    """A program that has ended, as `subprocess.CompletedProcess` describes it."""

    returncode: int
    stdout: str
    stderr: str


def run_python(program: str, *arguments: str, folder: Path, environment: dict[str, str] | None = None) -> Finished:
    """Run `program` as `python -c PROGRAM ARGUMENTS` in `folder` would, in the environment of this process.

    Args:
        environment: variables that are other than here. PYTHONPATH is one folder.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as logs:
        paths = [Path(logs, name) for name in ("stdout", "stderr")]
        variables = {**os.environ, **(environment or {})}
        process = context.Process(target=_run, args=(program, arguments, str(folder), variables, list(map(str, paths))))
        process.start()
        process.join()
        return Finished(process.exitcode, *(path.read_text(errors="replace") for path in paths))


def _run(program: str, arguments: tuple[str, ...], folder: str, variables: dict[str, str], logs: list[str]) -> None:
    for number, log in enumerate(logs, start=1):
        with open(log, "wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["-c", *arguments]
    sys.path[:0] = ["", *filter(None, [variables.get("PYTHONPATH")])]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
