"""The `eager` runtime: torch as it is, on this machine's CPU or accelerator."""

from __future__ import annotations

from typing import Any

from nas.errors import ConfigError, suggestion
from nas.profiling.children import Children, ChildSession, available_threads
from nas.profiling.host import describe_host
from nas.profiling.runtime import Runtime, WholeModel
from nas.spaces import Workload

DEVICES = {"local": "cpu", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}


class EagerRuntime(Runtime):
    """Torch modules, run as they are written.

    Args:
        device: `local` (this machine's CPU), `cuda` or `mps`.
        threads: of the CPU; by default OMP_NUM_THREADS, or all cores this process may use.
        wait: what idle OpenMP threads do, `passive` (sleep) or `active` (spin). Spinning is faster on a quiet machine
            and several times slower on a busy one.
        compile: run through `torch.compile`.
    """

    name = "eager"

    def __init__(
        self, device: str = "local", threads: int | None = None, wait: str = "passive", compile: bool = False
    ) -> None:
        if device not in DEVICES:
            raise ConfigError(f"runtime 'eager' has no device '{device}'{suggestion(device, DEVICES)}")
        self.device, self.threads, self.wait, self.compile = device, threads or available_threads(), wait, compile
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
        }

    def open(self, workload: Workload | WholeModel) -> ChildSession:
        if self.children is None:
            environment = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            self.children = Children("nas.profiling.eager_child", {**environment, "OMP_WAIT_POLICY": self.wait.upper()})
        return self.children.open(
            "nas.profiling.eager_child:Compiled", workload, DEVICES[self.device], self.threads, self.compile
        )

    def close(self) -> None:
        if self.children is not None:
            self.children.close()
            self.children = None
