"""The `roofline` runtime: estimates from the shapes of workloads and a device's peak figures; nothing is measured.

latency = max(operations / peak compute, bytes moved / bandwidth) + kernels * launch overhead      (Williams et al., 2009)

No kernel reaches both peaks, so these are lower bounds on the latency; they rank operators and tell compute-bound from
memory-bound ones. Everything is counted in float16, the precision of phones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from nas import __version__, config
from nas.costs.op_counts import OpCounts
from nas.costs.workload_counts import count_ops
from nas.errors import ConfigError, suggestion
from nas.failures import OutOfMemory
from nas.profiling.runtimes.base import InModelWorkload, Runnable, Runtime, Session, WholeModel, WorkloadStats

KINDS = ("vendor", "third party", "measured", "assumption")
BYTES = 2
MB = 1e6


@dataclass(frozen=True)
class Figure:
    """A number with its source.

    Attributes:
        value: in the unit of the field's name.
        source: where it is published, or why it is assumed.
        kind: `vendor`, `third party`, `measured` or `assumption`.
    """

    value: float
    source: str
    kind: str


@dataclass(frozen=True)
class Device:
    """A device's peak figures, as a YAML file holds them.

    Attributes:
        name, chip: for display.
        peak_tflops: float16 operations in 10^12 per second; a multiply-add counts as two.
        bandwidth_gb_s: memory bandwidth in 10^9 bytes per second.
        launch_us: overhead of starting one kernel, in microseconds.
        usable_memory_mb: memory limit of one application, in 10^6 bytes.
        fused_attention: 1 if attention scores stay on the chip, 0 if they are written to memory.
    """

    name: str
    chip: str
    peak_tflops: Figure
    bandwidth_gb_s: Figure
    launch_us: Figure
    usable_memory_mb: Figure
    fused_attention: Figure

    @classmethod
    def load(cls, name: str) -> Device:
        """Load a shipped description by name, or one from a path that ends in .yaml.

        Raises:
            ConfigError: unknown device, or an invalid file.
        """
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            folder = Path(str(resources.files("nas.profiling.runtimes"))) / "devices"
            known = sorted(file.stem for file in folder.glob("*.yaml"))
            if name not in known:
                raise ConfigError(
                    f"unknown device '{name}' of runtime 'roofline'{suggestion(name, known)}; "
                    f"known: {', '.join(known)}, or a path to a .yaml file"
                )
            path = folder / f"{name}.yaml"
        device = config.load(cls, path, "device description")
        for field, figure in device.figures():
            if figure.kind not in KINDS:
                raise ConfigError(f"{path}: {field}.kind: unknown '{figure.kind}'{suggestion(figure.kind, KINDS)}")
            if not (figure.value > 0 or (field in ("launch_us", "fused_attention") and figure.value == 0)):
                raise ConfigError(f"{path}: {field}.value: {figure.value} must be above 0")
        return device

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """(field name, figure) of every figure."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Figure):
                yield field.name, value


class RooflineRuntime(Runtime):
    """Estimates for a device that does not have to be available.

    Args:
        device: a name in `nas/profiling/runtimes/devices/`, or a path to a YAML file like those.
    """

    name = "roofline"
    source = "estimated"

    def __init__(self, device: str) -> None:
        self.device, self.figures = device, Device.load(device)

    def describe(self) -> dict[str, Any]:
        return {
            "runtime": "roofline",
            "version": f"nas-video {__version__}",
            "device": Path(self.device).stem,
            "device_name": self.figures.name,
            "chip": self.figures.chip,
            "os": "none: an estimate from peak figures",
            "threads": 0,
            "precision": "float16",
            "figures": {
                field: {"value": figure.value, "kind": figure.kind, "source": " ".join(figure.source.split())}
                for field, figure in self.figures.figures()
            },
        }

    def open(self, workload: Runnable) -> EstimateSession:
        counted = _count(workload, bool(self.figures.fused_attention.value))
        stats = WorkloadStats(
            memory_mb=counted.peak * BYTES / MB,
            weights_mb=counted.params * BYTES / MB,
            params=counted.params,
            load_ms=math.nan,
        )
        needed, usable = stats.memory_mb + stats.weights_mb, self.figures.usable_memory_mb.value
        if needed > usable:
            raise OutOfMemory(f"out of memory: needs {needed:.0f} MB; an application may use {usable:.0f} MB")
        return EstimateSession(stats, self.latency_ms(counted))

    def latency_ms(self, counted: OpCounts) -> float:
        """The roofline latency of operation counts, in ms."""
        compute_s = counted.flops / (self.figures.peak_tflops.value * 1e12)
        memory_s = counted.memory_traffic * BYTES / (self.figures.bandwidth_gb_s.value * 1e9)
        total_ms = max(compute_s, memory_s) * 1e3 + counted.kernels * self.figures.launch_us.value / 1e3
        return float(f"{total_ms:.5g}")

    def close(self) -> None:
        pass


class EstimateSession(Session):
    """One workload's estimate; every run of it takes the same time."""

    def __init__(self, stats: WorkloadStats, latency_ms: float) -> None:
        self.stats, self.latency_ms = stats, latency_ms

    def block(self, runs: int) -> list[float]:
        return [self.latency_ms] * runs

    def close(self) -> None:
        pass


def _count(workload: Runnable, fused_attention: bool) -> OpCounts:
    """Operation counts of a workload; those of a whole denoiser are the sum of its parts."""
    if isinstance(workload, InModelWorkload):
        return _count(workload.workload, fused_attention)
    if isinstance(workload, WholeModel):
        space = workload.space
        placed = [space.workload(slot, choice) for slot, choice in workload.arch.items]
        parts = [space.backbone_workload(), *(part for part in placed if part is not None)]
        return sum((_count(part, fused_attention) for part in parts), OpCounts())
    counts = count_ops(workload)
    return counts if fused_attention else counts.unfused()
