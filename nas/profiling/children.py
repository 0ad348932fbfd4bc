"""The parent's side of a measurement: one child process per workload, so that a crash costs one row and no more."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from nas.errors import MissingDependency
from nas.profiling.runtime import Infeasible, Loaded, OutOfMemory, Session, failed

CAN_FORK = sys.platform == "linux"


class Children:
    """Starts child processes that load and time workloads.

    Where the system can fork, one template process imports the runtime's libraries once and every child is a copy of
    it; elsewhere each child is a process of its own from the start.

    Args:
        module: imported before the copies are made; must start no threads.
        environment: variables for the children (threads and their wait policy are read when libraries load).
        timeout_s: a child that does not answer for so long is killed and its workload is infeasible.
        fork: whether children may be copies of one template; not where the module starts threads.
    """

    def __init__(
        self, module: str, environment: dict[str, str], timeout_s: float = 900.0, fork: bool = CAN_FORK
    ) -> None:
        self.module, self.timeout_s, self.fork = module, timeout_s, fork
        self.folder = tempfile.TemporaryDirectory(prefix="nas-profile-")
        self.log = Path(self.folder.name) / "log"
        key = secrets.token_hex(16)
        self.environment = {**os.environ, **environment, "NAS_CHILD_KEY": key}
        self.listener = Listener(str(Path(self.folder.name) / "socket") if CAN_FORK else None, authkey=key.encode())
        self.template: Child | None = None

    def start(self) -> Child:
        """A child that has imported the module."""
        if not self.fork:
            return self._start_process()
        if self.template is None:
            self.template = self._start_process()
        pid = self.template.ask("fork")
        connection = self.listener.accept()
        connection.recv()
        return Child(connection, pid, Path(f"{self.log}.{pid}"), self.timeout_s, template=self.template)

    def open(self, function: str, *arguments: Any) -> ChildSession:
        """A session on what `function(*arguments)` makes in a new child; see `ChildSession`."""
        return ChildSession(self.start(), function, *arguments)

    def close(self) -> None:
        if self.template is not None:
            self.template.close()
        self.listener.close()
        self.folder.cleanup()

    def _start_process(self) -> Child:
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nas.profiling.child", self.listener.address, str(self.log)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        connection = self.listener.accept()
        connection.recv()
        child = Child(connection, process.pid, self.log, self.timeout_s, process=process)
        try:
            child.ask("import", self.module)
        except Infeasible as error:
            raise MissingDependency(f"the measuring process cannot load {self.module}: {error}") from None
        return child


class Child:
    """A process that answers one message at a time."""

    def __init__(
        self,
        connection: Connection,
        pid: int,
        log: Path,
        timeout_s: float,
        process: subprocess.Popen | None = None,
        template: Child | None = None,
    ) -> None:
        self.connection, self.pid, self.log, self.timeout_s = connection, pid, log, timeout_s
        self.process, self.template = process, template

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send a message and wait for its answer.

        Raises:
            Infeasible: the child failed, died or hangs; it is gone then.
            NasError: what the child raised.
        """
        try:
            self.connection.send((command, *arguments))
            if not self.connection.poll(self.timeout_s):
                os.kill(self.pid, signal.SIGKILL)
                self._exit_code()
                raise Infeasible(f"no answer within {self.timeout_s:.0f} s")
            status, *answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None
        if status == "error":
            self.close()
            kind, text = answer
            raise kind(text)
        return answer[0]

    def close(self) -> None:
        if not self.connection.closed:
            self.connection.close()
            self._exit_code()

    def _death(self) -> Infeasible:
        code = self._exit_code()
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code == -signal.SIGKILL:
            return OutOfMemory("killed (signal SIGKILL): the system ran out of memory, or someone ended it")
        what = f"crashed (signal {signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        return failed(f"{what}: {said}" if said else what)

    def _exit_code(self) -> int:
        with contextlib.suppress(OSError):
            self.connection.close()
        if self.process is not None:
            return self.process.wait()
        with contextlib.suppress(Infeasible):
            return self.template.ask("reap", self.pid)
        return -signal.SIGKILL


class ChildSession(Session):
    """One workload in a child process of its own.

    Args:
        child: where it runs.
        function: `"module:function"`; called in the child with `arguments`, it returns an object with `run()`, one
            run to its end; `loaded`, a `Loaded`; and `copies`, 0 or, for an operator in place, how many of it a run
            holds more than `base()` does.
    """

    def __init__(self, child: Child, function: str, *arguments: Any) -> None:
        self.child = child
        self.loaded: Loaded = child.ask("load", function, *arguments)

    def block(self, runs: int) -> list[float]:
        return self.child.ask("block", runs)

    def close(self) -> None:
        self.child.close()
