"""What every runtime is: it opens a workload on its device and runs it in blocks.

A runtime knows nothing of repetition, statistics or tables; the protocol (`nas.profiling.protocol`) knows nothing of
torch, phones or processes. Between them stands a `Session`: one workload, compiled and loaded where it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nas.failures import Infeasible
from nas.files import short_hash
from nas.spaces import NONE, Architecture, Operator, SearchSpace, Workload


@dataclass(frozen=True)
class WholeModel:
    """One architecture's denoiser, measured like a workload: one denoising step.

    Attributes:
        forms: `(workload's key, form)` of the operators that are not written in their reference form.
    """

    space: SearchSpace
    arch: Architecture
    forms: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        return self.space.input_shape()

    @property
    def context(self) -> tuple[int, int, int]:
        return self.space.context_shape()

    @property
    def dtype(self) -> str:
        return self.space.dtype

    def __str__(self) -> str:
        return f"Model[{short_hash([self.space.hash, self.arch.items])}] {'x'.join(map(str, self.shape))} {self.dtype}"


@dataclass(frozen=True)
class InPlace:
    """An operator where it will stand: the denoiser with it in every slot that can hold it, less the bare backbone.

    Timed alone, a small operator finds its code and data in the caches and nothing else to do; in a model it does not,
    and a sum of such times is several percent too low. Its latency here is the difference per copy.
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

    def whole_in(self, form: str) -> WholeModel:
        """`whole` with the operator written in a form."""
        return replace(self.whole, forms=((str(self.workload), form),))

    @property
    def copies(self) -> int:
        return sum(choice != NONE for choice in self.whole.arch.choices.values())

    def __str__(self) -> str:
        return str(self.workload)


Runnable = Workload | WholeModel | InPlace


@dataclass(frozen=True)
class Loaded:
    """What is known of a workload once it is loaded, before any timing.

    Attributes:
        memory_mb: peak activation memory of one run above its inputs, in 10^6 bytes; NaN where the device has no
            measure of it.
        weights_mb: weights, in 10^6 bytes.
        params: number of parameters.
        load_ms: time to compile or load it once.
        form: the way of writing the operator that runs.
        tolerance_ms: a 95% interval narrower than this is of no use to anyone.
    """

    memory_mb: float
    weights_mb: float
    params: int
    load_ms: float
    form: str = "reference"
    tolerance_ms: float = 0.0

    def less_kept(self, kept_mb: float) -> Loaded:
        """The same of an operator of which each further one in a graph takes `kept_mb` more, weights apart.

        That is kept for every layer of its kind, used or not at the moment: packed weights, and what the interpreter
        notes of each operation. It counts as weights do. The rest is shared by layers that run one after the other.
        """
        kept_mb = max(0.0, kept_mb)
        return replace(self, memory_mb=max(0.0, self.memory_mb - kept_mb), weights_mb=self.weights_mb + kept_mb)


class Session(ABC):
    """One workload, compiled and loaded on the device.

    Attributes:
        process: which of its processes the last block ran in, where it has several.
    """

    loaded: Loaded
    process: int = 0

    @abstractmethod
    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs, one after the other.

        Raises:
            Infeasible: it crashed or ran out of memory. The session is closed then.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what it holds. Closing twice is fine."""


class Processes(Session):
    """One workload in several processes, a block from each in turn.

    The same work takes each process a time of its own, by where its memory happens to lie: 1% to 6% more or less for one
    operator, for as long as the process lives, which no repetition within it can show.
    """

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions, self.loaded, self.process = sessions, sessions[0].loaded, -1

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
        in_place: whether it can time an operator inside the denoiser.
        separate: whether each session is a process of its own on this machine.
        block_ms: how long one visit to a workload should take; longer where a visit costs more to begin.
        reference: a workload of fixed size, timed between the others so that drift and throttling are seen.
    """

    name: ClassVar[str]
    source: ClassVar[str] = "measured"
    in_place: ClassVar[bool] = False
    separate: bool = False
    block_ms: float = 20.0
    reference: Workload = Workload(Operator("SelfAttention1D"), (1, 64, 8, 8, 8))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Provenance for a table's metadata: at least runtime, version, device, chip, os, threads."""

    @abstractmethod
    def open(self, workload: Runnable) -> Session:
        """Compile and load a workload.

        Raises:
            Infeasible: the device cannot run it.
            NasError: the runtime or the device itself is missing; the text says how to get it.
        """

    def reopen(self, workload: Runnable, loaded: Loaded) -> Session:
        """Another session on a workload that is open, in the form which that one runs."""
        return self.open(workload)

    @abstractmethod
    def close(self) -> None:
        """End what the runtime started. Closing twice is fine."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
