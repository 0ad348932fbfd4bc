"""Interpolate missing rows of a lookup table with a roofline model that is fitted to its measured rows.

    latency = factor of the kind x (a x dense flops + b x attention flops + c x memory traffic + d x kernels)

The non-negative coefficients are shared by all operators and minimize the squared relative error; the factor is the
geometric mean of the residual ratios of a kind's rows. With shared coefficients, two or three rows per kind are enough
(docs/benchmarks/interpolation.md compares this with a roofline model per kind).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import pandas as pd

from nas.costs.row import COLUMNS, Row
from nas.costs.table import LookupTable
from nas.costs.workload_counts import count_ops
from nas.errors import TableError
from nas.spaces import Operator, SearchSpace, Workload
from nas.spaces.workload import DTYPE_BYTES

COVERAGE = 0.9
"""Nominal coverage of the intervals of interpolated rows."""

MIN_ROWS = 9
"""Fewest measured rows for which an interval of that coverage exists: (n + 1) x 0.9 <= n."""


def interpolate_missing(space: SearchSpace, table: LookupTable) -> LookupTable:
    """The table with an additional row, `source` interpolated, for every operator of the space that has none.

    `latency_ci_ms` of such a row covers the true latency in 90% of cases: a conformal interval from leave-one-out errors
    of the fit. Memory is fitted per kind to activations, attention scores and weights (which convolutions copy), and has
    no interval; parameters are exact. If a smaller workload of a kind is infeasible, so is the interpolated one. A
    missing row of the backbone is not interpolated.

    Raises:
        TableError: too few measured rows, or no row of a kind that is missing.
    """
    rows = table.rows()
    operators = [w for w in space.workloads() if isinstance(w, Workload) and isinstance(w.part, Operator)]
    missing = [workload for workload in operators if str(workload) not in rows]
    if not missing:
        return table
    known = {workload: rows[str(workload)] for workload in operators if str(workload) in rows}
    sources = {row.source for row in known.values()}
    basis = {w: row for w, row in known.items() if row.source == ("measured" if "measured" in sources else row.source)}
    fit = _Fit.to({workload: row for workload, row in basis.items() if row.status == "ok"}, table)
    new = [_row(workload, fit, known) for workload in missing]
    frame = pd.concat([table.frame, pd.DataFrame(map(vars, new), columns=list(COLUMNS))], ignore_index=True)
    return replace(table, frame=frame)


@dataclass(frozen=True)
class _Fit:
    """A fitted roofline model.

    Attributes:
        coefficients: shared by all kinds.
        factors: by kind.
        memory: the coefficients of memory by kind.
        spread: half the width of the interval of log latency.
        where: the table, for error messages.
    """

    coefficients: np.ndarray
    factors: dict[str, float]
    memory: dict[str, np.ndarray]
    spread: float
    where: str

    @classmethod
    def to(cls, known: Mapping[Workload, Row], table: LookupTable) -> _Fit:
        where = str(table.path or "the table")
        known = {
            workload: row for workload, row in known.items() if row.latency_ms > 0
        }  # 0: below the noise of the measurement
        if len(known) < MIN_ROWS:
            raise TableError(
                f"{where}: {len(known)} measured operators are too few for interpolation; measure at least {MIN_ROWS}"
            )
        x = np.array([_features(workload) for workload in known])
        y = np.array([row.latency_ms for row in known.values()])
        kinds = np.array([workload.kind for workload in known])
        errors = []
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            coefficients, factors = _solve(x[rest], y[rest], kinds[rest])
            predicted = factors.get(kinds[i], 1.0) * (
                x[i] @ coefficients
            )  # 1: the only row of its kind; overestimates the error
            errors.append(abs(np.log(y[i] / predicted)) if predicted > 0 else np.inf)
        rank = ceil((len(errors) + 1) * COVERAGE)
        memory_terms = np.array([_memory_terms_mb(workload) for workload in known])
        memory_mb = np.array([row.memory_mb for row in known.values()])
        memory = {kind: _least_relative(memory_terms[kinds == kind], memory_mb[kinds == kind]) for kind in set(kinds)}
        return cls(*_solve(x, y, kinds), memory, float(np.sort(errors)[rank - 1]), where)

    def latency_ms(self, workload: Workload) -> float:
        if workload.kind not in self.factors:
            raise TableError(
                f"{self.where}: no {workload.kind} is measured at any shape, so {workload} cannot be interpolated; "
                "measure one"
            )
        return float(self.factors[workload.kind] * (_features(workload) @ self.coefficients))


def _least_relative(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-negative coefficients that minimize the squared relative error of `x @ coefficients`; NaN if a `y` is NaN."""
    from scipy.optimize import nnls

    if np.isnan(y).any():
        return np.full(x.shape[1], np.nan)
    shares = x / np.maximum(y, 1e-9)[:, None]
    scale = np.where(shares.max(0) > 0, shares.max(0), 1.0)  # they differ by ten orders of magnitude
    coefficients: np.ndarray = nnls(shares / scale, np.ones(len(y)))[0] / scale
    return coefficients


def _solve(x: np.ndarray, y: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    coefficients = _least_relative(x, y)
    left = np.log(y / (x @ coefficients))
    return coefficients, {kind: float(np.exp(left[kinds == kind].mean())) for kind in set(kinds)}


def _row(workload: Workload, fit: _Fit, known: Mapping[Workload, Row]) -> Row:
    latency_ms, counted = fit.latency_ms(workload), count_ops(workload)
    row = Row(
        str(workload),
        latency_ms,
        float(_memory_terms_mb(workload) @ fit.memory[workload.kind]),
        counted.params * DTYPE_BYTES[workload.dtype] / 1e6,
        counted.params,
        latency_ci_ms=latency_ms * (np.exp(fit.spread) - 1),
        source="interpolated",
    )
    for other, failed in known.items():
        if failed.status != "ok" and other.kind == workload.kind and count_ops(other).peak <= counted.peak:
            reason = f"interpolated: the smaller {other} cannot run: {failed.reason}"
            return replace(row, latency_ms=float("inf"), status="infeasible", reason=reason)
    return row


def _features(workload: Workload) -> np.ndarray:
    counted = count_ops(workload)
    traffic = counted.memory_traffic * DTYPE_BYTES[workload.dtype]
    return np.array([counted.flops - counted.attention_flops, counted.attention_flops, traffic, counted.kernels])


def _memory_terms_mb(workload: Workload) -> np.ndarray:
    """Activations, attention scores of all heads, and weights."""
    counted = count_ops(workload)
    return np.array([counted.peak, sum(counted.attention_scores), counted.params]) * DTYPE_BYTES[workload.dtype] / 1e6
