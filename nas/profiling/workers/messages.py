"""Requests to a worker process, and its replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImportModule:
    """Import a module. The value of the reply is its name."""

    module: str


@dataclass(frozen=True)
class Fork:
    """Copy the process; the copy answers on the connection that is sent next. The value is its process id."""


@dataclass(frozen=True)
class Load:
    """Call `function`, given as `module:name`, for a workload to time; warm it up. The value is its `WorkloadStats`."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class RunBlock:
    """Time `runs` runs of the loaded workload. The value is the list of latencies in ms."""

    runs: int


@dataclass(frozen=True)
class Call:
    """Call `function`, given as `module:name`. The value is what it returns."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Reap:
    """Wait for a copy of the process to end; kill it after `timeout_s`. The value is its exit code."""

    pid: int
    timeout_s: float


Request = ImportModule | Fork | Load | RunBlock | Call | Reap


@dataclass(frozen=True)
class Value:
    """The request succeeded."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """The request failed: the exception type to raise in the parent process, and its message in one line."""

    error: type[Exception]
    message: str


Reply = Value | Failure
