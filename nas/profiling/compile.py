"""Workloads compiled to files that a phone runs: what is sent over a cable, and what a bundle holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import ConfigError, NasError, suggestion
from nas.failures import Infeasible
from nas.profiling.host import usable, user_cache
from nas.profiling.runtimes.base import Runnable
from nas.profiling.scratch import Scratch
from nas.profiling.workers.pool import Child, Children
from nas.spaces import Operator

RUNTIMES = ("coreml", "litert")
COPIES = 3
"""Operators in the longer of the two graphs whose difference is an operator's latency."""


@dataclass(frozen=True)
class CompiledWorkload:
    """One workload as files for one runtime. Its text is the workload's key.

    Attributes:
        workload: the key of the lookup table's row.
        path: the workload's .tflite file, or the folder of its .mlpackage.
        several: the same with `copies` more of the operator in a row, or None where the workload is timed as it is.
            Half the difference of three and one is what an operator adds to a graph; the cost of calling a graph and
            of handing tensors over is in the backbone's row, once.
        params: number of parameters.
        weights_mb: weights as they are stored, in 10^6 bytes.
        inputs_mb: inputs of one run, in 10^6 bytes.
        activations_mb: peak activation memory counted from the shapes, in 10^6 bytes: an estimate; NaN for whole models.
        form: the way of writing the operator that was compiled.
        target: the oldest system it runs on, for Core ML; else empty.
    """

    workload: str
    path: Path
    several: Path | None
    copies: int
    params: int
    weights_mb: float
    inputs_mb: float
    activations_mb: float
    form: str
    target: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, self.several) if self.several else (self.path,)

    def __str__(self) -> str:
        return self.workload


class Compiler:
    """Compiles workloads in a process of its own, so that what the converter cannot survive costs one row.

    Args:
        runtime: `coreml` or `litert`.
        target: of Core ML, see `nas.conversion.convert.COREML_TARGETS`.
    """

    def __init__(self, runtime: str, target: str = "") -> None:
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime '{runtime}' compiles no files for a phone{suggestion(runtime, RUNTIMES)}")
        self.runtime, self.target = runtime, target
        if runtime == "litert":
            usable(user_cache("litert"))
        self.folder = Scratch("nas-packages-")
        self.children = Children("nas.profiling.workers.compile", {}, timeout_s=3600.0, fork=False)
        self.child: Child | None = None

    def package(self, workload: Runnable | CompiledWorkload, alone: bool = False) -> CompiledWorkload:
        """The workload's files; compiled here unless they are there already.

        Args:
            workload: an operator gets a second file with several copies, unless `alone`.

        Raises:
            Infeasible: it cannot be converted, or the converter ran out of memory or crashed.
            NasError: the converter is not installed, or fails for a reason that is not the workload's.
        """
        if isinstance(workload, CompiledWorkload):
            return workload
        if self.child is None:
            self.child = self.children.start()
        copies = COPIES if isinstance(getattr(workload, "part", None), Operator) and not alone else 1
        arguments = (workload, copies, self.runtime, self.target, self.folder.path)
        try:
            return self.child.ask("call", "nas.profiling.workers.compile:compile_workload", *arguments)
        except (Infeasible, NasError):
            self.child = None  # what raised in a child has ended it
            raise

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None
        self.children.close()
        self.folder.close()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
