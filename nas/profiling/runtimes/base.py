"""The interface of runtimes: a runtime opens workloads on its device as sessions, and a session times blocks of runs.

Repetition, statistics and tables are the protocol's (`nas.profiling.protocol`), which does not depend on torch, phones or
processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from nas.failures import Infeasible
from nas.files import short_hash
from nas.spaces import NONE, Architecture, Operator, SearchSpace, Workload


@dataclass(frozen=True)
class WholeModel:
    """One architecture's denoiser, measured like a workload: one denoising step.

    Attributes:
        variants: `(workload key, variant)` of the operators that do not use their reference variant.
    """

    space: SearchSpace
    arch: Architecture
    variants: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(B, C, T, H, W) of the denoiser's input."""
        return self.space.input_shape()

    @property
    def context(self) -> tuple[int, int, int]:
        """(B, tokens, dim) of the text context."""
        return self.space.context_shape()

    @property
    def dtype(self) -> str:
        """Name of the torch dtype, such as `float32`."""
        return self.space.dtype

    def __str__(self) -> str:
        return f"Model[{short_hash([self.space.hash, self.arch.items])}] {'x'.join(map(str, self.shape))} {self.dtype}"


@dataclass(frozen=True)
class InModelWorkload:
    """An operator timed inside the denoiser: with the operator in every slot that offers it, less the bare backbone.

    The latency is the difference per copy. Timed alone, a small operator finds its code and data in the caches; in a
    model it does not, and a sum of latencies measured alone is several percent too low.
    """

    space: SearchSpace
    workload: Workload

    @property
    def whole(self) -> WholeModel:
        """The denoiser with the operator in every slot that offers it."""
        choices = {
            slot: choice
            for slot, offered in self.space.slots.items()
            for choice in offered
            if self.space.workload(slot, choice) == self.workload
        }
        return WholeModel(self.space, self.space.architecture(choices))

    def whole_with(self, variant: str) -> WholeModel:
        """`whole` with the operator in one of its variants."""
        return replace(self.whole, variants=((str(self.workload), variant),))

    @property
    def copies(self) -> int:
        """Number of slots with the operator."""
        return sum(choice != NONE for choice in self.whole.arch.choices.values())

    def __str__(self) -> str:
        return str(self.workload)


Runnable = Workload | WholeModel | InModelWorkload


@dataclass(frozen=True)
class WorkloadStats:
    """Properties of a loaded workload that do not need timing.

    Attributes:
        memory_mb: peak activation memory of one run without its inputs, in 10^6 bytes; NaN where the device cannot
            measure it.
        weights_mb: weights, in 10^6 bytes.
        params: number of parameters.
        load_ms: time to compile or load it once.
        variant: the operator variant that runs.
        tolerance_ms: a 95% interval narrower than this is accurate enough whatever the latency is.
    """

    memory_mb: float
    weights_mb: float
    params: int
    load_ms: float
    variant: str = "reference"
    tolerance_ms: float = 0.0

    def with_kept_memory(self, kept_mb: float) -> WorkloadStats:
        """The stats of an operator of which each further copy in a graph takes `kept_mb` in addition to its weights.

        This memory, such as packed weights and the interpreter's records of each operation, is held for every layer all
        the time, so it counts as weights. The rest is shared by layers that run one after the other.
        """
        kept_mb = max(0.0, kept_mb)
        return replace(self, memory_mb=max(0.0, self.memory_mb - kept_mb), weights_mb=self.weights_mb + kept_mb)


@dataclass(frozen=True)
class ConvertedModel:
    """A LiteRT model file.

    Attributes:
        path: of the .tflite file.
        params: number of parameters of one copy.
        weights_mb: weights of one copy, in 10^6 bytes.
        variant: the operator variant that was converted.
        copies: how often the operator runs, one after the other.
    """

    path: Path
    params: int
    weights_mb: float
    variant: str = "reference"
    copies: int = 1


class Session(ABC):
    """One workload, compiled and loaded on the device.

    Attributes:
        stats: memory, weights, parameters and load time.
        process: index of the process that the last block ran in, if the workload has several.
        runs_per_block: the number of runs to ask for, where a block takes a fixed time however short a run is; None to
            let the protocol choose it.
    """

    stats: WorkloadStats
    process: int = 0
    runs_per_block: int | None = None

    @abstractmethod
    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs, one after the other.

        Raises:
            Infeasible: it crashed or ran out of memory. The session is closed then.
        """

    @abstractmethod
    def close(self) -> None:
        """Free its resources. Closing twice is allowed."""


class MultiProcessSession(Session):
    """One workload in several processes, which time blocks in turn.

    Where a process's memory happens to lie changes its latency by 1% to 6% for as long as it lives, which no repetition
    within the process can show.
    """

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions, self.stats, self.process = sessions, sessions[0].stats, -1

    def block(self, runs: int) -> list[float]:
        self.process = (self.process + 1) % len(self.sessions)
        try:
            return self.sessions[self.process].block(runs)
        except Infeasible:
            self.close()
            raise

    def close(self) -> None:
        for session in self.sessions:
            session.close()


class Runtime(ABC):
    """Compiles workloads and runs them on one device.

    Attributes:
        name: as in `nas profile --runtime`.
        source: what its rows are: `measured` or `estimated`.
        in_model: whether it can time an operator inside the denoiser (`InModelWorkload`).
        separate: whether each session is a process of its own on this machine.
        block_ms: how long a block should take; longer where starting a block costs more.
        cap_factor: the protocol's `cap_s` is multiplied by it, where a block takes much longer than what it times.
        reference: a workload of fixed size that is timed between the others to detect drift and throttling.
    """

    name: ClassVar[str]
    source: ClassVar[Literal["measured", "estimated"]] = "measured"
    in_model: ClassVar[bool] = False
    separate: bool = False
    block_ms: float = 20.0
    cap_factor: float = 1.0
    reference: Workload = Workload(Operator("SelfAttention1D"), (1, 64, 8, 8, 8))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Provenance for a table's metadata: at least runtime, version, device, chip, os and threads."""

    @abstractmethod
    def open(self, workload: Runnable) -> Session:
        """Compile and load a workload.

        Raises:
            Infeasible: the device cannot run it.
            NasError: the runtime or the device is missing; the message says how to get it.
        """

    def reopen(self, workload: Runnable, stats: WorkloadStats) -> Session:
        """Another session on a workload that is open already, on the same variant.

        Args:
            stats: of the open session.
        """
        return self.open(workload)

    def progressed(self, done: int, total: int) -> None:  # noqa: B027
        """Told how many of the workloads are measured, for a runtime that shows it on its device."""

    @abstractmethod
    def close(self) -> None:
        """End the processes and connections that the runtime started. Closing twice is allowed."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
