"""The `eager` runtime: torch as it is, on this machine's CPU or accelerator."""

from __future__ import annotations

from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.host import clock_of, describe_host
from nas.profiling.runtimes.base import Loaded, Runnable, Runtime
from nas.profiling.workers.pool import Children, ChildSession

DEVICES = {"local": "cpu", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}

SPIN = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"},
    "spin": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
}
"""Wait policies as GNU's and LLVM's OpenMP read them; the counts go before OMP_WAIT_POLICY."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""glibc keeps freed memory. Otherwise it gives large blocks back and takes them anew, page fault by page fault, or not,
depending on what the process did before: a factor of 1.5 between two processes with the same work."""


class EagerRuntime(Runtime):
    """Torch modules, run as they are written.

    Args:
        device: `local` (this machine's CPU), `cuda` or `mps`.
        threads: of the CPU. One is what a shared machine can repeat, and small operators gain nothing from more.
        wait: what an OpenMP thread does that waits for another: `spin` for a while, as torch does by default, or
            `passive`: sleep at once. With more than one thread spinning is much faster on a quiet machine and several
            times slower on a busy one.
        compile: run through `torch.compile`.
    """

    name = "eager"
    in_place = True

    def __init__(self, device: str = "local", threads: int = 1, wait: str = "spin", compile: bool = False) -> None:
        if device not in DEVICES:
            raise ConfigError(f"runtime 'eager' has no device '{device}'{suggestion(device, DEVICES)}")
        if wait not in SPIN:
            raise ConfigError(f"runtime 'eager' has no wait policy '{wait}'{suggestion(wait, SPIN)}")
        self.device, self.threads, self.wait, self.compile = device, threads, wait, compile
        self.separate = DEVICES[device] == "cpu"  # an accelerator would hold each process's libraries as well
        self.children: Children | None = None

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

    def open(self, workload: Runnable) -> ChildSession:
        return self.reopen(workload, None)

    def reopen(self, workload: Runnable, loaded: Loaded | None) -> ChildSession:
        if self.children is None:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment = {**dict.fromkeys(names, str(self.threads)), **SPIN[self.wait], **KEEP_MEMORY}
            self.children = Children("nas.profiling.workers.eager", environment)
        arguments = (workload, DEVICES[self.device], self.threads, self.compile, loaded)
        return self.children.open("nas.profiling.workers.eager:Compiled", *arguments)

    def close(self) -> None:
        if self.children is not None:
            self.children.close()
            self.children = None
