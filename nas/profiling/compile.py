"""Compile workloads to the files that a phone runs, for a phone over a cable and for bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.caches import usable, user_cache
from nas.errors import ConfigError, suggestion
from nas.profiling.runtimes.base import Runnable
from nas.profiling.temporary import TemporaryFolder
from nas.profiling.workers.pool import OnDemandWorker
from nas.spaces import Operator, Workload

RUNTIMES = {"coreml": "coreml", "litert": "litert", "web": "litert"}
"""Runtime -> kind of the files that it runs."""
COPIES = 3
"""Copies of an operator in the larger of the two graphs whose difference is its latency."""


@dataclass(frozen=True)
class CompiledWorkload:
    """One workload as files for one runtime. `str` of it is the workload's key.

    Attributes:
        workload: the key of the lookup table's row.
        path: the workload's .tflite file, or the folder of its .mlpackage.
        several: the same with `copies` more of the operator in sequence, or None if the workload is timed by itself.
            An operator's latency is the difference per further copy, so that the overhead of calling a graph and of
            passing tensors is counted once, in the backbone's row.
        copies: further copies of the operator in `several`; 0 without it.
        params: number of parameters.
        weights_mb: weights as they are stored, in 10^6 bytes.
        inputs_mb: inputs of one run, in 10^6 bytes.
        activations_mb: estimate of the peak activation memory from the shapes, in 10^6 bytes; NaN for whole models.
        variant: the operator variant that was compiled.
        target: for Core ML the oldest system version that it runs on; else empty.
    """

    workload: str
    path: Path
    several: Path | None
    copies: int
    params: int
    weights_mb: float
    inputs_mb: float
    activations_mb: float
    variant: str
    target: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """`path` and, if there is one, `several`."""
        return (self.path, self.several) if self.several else (self.path,)

    def __str__(self) -> str:
        return self.workload


class Compiler:
    """Compiles workloads in a separate process, so that a crash of the converter costs one row of the table.

    Args:
        runtime: of `RUNTIMES`.
        target: for Core ML, see `nas.conversion.convert.COREML_TARGETS`.
    """

    def __init__(self, runtime: str, target: str = "") -> None:
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime '{runtime}' does not compile files for a phone{suggestion(runtime, RUNTIMES)}")
        self.runtime, self.target = RUNTIMES[runtime], target
        if self.runtime == "litert":
            usable(user_cache("litert"))
        self.folder = TemporaryFolder("nas-packages-")
        self.process = OnDemandWorker("nas.profiling.workers.compile")

    def package(self, workload: Runnable | CompiledWorkload, alone: bool = False) -> CompiledWorkload:
        """Compile a workload; a `CompiledWorkload` is returned unchanged.

        Args:
            workload: what to compile.
            alone: do not compile a second file with several copies of an operator.

        Raises:
            Infeasible: it cannot be converted, or the converter ran out of memory or crashed.
            NasError: the converter is not installed, or fails for a reason other than the workload.
        """
        if isinstance(workload, CompiledWorkload):
            return workload
        copies = COPIES if isinstance(workload, Workload) and isinstance(workload.part, Operator) and not alone else 1
        return self.process.call("compile_workload", workload, copies, self.runtime, self.target, self.folder.path)

    def close(self) -> None:
        """End the process and delete the compiled files. Closing twice is allowed."""
        self.process.close()
        self.folder.close()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
