"""What is known of a space's workloads from tables of other devices: the predictors of `nas.costs.transfer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np

from nas.costs.op_counts import OpCounts
from nas.costs.row import Row
from nas.costs.table import LookupTable
from nas.costs.transfer.model import Predictors, predict
from nas.costs.workload_counts import count_ops
from nas.errors import SpaceError
from nas.spaces import Operator, Workload
from nas.spaces.workload import DTYPE_BYTES

MIN_ROWS = 3
"""Fewest rows that a source must have, and that must run on the new device."""
LEAST_NOISE, UNKNOWN_NOISE = 0.01, 0.03
"""Relative standard deviations of measured latencies: the least, and that of a row without an interval."""
LEAST_MB = 1e-3
"""Memory below this is taken for this."""


class SourceTables:
    """Tables of other devices, and what they and operation counts tell of N workloads.

    Args:
        tables: their measured and estimated rows count. What one lacks is predicted from its others.

    Attributes:
        workloads: N of them.
        keys: of the workloads.
        counts: operation counts of each.
        rows: by key, of each table.
    """

    def __init__(self, workloads: Sequence[Workload], tables: Sequence[LookupTable]) -> None:
        self.workloads, self.tables = list(workloads), list(tables)
        self.keys = [str(workload) for workload in workloads]
        self.counts = [_count(workload) for workload in workloads]
        self.rows = [
            {key: row for key, row in table.rows().items() if row.source in ("measured", "estimated")}
            for table in tables
        ]

    @cached_property
    def latency(self) -> Predictors:
        """The predictors of log latency."""
        logs, variances = zip(*(self._source_latency(rows) for rows in self.rows))
        base = np.mean(logs, axis=0)
        counts = self.counts
        quantities = np.stack(
            [
                [np.log((c.flops + 1) / (c.memory_traffic + 1)) for c in counts],
                [c.attention_flops / (c.flops + 1) for c in counts],
                [np.log1p(4 * sum(c.attention_scores) / (c.memory_traffic + 1)) for c in counts],
                base,
            ],
            axis=1,
        )
        return self._predictors(base, quantities, np.stack([log - base for log in logs], axis=1), _mean(variances))

    def _predictors(self, base: np.ndarray, counts: np.ndarray, slopes: np.ndarray, variance: np.ndarray) -> Predictors:
        families = tuple(
            ("attention" if c.attention_scores else "other") if isinstance(w.part, Operator) else w.kind
            for w, c in zip(self.workloads, self.counts)
        )
        return Predictors(base, tuple(w.kind for w in self.workloads), families, self._shapes, counts, slopes, variance)

    @cached_property
    def _shapes(self) -> np.ndarray:
        channels = [w.shape[1] if len(w.shape) == 5 else (w.context or w.shape)[-1] for w in self.workloads]
        positions = [prod(w.shape) / (w.shape[1] if len(w.shape) == 5 else 1) for w in self.workloads]
        shapes: np.ndarray = np.log(np.stack([positions, channels], axis=1))
        return shapes

    def _source_latency(self, rows: Mapping[str, Row]) -> tuple[np.ndarray, np.ndarray]:
        """Log latencies `(N,)` and their variances; those that a source lacks are predicted from its others."""
        rough = np.log([1e-3 + c.flops / 1e8 + c.memory_traffic / 1e6 + c.kernels / 1e2 for c in self.counts])
        present = np.array([i for i, key in enumerate(self.keys) if key in rows and runs(rows[key])], dtype=int)
        known = [rows[self.keys[i]] for i in present]
        logs, variances = np.log([row.latency_ms for row in known]), np.array([noise(row) for row in known])
        return self._completed(present, logs, variances, rough)

    def _completed(
        self, present: np.ndarray, logs: np.ndarray, noise: np.ndarray, rough: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        full, variance = np.zeros(len(self.keys)), np.zeros(len(self.keys))
        if len(present) < len(full):
            none, quantities = np.zeros((len(full), 0)), rough[:, None]
            found = predict(self._predictors(rough, quantities, none, np.zeros(len(full))), present, logs, noise)
            full, variance = found.mean, (found.half_width / 1.645) ** 2
        full[present], variance[present] = logs, noise
        return full, variance

    def params(self, i: int) -> int:
        """The parameters of a workload, exactly."""
        stated = [rows[self.keys[i]].params for rows in self.rows if self.keys[i] in rows]
        return max([*stated, 0]) or self.counts[i].params

    def memory_mb(self, fitted: np.ndarray, basis: Sequence[Row]) -> np.ndarray:
        """Activation memory `(N,)`: from the sources' and the counted memory, with and without fused attention."""
        bytes_of = np.array([DTYPE_BYTES[w.dtype] for w in self.workloads])
        fused, stored = (
            np.maximum(LEAST_MB, np.array(peaks) * bytes_of / 1e6)
            for peaks in ([c.peak for c in self.counts], [c.unfused().peak for c in self.counts])
        )
        known = np.array([np.isfinite(row.memory_mb) for row in basis])
        if known.sum() < MIN_ROWS:
            return np.full(len(self.keys), np.nan)
        rough, logs = np.log(fused), []
        for rows in self.rows:
            present = [
                i for i, key in enumerate(self.keys) if key in rows and runs(rows[key]) and rows[key].memory_mb >= 0
            ]
            if len(present) >= MIN_ROWS:
                values = np.log([max(LEAST_MB, rows[self.keys[i]].memory_mb) for i in present])
                logs.append(self._completed(np.array(present), values, np.full(len(present), 1e-4), rough)[0])
        base = np.mean(logs, axis=0) if logs else rough
        slopes = np.stack([*(log - base for log in logs), rough - base, np.log(stored / fused)], axis=1)
        predictors = self._predictors(base, np.zeros((len(base), 0)), slopes, np.zeros(len(base)))
        values = np.log([max(LEAST_MB, row.memory_mb) for row, finite in zip(basis, known) if finite])
        found: np.ndarray = np.exp(predict(predictors, fitted[known], values, np.full(len(values), 1e-4)).mean)
        return found

    def weights_mb(self, fitted: np.ndarray, basis: Sequence[Row]) -> np.ndarray:
        """Weights `(N,)`: the parameters' bytes, times what the device keeps of them (packed, or in a lower precision)."""
        exact = np.array([self.params(i) * DTYPE_BYTES[w.dtype] / 1e6 for i, w in enumerate(self.workloads)])
        ratios = [(i, row.weights_mb / exact[i]) for i, row in zip(fitted, basis) if exact[i] > 0 < row.weights_mb]
        if not ratios:
            return exact
        none = np.zeros((len(exact), 0))
        predictors = self._predictors(np.zeros(len(exact)), none, none, np.zeros(len(exact)))
        indices, values = np.array([i for i, _ in ratios]), np.log([ratio for _, ratio in ratios])
        found = predict(predictors, indices, values, np.full(len(values), 1e-6)).mean
        weights: np.ndarray = exact * np.exp(found)
        return weights


def _count(workload: Workload) -> OpCounts:
    """Operation counts; rough ones, from the shape, of an operator that was registered without."""
    try:
        return count_ops(workload)
    except SpaceError:
        if not isinstance(workload.part, Operator) or workload.part.spec.count_ops:
            raise
        elements, channels = prod(workload.shape), workload.shape[1]
        return OpCounts(20.0 * elements * channels, 10.0 * elements, 5, peak=5.0 * elements)


def runs(row: Row) -> bool:
    """Whether the row has a latency; 0 is below the noise of its measurement."""
    return row.status == "ok" and row.latency_ms > 0


def noise(row: Row) -> float:
    """The variance of a row's log latency."""
    relative = row.latency_ci_ms / 1.96 / row.latency_ms
    return max(LEAST_NOISE, UNKNOWN_NOISE if np.isnan(relative) else relative) ** 2


def _mean(variances: Sequence[np.ndarray]) -> np.ndarray:
    """The variances of the mean of independent values."""
    mean: np.ndarray = np.sum(variances, axis=0) / len(variances) ** 2
    return mean
