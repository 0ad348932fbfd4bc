"""Made-up devices: lookup tables from operation counts, with their own speed for each kind, bandwidth, overhead and noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nas.costs import LookupTable, Row
from nas.costs.row import COLUMNS
from nas.costs.workload_counts import count_ops
from nas.profiling import Protocol, Runtime, Session, WorkloadStats
from nas.spaces import Operator, SearchSpace, Workload

QUICK = Protocol(processes=1, cap_s=0.0, slow_cap_s=0.0, min_samples=1, min_blocks=1)


def made_up(space: SearchSpace, seed: int, noise: float = 0.02, spread: float = 0.4) -> LookupTable:
    """A measured table of a device.

    Args:
        noise: relative standard deviation of each latency.
        spread: log standard deviation of the kinds' speeds.
    """
    rng = np.random.default_rng(seed)
    speed = 10 ** rng.uniform(10, 12)
    bandwidth = speed / 10 ** rng.uniform(0.7, 1.7)  # 5 to 50 operations a byte
    overhead_ms, stores_scores = 10 ** rng.uniform(-3, -1.5), rng.random() < 0.5
    kinds = {w.kind: w for w in space.workloads()}
    families = {name: spread * rng.standard_normal() for name in ("attention", "other")}
    factors = {kind: families[family(w)] + spread * rng.standard_normal() for kind, w in kinds.items()}
    slopes = {kind: 0.15 * rng.standard_normal() for kind in kinds}  # how the efficiency changes with the channels
    rows = []
    for workload in space.workloads():
        counts = count_ops(workload)
        counts = counts.unfused() if stores_scores else counts
        kind, channels = workload.kind, workload.shape[1]
        compute_ms = counts.flops / (speed * np.exp(factors[kind] + slopes[kind] * np.log(channels / 64))) * 1e3
        memory_ms = 4 * counts.memory_traffic / bandwidth * 1e3
        latency_ms = np.hypot(compute_ms, memory_ms) + counts.kernels * overhead_ms
        rows.append(
            Row(
                str(workload),
                float(latency_ms * np.exp(noise * rng.standard_normal())),
                4 * counts.peak / 1e6,
                4 * counts.params / 1e6,
                counts.params,
                latency_ci_ms=float(1.96 * noise * latency_ms),
                count=20,
            )
        )
    frame = pd.DataFrame(map(vars, rows), columns=list(COLUMNS))
    return LookupTable.from_frame(frame, {"runtime": f"made-up-{seed}", "device": "none"})


def family(workload: Workload) -> str:
    attends = isinstance(workload.part, Operator) and "Attention" in workload.kind
    return "attention" if attends else "other"


class TableRuntime(Runtime):
    """A device whose latencies are those of a table.

    Args:
        stop_after: KeyboardInterrupt when one more workload than this is opened.

    Attributes:
        opened: keys of the workloads that were opened.
    """

    name = "looked-up"

    def __init__(self, table: LookupTable, stop_after: int = 10**6) -> None:
        self.rows, self.stop_after, self.opened = table.rows(), stop_after, []

    def describe(self) -> dict:
        return {"runtime": self.name, "device": "made up"}

    def open(self, workload: Workload) -> Session:
        key = str(workload)
        if workload is not self.reference:
            if len(self.opened) == self.stop_after:
                raise KeyboardInterrupt
            self.opened.append(key)
        return LookedUp(self.rows.get(key, Row(key, 1.0, 1.0, 1.0, 1)))

    def close(self) -> None:
        pass


class LookedUp(Session):
    def __init__(self, row: Row) -> None:
        self.row = row
        self.stats = WorkloadStats(row.memory_mb, row.weights_mb, row.params, load_ms=1.0)

    def block(self, runs: int) -> list[float]:
        from nas.profiling import Infeasible

        if self.row.status != "ok":
            raise Infeasible(self.row.reason)
        return [self.row.latency_ms] * runs

    def close(self) -> None:
        pass
