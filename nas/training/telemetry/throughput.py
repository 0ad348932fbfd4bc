"""Throughput of training: clips per second, where a step's time goes, FLOP/s and memory.

`throughput.csv` of a stage has a row per `WINDOW` steps, of rank 0::

    step           the last step of the window
    clips_per_s    clips of all workers; an image is a clip of one frame
    step_s         seconds of a step, of which
    data_s         before the batch is on the device,
    forward_s, backward_s, optimizer_s    and in these; the rest is previews
    tflops         TFLOP/s of one device, by torch's counter; recomputed activations are not counted
    mfu            the same as a share of the device's peak; NaN where that is unknown
    memory_gb      peak memory of the device's tensors, or of this process on a CPU

Times are not in `history.csv`, since that is equal bit for bit however often a run is interrupted.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nas import distributed
from nas.process_memory import peak_resident_bytes

THROUGHPUT = "throughput.csv"
WINDOW = 20
PARTS = ("data", "forward", "backward", "optimizer")

PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250, 1125),
    "H200": (989, 494),
    "H100 PCIe": (756, 378),
    "H100": (989, 494),
    "A100": (312, 156),
    "L40S": (362, 183),
    "A40": (150, 75),
    "L4": (121, 60),
    "RTX 4090": (165, 83),
    "RTX 3090": (71, 36),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
}
"""Dense peak by a part of the GPU's name, from its data sheet: in half precision, and in TF32 (else float32)."""


class Timer:
    """Where a learner reports what it begins; this one does not record it."""

    def begin(self, clips: torch.Tensor, kind: str = "") -> None:
        """The batch, with these clips `(B, ...)`, is on the device, and a forward pass begins.

        Args:
            kind: of the step, if steps on clips of one shape differ.
        """

    def part(self, name: str) -> None:
        """A part of the step begins: one of `PARTS`, or another."""


@dataclass
class _Step:
    marks: list[tuple[str, Any]]
    clips: int = 0
    kind: tuple[str | int, ...] = ()
    counted: bool = False


@dataclass
class _Flops:
    """Of the steps of one kind: how many there were, and the operations of those that were counted."""

    steps: int = 0
    counted: list[int] = field(default_factory=list)


class StepTimer(Timer):
    """Times the parts of steps, and counts the operations of some.

    A counted step is slower, so it is not timed if others are. Of the steps on batches of one shape the first, second,
    fourth, eighth, ... is counted: those of a supernet differ by their path.

    Args:
        device: on a CUDA GPU, its own clock is read after the fact, so that the host waits for nothing.
        peak_tflops: of the device in this precision; None if unknown.
        compiled: whether blocks are compiled; counted steps run them as they are.
    """

    def __init__(self, device: torch.device, peak_tflops: float | None, compiled: bool = False) -> None:
        self._device, self._peak, self._compiled = device, peak_tflops, compiled
        self._clock = _CudaClock() if device.type == "cuda" else _HostClock()
        self._steps: list[_Step] = []
        self._flops: dict[tuple[str | int, ...], _Flops] = defaultdict(_Flops)
        self._step: _Step | None = None
        self._counting = contextlib.ExitStack()
        self._counter: _FlopCounter | None = None

    def begin(self, clips: torch.Tensor, kind: str = "") -> None:
        if self._step is None or self._step.clips:
            self.part("forward")
            return
        self._step.clips, self._step.kind = len(clips) * distributed.world_size(), (kind, *clips.shape)
        flops = self._flops[self._step.kind]
        flops.steps += 1
        self._step.counted = flops.steps & (flops.steps - 1) == 0
        if self._step.counted:
            if self._compiled:
                self._counting.enter_context(torch.compiler.set_stance("force_eager"))
            self._counter = self._counting.enter_context(_FlopCounter())
        self.part("forward")

    def part(self, name: str) -> None:
        if self._step is not None:
            self._step.marks.append((name, self._clock.mark()))

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Time the step that is taken inside; it begins with its data."""
        self._step, self._counter = _Step([("data", self._clock.mark())]), None
        step = self._step
        try:
            with self._counting:
                yield
        finally:
            self._step = None
        if self._counter is not None:
            self._flops[step.kind].counted.append(self._counter.flops - self._counter.repeated)
        step.marks.append(("", self._clock.mark()))
        self._steps.append(step)

    def row(self) -> dict[str, float]:
        """The means of the steps since the last row; {} if none is over."""
        over = [step for step in self._steps if self._clock.is_over(step.marks[-1][1])]
        self._steps = self._steps[len(over) :]
        steps = [step for step in over if not step.counted] or over
        if not steps:
            return {}
        parts: dict[str, float] = defaultdict(float)
        for step in steps:
            for (name, start), (_, end) in zip(step.marks, step.marks[1:]):
                parts[name] += self._clock.seconds(start, end)
        total = max(sum(parts.values()), 1e-9)
        flops = sum(self._mean_flops(step.kind) for step in steps) / total
        return {
            "clips_per_s": sum(step.clips for step in steps) / total,
            "step_s": total / len(steps),
            **{f"{name}_s": parts[name] / len(steps) for name in PARTS},
            "tflops": flops / 1e12,
            "mfu": flops / 1e12 / self._peak if self._peak else math.nan,
            "memory_gb": peak_memory(self._device) / 1e9,
        }

    def _mean_flops(self, kind: tuple[str | int, ...]) -> float:
        counted = self._flops[kind].counted
        return sum(counted) / len(counted) if counted else math.nan


def short_text(row: dict[str, float]) -> str:
    """A row of `StepTimer` in a few words, for a progress bar."""
    share = "" if math.isnan(row["mfu"]) else f", MFU {row['mfu']:.0%}"
    return f"{row['clips_per_s']:.3g} clips/s, {row['tflops']:.3g} TFLOP/s{share}, {row['memory_gb']:.2g} GB"


def long_text(row: dict[str, float]) -> str:
    """A row of `StepTimer` in a line."""
    parts = ", ".join(f"{name} {row[f'{name}_s'] / row['step_s']:.0%}" for name in PARTS)
    return f"a step takes {row['step_s']:.3g} s ({parts}); {short_text(row)}"


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The dense peak of a known GPU in a precision of `ExecutionConfig`; None for other devices."""
    if device.type != "cuda":
        return None
    return known_peak(torch.cuda.get_device_name(device), precision)


def known_peak(name: str, precision: str) -> float | None:
    """`peak_tflops` of the GPU of this name."""
    if re.search(r"Laptop|Max-Q|MIG", name):  # slower, or a part of the GPU
        return None
    found = next((peaks for part, peaks in PEAK_TFLOPS.items() if re.search(rf"{part}\b", name)), None)
    return None if found is None else float(found[precision == "fp32"])


def peak_memory(device: torch.device) -> float:
    """Peak bytes of the tensors of a CUDA GPU; on other devices, of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


_counters: list[_FlopCounter] = []


class _FlopCounter(TorchDispatchMode):
    """Counts by torch's formulas, less what is computed again in the backward pass.

    Torch's own `FlopCounterMode` also decomposes operations, which changes the last bits of gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.repeated = 0

    def __enter__(self) -> _FlopCounter:
        _counters.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        _counters.remove(self)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def recomputation() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """`context_fn` of torch's `checkpoint`: contexts of the forward pass and of its repetition, which is not counted."""
    return contextlib.nullcontext(), _repeated()


@contextlib.contextmanager
def _repeated() -> Iterator[None]:
    before = [counter.flops for counter in _counters]
    try:
        yield
    finally:
        for counter, flops in zip(_counters, before):
            counter.repeated += counter.flops - flops


class _HostClock:
    """The host's clock: right where it waits for each operation, as on a CPU."""

    def mark(self) -> float:
        return time.perf_counter()

    def is_over(self, mark: float) -> bool:
        return True

    def seconds(self, start: float, end: float) -> float:
        return end - start


class _CudaClock:
    """Events on the GPU's stream."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def is_over(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000
