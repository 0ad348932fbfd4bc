"""The parent's side of a measurement: one child process per workload, so that a crash costs one row and no more."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nas.failures import Infeasible, OutOfMemory, ToolError, infeasible_error
from nas.profiling.runtimes.base import Loaded, Session
from nas.profiling.scratch import Scratch

CAN_FORK = sys.platform == "linux"
END_S = 5.0
"""How long a child may take to end by itself once its connection is closed."""
ENDED_BY_SOMEONE = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Children:
    """Starts child processes that load and time workloads.

    Where the system can fork, one template process imports the runtime's libraries once and every child is a copy of
    it; elsewhere each child is a process of its own from the start. All temporary files of the children are in one
    folder, which is deleted at the end.

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
        self.scratch = Scratch("nas-profile-")
        self.log = self.scratch.path / "log"
        # A worker finds what its parent finds: operators may be defined beside a script.
        search_path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        self.environment = {**os.environ, "TMPDIR": str(self.scratch.path), **environment, "PYTHONPATH": search_path}
        self.template: Child | None = None

    def start(self) -> Child:
        """A child that has imported the module.

        Raises:
            NasError: it cannot be started, or cannot import the module.
        """
        if not self.fork:
            return self._start_process()
        if self.template is None:
            self.template = self._start_process()
        ours, its = Pipe()
        with its:
            pid = self.template.fork(its)
        return Child(ours, pid, Path(f"{self.log}.{pid}"), self.timeout_s, template=self.template)

    def open(self, function: str, *arguments: Any) -> ChildSession:
        """A session on what `function(*arguments)` makes in a new child; see `ChildSession`."""
        return ChildSession(self.start(), function, *arguments)

    def close(self) -> None:
        if self.template is not None:
            self.template.close()
        self.scratch.close()

    def _start_process(self) -> Child:
        ours, its = Pipe()
        with its, open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nas.profiling.workers.worker", str(its.fileno()), str(self.log)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[its.fileno()],
                process_group=0,  # Ctrl-C is for the parent, which ends its children
            )
        child = Child(ours, process.pid, self.log, self.timeout_s, process=process)
        try:
            child.ask("import", self.module)
        except (Infeasible, ToolError) as error:
            raise ToolError(f"the measuring process cannot load {self.module}: {error}") from None
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
        return self._answer(lambda: self.connection.send((command, *arguments)))

    def fork(self, connection: Connection) -> int:
        """Make a copy of this process that answers on `connection`.

        Returns:
            its process id.
        """

        def send() -> None:
            self.connection.send(("fork",))
            reduction.send_handle(self.connection, connection.fileno(), self.pid)

        return self._answer(send)

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        if not self.connection.closed:
            self._exit_code()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if not self.connection.closed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._exit_code()

    def _answer(self, send) -> Any:
        if self.connection.closed:
            raise ToolError("the measuring process has ended")
        try:
            send()
            if not self.connection.poll(self.timeout_s):
                self.kill()
                raise Infeasible(f"no answer within {self.timeout_s:.0f} s")
            status, *answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None
        except BaseException:  # such as Ctrl-C: an answer may come later, to a question that was another
            self.kill()
            raise
        if status == "error":
            self.close()
            kind, text = answer
            raise kind(text)
        return answer[0]

    def _death(self) -> Infeasible | ToolError:
        code = self._exit_code()
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code == -signal.SIGKILL:
            return OutOfMemory("killed (signal SIGKILL): the system ran out of memory, or someone ended it")
        if -code in ENDED_BY_SOMEONE:
            return ToolError(f"someone ended the measuring process (signal {signal.Signals(-code).name})")
        what = f"crashed (signal {signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        return infeasible_error(f"{what}: {said}" if said else what)

    def _exit_code(self) -> int:
        """Close the connection, upon which the process ends, and wait for that."""
        with contextlib.suppress(OSError):
            self.connection.close()
        if self.process is not None:
            try:
                return self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                return self.process.wait()
        if not self.template.connection.closed:
            with contextlib.suppress(Infeasible, ToolError):
                return self.template.ask("reap", self.pid, END_S)
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
