"""The child's side of a measurement: a process that loads one workload and times it when told to.

    python -m nas.profiling.workers.worker CONNECTION LOG       (the number of a file that is open already)

It obeys its parent until the connection ends. `import` a module; `fork` a copy of itself, so that many children share
one import of a heavy library; `load` a workload; run a `block`; `call` a function; `reap` a copy that is to end.
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
from typing import Any

from nas.errors import FIXES, MissingDependency, NasError
from nas.failures import CRASHED, NO_MEMORY, Infeasible, OutOfMemory, ToolError, is_unsupported

PR_SET_PDEATHSIG = 1
WARM_UP_S = 3.0
WARM_MS = 10.0


def main() -> None:
    connection, log, ready = Connection(int(sys.argv[1])), sys.argv[2], None
    _end_with_parent()
    while True:
        try:
            command, *arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            if command == "fork":
                own = Connection(reduction.recv_handle(connection))
                answer = os.fork()
                if answer == 0:
                    connection.close()
                    connection = own
                    _become_child(f"{log}.{os.getpid()}")
                    continue
                own.close()  # or nobody would see that the copy has ended
            elif command == "load":
                function, *rest = arguments
                ready = _find(function)(*rest)
                warm_up(ready.run)
                gc.freeze()
                answer = ready.loaded
            elif command == "block":
                answer = time_block(ready, *arguments)
            elif command == "call":
                function, *rest = arguments
                answer = _find(function)(*rest)
            elif command == "reap":
                answer = _reap(*arguments)
            else:
                answer = importlib.import_module(*arguments).__name__
            reply = ("ok", answer)
        except Exception as error:
            reply = ("error", *failure(error))
        connection.send(reply)


def time_block(ready: Any, runs: int) -> list[float]:
    """Latencies in ms of `runs` runs, by `ready.clock` where it has one.

    Where `ready` has a `base`, a sample is the difference of a run and a run of the base, divided by `ready.copies`. They
    run in two blocks, each when it is warm: in turn, each finds the caches full of the other's data, and the difference
    of small operators is a third too small.
    """
    clock = getattr(ready, "clock", time.perf_counter)
    gc.disable()
    try:
        if not ready.copies:
            return _timed(ready.run, runs, clock)
        without = _timed(ready.base, runs, clock)
        return [(ms - base_ms) / ready.copies for ms, base_ms in zip(_timed(ready.run, runs, clock), without)]
    finally:
        gc.enable()


def _timed(run: Callable[[], object], runs: int, clock: Callable[[], float]) -> list[float]:
    """Each run's ms, after `WARM_MS` of runs that do not count: the first ones after other processes had the core are up
    to 5% slower. A long run, of which a block has but one, warms itself."""
    until = time.perf_counter() + WARM_MS / 1e3
    while runs > 1:
        run()
        if time.perf_counter() >= until:
            break
    return [milliseconds(run, clock) for _ in range(runs)]


def warm_up(run: Callable[[], object]) -> None:
    """Run until two consecutive medians agree to 5%, or for three seconds: once where one run takes as long."""
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
    start = clock()
    run()
    return (clock() - start) * 1e3


def failure(error: BaseException) -> tuple[type[Exception], str]:
    """What the parent raises for an error of the child: its type, and one line, a table's `reason` if it is infeasible.

    Only what the workload asks for and does not get makes it infeasible: memory, or an operation that is not there.
    Anything else is a fault of a library or of this machine, which says nothing about the workload.
    """
    text = " ".join(str(error).split())
    if isinstance(error, NasError | Infeasible):
        return type(error), text
    said = f"{type(error).__name__}: {text}"[:300]
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return OutOfMemory, f"out of memory: {text}"[:300]
    if is_unsupported(error) or (isinstance(error, RuntimeError) and CRASHED.search(text)):
        return Infeasible, said
    if isinstance(error, ImportError):
        return MissingDependency, said
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return ToolError, f"{where}{error.strerror}; {FIXES.get(error.errno, 'give another path')}"
    return ToolError, said


def _reap(pid: int, patience_s: float) -> int:
    """The exit code of a copy whose connection was closed; it is killed if it does not end by itself."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _become_child(log: str) -> None:
    """Own log file; die with the parent; be the first that the kernel kills when memory runs out."""
    _end_with_parent()
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
