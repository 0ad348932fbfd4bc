"""The `eager` runtime: torch modules on this machine's CPU or accelerator."""

from __future__ import annotations

from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.host import clock_of, describe_host
from nas.profiling.runtimes.base import Runnable, Runtime, WorkloadStats
from nas.profiling.workers.pool import WorkerPool, WorkerSession

DEVICES = {"local": "cpu", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}

WAIT_POLICIES = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"},
    "spin": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
}
"""Environment variables of GNU's and LLVM's OpenMP per wait policy; the counts override OMP_WAIT_POLICY."""

MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""Let glibc keep freed memory. Otherwise it may return large blocks to the system and allocate them again with page faults,
depending on the process's history: a factor of 1.5 between two processes that do the same."""


class EagerRuntime(Runtime):
    """Torch modules in eager mode, or compiled.

    Args:
        device: `local` (this machine's CPU), `cuda` or `mps`.
        threads: of the CPU. With one the results are repeatable on a shared machine; small operators do not gain from more.
        wait: how an OpenMP thread waits for another: `spin` for a while, as torch does by default, or `passive`: sleep at
            once. With several threads spinning is much faster on an idle machine and several times slower on a busy one.
        compile: use `torch.compile`.
    """

    name = "eager"
    in_model = True

    def __init__(self, device: str = "local", threads: int = 1, wait: str = "spin", compile: bool = False) -> None:
        if device not in DEVICES:
            raise ConfigError(f"unknown device '{device}' of runtime 'eager'{suggestion(device, DEVICES)}")
        if wait not in WAIT_POLICIES:
            raise ConfigError(f"unknown wait policy '{wait}' of runtime 'eager'{suggestion(wait, WAIT_POLICIES)}")
        self.device, self.threads, self.wait, self.compile = device, threads, wait, compile
        self.separate = DEVICES[device] == "cpu"  # each process would load its libraries on an accelerator as well
        self.pool: WorkerPool | None = None

    def describe(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "runtime": "eager+compile" if self.compile else "eager",
            "version": f"torch {version('torch')}",
            "device": self.device,
            **describe_host(),
            "threads": self.threads,
            "wait": self.wait,
            "clock": clock_of(self.threads)[0] if DEVICES[self.device] == "cpu" else "wall",
            "allocator": "freed memory is kept",
        }

    def open(self, workload: Runnable) -> WorkerSession:
        return self.reopen(workload, None)

    def reopen(self, workload: Runnable, stats: WorkloadStats | None) -> WorkerSession:
        if self.pool is None:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment = {**dict.fromkeys(names, str(self.threads)), **WAIT_POLICIES[self.wait], **MALLOC_ENVIRONMENT}
            self.pool = WorkerPool("nas.profiling.workers.eager", environment)
        arguments = (workload, DEVICES[self.device], self.threads, self.compile, stats)
        return self.pool.open("nas.profiling.workers.eager:EagerWorkload", *arguments)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()
            self.pool = None
