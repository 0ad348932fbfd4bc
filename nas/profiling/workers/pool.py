"""Start worker processes and send them requests: one process per workload, so that a crash costs one row of the table."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.failures import Infeasible, OutOfMemory, ToolError, infeasible_error
from nas.profiling.runtimes.base import Session, WorkloadStats
from nas.profiling.temporary import TemporaryFolder
from nas.profiling.workers.messages import Call, Failure, Fork, ImportModule, Load, Reap, Reply, Request, RunBlock

CAN_FORK = sys.platform == "linux"
EXIT_TIMEOUT_S = 5.0
"""How long a worker may take to exit by itself once its connection is closed."""
CONVERSION_TIMEOUT_S = 3600.0
"""How long a process may take to convert one workload."""
TERMINATION_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class WorkerPool:
    """Starts worker processes that load and time workloads.

    Where the system can fork, one template process imports the runtime's libraries once and every worker is a copy of
    it; elsewhere each worker is a new process. All temporary files of the workers are in one folder, which is deleted
    at the end.

    Args:
        module: imported before the copies are made; must start no threads.
        environment: variables for the workers (threads and their wait policy are read when libraries load).
        timeout_s: a worker that does not answer for so long is killed and its workload is infeasible.
        fork: whether workers may be copies of one template; not where the module starts threads.
    """

    def __init__(
        self, module: str, environment: dict[str, str], timeout_s: float = 300.0, fork: bool = CAN_FORK
    ) -> None:
        self.module, self.timeout_s, self.fork = module, timeout_s, fork
        self.temporary = TemporaryFolder("nas-profile-")
        self.log = self.temporary.path / "log"
        # A worker finds the modules that its parent finds: operators may be defined beside a script.
        search_path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        self.environment = {**os.environ, "TMPDIR": str(self.temporary.path), **environment, "PYTHONPATH": search_path}
        self.template: Worker | None = None

    def start(self) -> Worker:
        """Start a worker that has imported the module.

        Raises:
            NasError: it cannot be started, or cannot import the module.
        """
        if not self.fork:
            return self._start_process()
        if self.template is None:
            self.template = self._start_process()
        own_end, worker_end = Pipe()
        with worker_end:
            pid = self.template.fork(worker_end)
        return Worker(own_end, pid, Path(f"{self.log}.{pid}"), self.timeout_s, template=self.template)

    def open(self, function: str, *arguments: Any) -> WorkerSession:
        """A session on the workload that `function(*arguments)` loads in a new worker; see `WorkerSession`."""
        return WorkerSession(self.start(), function, *arguments)

    def close(self) -> None:
        """End the template and delete the temporary files. Closing twice is fine."""
        if self.template is not None:
            self.template.close()
        self.temporary.close()

    def _start_process(self) -> Worker:
        own_end, worker_end = Pipe()
        with worker_end, open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nas.profiling.workers.worker", str(worker_end.fileno()), str(self.log)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[worker_end.fileno()],
                process_group=0,  # Ctrl-C is for the parent, which ends its workers
            )
        worker = Worker(own_end, process.pid, self.log, self.timeout_s, process=process)
        try:
            worker.ask(ImportModule(self.module))
        except (Infeasible, ToolError) as error:
            raise ToolError(f"the measuring process cannot load {self.module}: {error}") from None
        return worker


class Worker:
    """A process that answers one request at a time.

    Args:
        connection: to the process.
        log: the file with its output.
        timeout_s: how long it may take to answer.
        process: if it was started as a new process.
        template: if it is a copy of another worker.
    """

    def __init__(
        self,
        connection: Connection,
        pid: int,
        log: Path,
        timeout_s: float,
        process: subprocess.Popen | None = None,
        template: Worker | None = None,
    ) -> None:
        self.connection, self.pid, self.log, self.timeout_s = connection, pid, log, timeout_s
        self.process, self.template = process, template

    def ask(self, request: Request) -> Any:
        """Send a request and wait for the value of its reply.

        Raises:
            Infeasible: the request failed because of the workload, or the process died or did not answer; it has ended.
            NasError: the request failed for another reason; the process has ended.
        """
        return self._reply_to(lambda: self.connection.send(request))

    def call(self, function: str, *arguments: Any) -> Any:
        """What `function(*arguments)` returns in the process; `function` is given as `module:name`. Raises as `ask`."""
        return self.ask(Call(function, arguments))

    def fork(self, connection: Connection) -> int:
        """Make a copy of this process that answers on `connection`.

        Returns:
            its process id.
        """

        def send() -> None:
            self.connection.send(Fork())
            reduction.send_handle(self.connection, connection.fileno(), self.pid)

        return self._reply_to(send)

    def close(self) -> None:
        """End the process, and wait until it has ended. Closing twice is fine."""
        if not self.connection.closed:
            self._exit_code()

    def kill(self) -> None:
        """End the process at once, and wait until it has ended."""
        if not self.connection.closed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._exit_code()

    def _reply_to(self, send: Callable[[], None]) -> Any:
        if self.connection.closed:
            raise ToolError("the measuring process has ended")
        try:
            send()
            if not self.connection.poll(self.timeout_s):
                self.kill()
                raise Infeasible(f"slower than the cap of {self.timeout_s:.0f} s")
            reply: Reply = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._error_of_death() from None
        except BaseException:  # such as Ctrl-C: a reply that comes later would be taken for that of the next request
            self.kill()
            raise
        if isinstance(reply, Failure):
            self.close()
            raise reply.error(reply.message)
        return reply.value

    def _error_of_death(self) -> Infeasible | ToolError:
        """The error for a process that ended before it answered."""
        code = self._exit_code()
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        message = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code == -signal.SIGKILL:
            return OutOfMemory("killed (signal SIGKILL): the system ran out of memory, or someone ended it")
        if -code in TERMINATION_SIGNALS:
            return ToolError(f"someone ended the measuring process (signal {signal.Signals(-code).name})")
        end = f"crashed (signal {signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        return infeasible_error(f"{end}: {message}" if message else end)

    def _exit_code(self) -> int:
        """Close the connection, upon which the process exits, and wait for that."""
        with contextlib.suppress(OSError):
            self.connection.close()
        if self.process is not None:
            try:
                return self.process.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                return self.process.wait()
        if not self.template.connection.closed:
            with contextlib.suppress(Infeasible, ToolError):
                return self.template.ask(Reap(self.pid, EXIT_TIMEOUT_S))
        return -signal.SIGKILL


class OnDemandWorker:
    """A process that converts workloads: started at the first call, and again after a call that failed.

    Args:
        module: imported by the process; its functions are called.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.pool: WorkerPool | None = None
        self.worker: Worker | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """What the module's `function(*arguments)` returns in the process; raises as `Worker.ask`."""
        if self.pool is None:
            self.pool = WorkerPool(self.module, {}, CONVERSION_TIMEOUT_S, fork=False)
        if self.worker is None:
            self.worker = self.pool.start()
        try:
            return self.worker.call(f"{self.module}:{function}", *arguments)
        except (Infeasible, NasError):
            self.worker = None  # a worker that raised has ended
            raise

    def close(self) -> None:
        """End the process. Closing twice is fine."""
        if self.worker is not None:
            self.worker.close()
        if self.pool is not None:
            self.pool.close()
        self.pool = self.worker = None


class WorkerSession(Session):
    """One workload in a worker process of its own.

    Args:
        worker: the process.
        function: `module:name`; called in the process with `arguments`, it returns a `nas.profiling.workers.worker.Timed`.
    """

    def __init__(self, worker: Worker, function: str, *arguments: Any) -> None:
        self.worker = worker
        self.stats: WorkloadStats = worker.ask(Load(function, arguments))

    def block(self, runs: int) -> list[float]:
        return self.worker.ask(RunBlock(runs))

    def close(self) -> None:
        self.worker.close()
