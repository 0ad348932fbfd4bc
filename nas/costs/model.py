"""The cost model: lookup table + search space -> latency, peak memory and parameters of any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nas.costs.table import Calibration, LookupTable, Row
from nas.errors import SpaceError, TableError
from nas.spaces import Architecture, SearchSpace
from nas.spaces.workload import DTYPE_BYTES

MB = 1e6


@dataclass(frozen=True)
class Cost:
    """What one architecture costs.

    Attributes:
        latency_ms: one denoising step.
        memory_mb: peak memory of a denoising step, weights included, in 10^6 bytes.
        params: parameters of the denoiser.
        breakdown: one row per slot (and the backbone): slot, choice, latency_ms, memory_mb (what is alive while it
            runs, weights apart), weights_mb, params, source.
    """

    latency_ms: float
    memory_mb: float
    params: int
    breakdown: pd.DataFrame = field(compare=False, repr=False)


@dataclass(frozen=True)
class CostTerms:
    """The cost model as numbers, for solvers: arrays indexed by a choice's code, one per slot.

    `latency = base_latency_ms + sum latency_ms[i][c_i]`; `params` likewise;
    `memory = base_weights_mb + sum weights_mb[i][c_i] + max(base_peak_mb, max peak_mb[i][c_i])`.
    A workload that cannot run on the device has infinite latency.
    """

    latency_ms: list[np.ndarray]
    params: list[np.ndarray]
    weights_mb: list[np.ndarray]
    peak_mb: list[np.ndarray]
    base_latency_ms: float = 0.0
    base_params: int = 0
    base_weights_mb: float = 0.0
    base_peak_mb: float = 0.0


class CostModel:
    """Predicts costs from a lookup table by adding up (latency, parameters, weights) and by a maximum (activations).

    Peak memory is `sum of weights + the largest (resident at the site + activations of the layer)`: while a temporal
    layer runs, its input and the skip connections that later blocks read are alive as well.

    Args:
        space: the search space.
        table: rows for every workload of the space; extra rows are ignored. Its calibration is applied.
        estimates: accept a table that mixes measured rows with estimated or interpolated ones.

    Raises:
        TableError: workloads have no row (the text lists them and the command that measures them), or measured and
            estimated rows are mixed.
    """

    def __init__(self, space: SearchSpace, table: LookupTable, estimates: bool = False) -> None:
        self.space = space
        self.table = table
        self._rows = _rows_needed(space, table)
        sources = {row.source for row in self._rows.values()}
        if "measured" in sources and len(sources) > 1 and not estimates:
            raise TableError(
                f"{table.path or 'table'}: mixes {' and '.join(sorted(sources))} rows; "
                "measure the rest, or allow estimates (estimates=True, --estimates)"
            )
        self.sources = tuple(sorted(sources))
        self._terms = self._build_terms(table.calibration or Calibration())
        self._fused = _Fused(self._terms)

    def terms(self) -> CostTerms:
        """The model as arrays, calibration folded in."""
        return self._terms

    def predict(self, arch: Architecture) -> Cost:
        """The cost of one architecture, with a breakdown.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        codes = self.space.encode(arch)
        latency_ms, memory_mb, params = self._fused(codes[None])[0]
        return Cost(float(latency_ms), float(memory_mb), int(params), self._breakdown(codes))

    def predict_many(self, codes: np.ndarray | Sequence[Sequence[int]]) -> pd.DataFrame:
        """The costs of N architectures given as codes `(N, slots)`: columns latency_ms, memory_mb, params.

        Raises:
            SpaceError: the wrong number of columns, or a code that no choice has.
        """
        codes = np.atleast_2d(np.asarray(codes))
        sizes = np.array([len(choices) for choices in self.space.slots.values()])
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise SpaceError(f"expected codes of shape (N, {len(sizes)}), got {codes.shape}")
        if len(codes) and not ((codes.min(0) >= 0).all() and (codes.max(0) < sizes).all()):
            slot = list(self.space.slots)[int(((codes.min(0) < 0) | (codes.max(0) >= sizes)).argmax())]
            raise SpaceError(f"slot '{slot}' has codes 0..{len(self.space.slots[slot]) - 1}; one of the codes is not")
        costs = self._fused(codes)
        frame = pd.DataFrame({"latency_ms": costs[:, 0], "memory_mb": costs[:, 1]}, copy=False)
        frame["params"] = costs[:, 2].astype(np.int64)
        return frame

    def largest(self) -> Cost:
        """Each cost at its highest over all architectures that can run (not one architecture's: the corner of them)."""
        terms = self._terms
        finite = [np.isfinite(latency) for latency in terms.latency_ms]
        latency_ms = terms.base_latency_ms + sum(x[ok].max() for x, ok in zip(terms.latency_ms, finite))
        params = terms.base_params + sum(x[ok].max() for x, ok in zip(terms.params, finite))
        peak_mb = max([terms.base_peak_mb, *(x[ok].max() for x, ok in zip(terms.peak_mb, finite))])
        weights_mb = terms.base_weights_mb + sum(x[ok].max() for x, ok in zip(terms.weights_mb, finite))
        return Cost(float(latency_ms), float(weights_mb + peak_mb), int(params), pd.DataFrame())

    def resident_mb(self, slot: str) -> float:
        """What is alive at a slot besides its layer's activations and all weights: its input, and the skips."""
        if self.space.backbone is None:
            return 0.0
        site = self.space.sites[self.space.site_name(slot)]
        elements = site.skip_elements + site.channels * site.height * site.width
        return elements * self.space.latent.frames * self.space.batch * DTYPE_BYTES[self.space.dtype] / MB

    def _row(self, slot: str, choice: str) -> Row | None:
        workload = self.space.workload(slot, choice)
        return None if workload is None else self._rows[str(workload)]

    def _build_terms(self, calibration: Calibration) -> CostTerms:
        columns: dict[str, list[np.ndarray]] = {"latency_ms": [], "params": [], "weights_mb": [], "peak_mb": []}
        for slot, choices in self.space.slots.items():
            rows = [self._row(slot, choice) for choice in choices]
            resident = self.resident_mb(slot)
            columns["latency_ms"].append(np.array([calibration.scale * _latency_ms(row) for row in rows]))
            columns["params"].append(np.array([row.params if row else 0 for row in rows]))
            columns["weights_mb"].append(np.array([row.weights_mb if row else 0.0 for row in rows]))
            columns["peak_mb"].append(np.array([resident + row.memory_mb if row else 0.0 for row in rows]))
        backbone = self.space.backbone_workload()
        base = self._rows[str(backbone)] if backbone is not None else None
        return CostTerms(
            **columns,
            base_latency_ms=calibration.scale * _latency_ms(base) + calibration.offset_ms,
            base_params=base.params if base else 0,
            base_weights_mb=base.weights_mb if base else 0.0,
            base_peak_mb=base.memory_mb if base else 0.0,
        )

    def _breakdown(self, codes: np.ndarray) -> pd.DataFrame:
        terms, rows = self._terms, []
        if self.space.backbone is not None:
            source = self._rows[str(self.space.backbone_workload())].source
            rows.append(
                (
                    "backbone",
                    "",
                    terms.base_latency_ms,
                    terms.base_peak_mb,
                    terms.base_weights_mb,
                    terms.base_params,
                    source,
                )
            )
        for i, (slot, choices) in enumerate(self.space.slots.items()):
            c, row = codes[i], self._row(slot, choices[codes[i]])
            numbers = (terms.latency_ms[i][c], terms.peak_mb[i][c], terms.weights_mb[i][c], terms.params[i][c])
            rows.append((slot, choices[c], *numbers, row.source if row else ""))
        columns = ["slot", "choice", "latency_ms", "memory_mb", "weights_mb", "params", "source"]
        return pd.DataFrame(rows, columns=columns)


class _Fused:
    """Costs of many codes at once: slots are fused into groups whose joint choices are tabulated.

    One gather then serves four or so slots, and the table of a group still fits the processor's cache.
    """

    ENTRIES = 4096
    CHUNK = 1 << 15

    def __init__(self, terms: CostTerms) -> None:
        self.base = terms
        self.groups: list[np.ndarray] = []  # (joint choices, 4): latency, params, weights, peak
        sizes = [len(latency) for latency in terms.latency_ms]
        strides: list[tuple[int, int]] = []  # (group, stride) of each slot
        for i, size in enumerate(sizes):
            slot = np.stack([terms.latency_ms[i], terms.params[i], terms.weights_mb[i], terms.peak_mb[i]], axis=1)
            if self.groups and len(self.groups[-1]) * size <= self.ENTRIES:
                joint = self.groups[-1]
                strides.append((len(self.groups) - 1, len(joint)))
                total = joint[None, :, :] + slot[:, None, :]
                total[..., 3] = np.maximum(joint[None, :, 3], slot[:, None, 3])
                self.groups[-1] = total.reshape(-1, 4)
            else:
                strides.append((len(self.groups), 1))
                self.groups.append(slot.astype(float))
        # float32 counts exactly up to 2^24, far above ENTRIES, and lets BLAS do the indexing
        self.index = np.zeros((len(sizes), len(self.groups)), dtype=np.float32)
        for i, (group, stride) in enumerate(strides):
            self.index[i, group] = stride
        self.columns = [[np.ascontiguousarray(group[:, k]) for group in self.groups] for k in range(4)]

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """`(N, slots)` -> `(N, 3)`: latency_ms, memory_mb, params."""
        out = np.empty((len(codes), 3), order="F")
        for start in range(0, len(codes), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            index = (codes[part].astype(np.float32) @ self.index).astype(np.intp).T.copy()
            latency, params, weights, peak = (
                [column.take(i) for column, i in zip(columns, index)] for columns in self.columns
            )
            out[part, 0] = sum(latency, self.base.base_latency_ms)
            out[part, 1] = sum(weights, self.base.base_weights_mb)
            highest = np.full(len(index[0]), self.base.base_peak_mb)
            for candidate in peak:
                np.maximum(highest, candidate, out=highest)
            out[part, 1] += highest
            out[part, 2] = sum(params, float(self.base.base_params))
        return out


def _latency_ms(row: Row | None) -> float:
    if row is None:
        return 0.0
    return row.latency_ms if row.status == "ok" else float("inf")


def _rows_needed(space: SearchSpace, table: LookupTable) -> dict[str, Row]:
    """The table's rows that the space needs, infeasible ones without NaN, or a TableError that lists what is missing."""
    rows = table.rows()
    needed = [str(workload) for workload in space.workloads()]
    missing = [key for key in needed if key not in rows]
    if missing:
        name = table.path or "the table"
        shown = "; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise TableError(
            f"{name}: has no row for {len(missing)} of {len(needed)} workloads of '{space.name}': {shown}. "
            f"Measure them: nas profile --space {space.name} --runtime {table.meta.get('runtime', 'eager')} "
            f"--out {table.path or 'table.csv'}"
        )
    return {key: _without_nan(rows[key]) for key in needed}


def _without_nan(row: Row) -> Row:
    if row.status == "ok":
        return row
    memory_mb, weights_mb = (0.0 if np.isnan(value) else value for value in (row.memory_mb, row.weights_mb))
    return Row(row.workload, float("inf"), memory_mb, weights_mb, row.params, source=row.source, status=row.status)
