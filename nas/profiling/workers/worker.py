"""The program of a worker process: it loads one workload and times it when asked to.

    python -m nas.profiling.workers.worker CONNECTION LOG       (the number of an open file descriptor)

It answers the requests of `nas.profiling.workers.messages` until its parent closes the connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, Protocol

from nas.errors import FIXES, MissingDependency, NasError
from nas.failures import CRASHED, NO_MEMORY, Infeasible, OutOfMemory, ToolError, is_unsupported
from nas.profiling.runtimes.base import WorkloadStats
from nas.profiling.workers.messages import (
    Call,
    Failure,
    Fork,
    ImportModule,
    Load,
    Reap,
    Reply,
    Request,
    RunBlock,
    Value,
)

PR_SET_PDEATHSIG = 1
WARM_UP_S = 3.0
"""Longest warm-up after a workload was loaded."""
BLOCK_WARM_UP_MS = 10.0
"""Warm-up before each block."""
IN_COPY = object()
"""The value of a request to fork, in the copy."""


class Timed(Protocol):
    """A loaded workload that can be timed.

    Attributes:
        stats: memory, weights, parameters and load time.
        copies: 0; or, for the difference of two models, how many more copies of the operator `run` holds than `base`.
        clock: seconds of the clock that times the runs.
    """

    stats: WorkloadStats
    copies: int
    clock: Callable[[], float]

    def run(self) -> object:
        """One run, to its end."""
        ...

    def base(self) -> object:
        """One run of the model with fewer copies; only where `copies` is not 0."""
        ...


class Server:
    """Answers requests. After a fork it is also the copy's server.

    Args:
        connection: to the parent process.
        log: path of the log file; a copy appends its process id.
    """

    def __init__(self, connection: Connection, log: str) -> None:
        self.connection, self.log = connection, log
        self.workload: Timed | None = None

    def serve(self) -> None:
        """Answer requests until the connection is closed."""
        while True:
            try:
                request: Request = self.connection.recv()
            except (EOFError, ConnectionError):
                return
            try:
                reply: Reply = Value(self.answer(request))
            except Exception as error:
                reply = failure(error)
            if not (isinstance(reply, Value) and reply.value is IN_COPY):
                self.connection.send(reply)

    def answer(self, request: Request) -> Any:
        """The value of a request's reply; `IN_COPY` in a process that was just forked, which must not reply."""
        match request:
            case ImportModule(module):
                return importlib.import_module(module).__name__
            case Fork():
                return self._fork()
            case Load(function, arguments):
                self.workload = _find(function)(*arguments)
                warm_up(self.workload.run)
                gc.freeze()
                return self.workload.stats
            case RunBlock(runs):
                return time_block(self.workload, runs)
            case Call(function, arguments):
                return _find(function)(*arguments)
            case Reap(pid, timeout_s):
                return _reap(pid, timeout_s)

    def _fork(self) -> int | object:
        connection = Connection(reduction.recv_handle(self.connection))
        pid = os.fork()
        if pid:
            connection.close()  # or the parent would not see that the copy has ended
            return pid
        self.connection.close()
        self.connection = connection
        _set_up_copy(f"{self.log}.{os.getpid()}")
        return IN_COPY


def main() -> None:
    """Serve the parent process on the connection that the command line names."""
    _die_with_parent()
    Server(Connection(int(sys.argv[1])), sys.argv[2]).serve()


def time_block(workload: Timed, runs: int) -> list[float]:
    """Latencies in ms of `runs` runs, by the workload's clock.

    Where the workload has copies, a sample is the difference of a run and a run of the base, divided by their number. They
    run in two blocks, each warmed up: in alternation each would find the caches full of the other's data, and the
    difference of small operators would be a third too small.
    """
    gc.disable()
    try:
        if not workload.copies:
            return _timed(workload.run, runs, workload.clock)
        base = _timed(workload.base, runs, workload.clock)
        return [
            (ms - base_ms) / workload.copies for ms, base_ms in zip(_timed(workload.run, runs, workload.clock), base)
        ]
    finally:
        gc.enable()


def _timed(run: Callable[[], object], runs: int, clock: Callable[[], float]) -> list[float]:
    """Each run's ms, after `BLOCK_WARM_UP_MS` of runs that do not count.

    The first runs after other processes used the core are up to 5% slower. A single run is long enough to warm itself up.
    """
    until = time.perf_counter() + BLOCK_WARM_UP_MS / 1e3
    while runs > 1:
        run()
        if time.perf_counter() >= until:
            break
    return [milliseconds(run, clock) for _ in range(runs)]


def warm_up(run: Callable[[], object]) -> None:
    """Run until two consecutive medians agree to 5%, or for `WARM_UP_S`; once if one run takes longer than that."""
    start, before = time.perf_counter(), 0.0
    while time.perf_counter() - start < WARM_UP_S:
        first = milliseconds(run)
        if first > WARM_UP_S * 1e3:
            return
        median = sorted([first, milliseconds(run), milliseconds(run)])[1]
        if abs(median - before) <= 0.05 * median:
            return
        before = median


def milliseconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The time of one run in ms."""
    start = clock()
    run()
    return (clock() - start) * 1e3


def failure(error: BaseException) -> Failure:
    """The reply for an exception of a worker: the error that the parent raises, with its message in one line.

    A workload is infeasible only if it needs memory or an operation that is missing. Anything else is a fault of a
    library or of this machine, which says nothing about the workload.
    """
    text = " ".join(str(error).split())
    if isinstance(error, NasError | Infeasible):
        return Failure(type(error), text)
    message = f"{type(error).__name__}: {text}"[:300]
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return Failure(OutOfMemory, f"out of memory: {text}"[:300])
    if is_unsupported(error) or (isinstance(error, RuntimeError) and CRASHED.search(text)):
        return Failure(Infeasible, message)
    if isinstance(error, ImportError):
        return Failure(MissingDependency, message)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Failure(ToolError, f"{where}{error.strerror}; {FIXES.get(error.errno, 'give another path')}")
    return Failure(ToolError, message)


def _reap(pid: int, timeout_s: float) -> int:
    """The exit code of a copy whose connection was closed; it is killed if it does not exit by itself."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _set_up_copy(log: str) -> None:
    """Give a forked copy its own log file, let it die with the parent, and let the kernel kill it first for memory."""
    _die_with_parent()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:  # such as a full disk, which a measurement can do without
        handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _find(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
