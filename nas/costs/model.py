"""The cost model: latency, peak memory, parameters and generation time of any architecture, from a lookup table."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np
import pandas as pd

from nas.costs.budget import Budget
from nas.costs.cost import Cost
from nas.costs.generation import Generation
from nas.costs.interpolate import interpolate_missing
from nas.costs.row import Row
from nas.costs.sources import join_sources, measure_or_estimate
from nas.costs.table import Calibration, LookupTable, command_to_measure
from nas.costs.terms import CostTerms, TabulatedCosts
from nas.errors import SpaceError, TableError
from nas.ranges import in_range
from nas.spaces import Architecture, BackboneSpace, SearchSpace
from nas.spaces.workload import DTYPE_BYTES

MB = 1e6


class CostModel:
    """Predicts costs from a lookup table: latency, parameters and weights are sums, activation memory is a maximum.

    Peak memory is `sum of weights + max over layers (resident at the site + activations of the layer)`. What is resident
    while a temporal layer runs is its input and the skip connections that later blocks read, or the backbone's peak if
    the runtime does not release its buffers (`resident_mb`).

    Args:
        space: the search space.
        table: rows for every workload of the space; extra rows are ignored. Its calibration is applied.
        estimates: accept a table that mixes measured rows with estimated or interpolated rows. Rows transferred from
            other devices are always accepted beside measured ones; `Cost.transferred_ms` is their part.
        interpolate: add missing rows of operators by interpolation (`nas.costs.interpolate`), with an interval.
        steps, guidance: of the generation of a clip; guidance runs the denoiser twice per step.

    Raises:
        TableError: workloads have no row (the message lists them and the command that measures them), measured and
            estimated rows are mixed, or the table's calibration makes latencies negative.
        ConfigError: `steps` out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        table: LookupTable,
        estimates: bool = False,
        steps: int = 4,
        guidance: bool = False,
        interpolate: bool = False,
    ) -> None:
        if interpolate:
            table = interpolate_missing(space, table)
        self.space, self.table = space, table
        self.estimates, self.interpolate = estimates, interpolate
        self.steps, self.guidance = int(in_range(steps, "steps", 1, 1_000_000)), guidance
        self._rows = _rows_needed(space, table)
        sources = {row.source for row in self._rows.values()}
        self._check_mixed(sources)
        self.sources = tuple(sorted(sources))
        self._terms = self._build_terms(table.calibration or Calibration())
        self._check_calibration()
        self._tabulated = TabulatedCosts(self._terms)
        self._generation: Generation | None = None
        with contextlib.suppress(TableError):  # the generation time stays unknown
            self._generation = self.generation()

    @property
    def models(self) -> dict[str, CostModel]:
        """This model by the name "", as `DeviceCosts.models` has those of several devices by theirs."""
        return {"": self}

    def terms(self) -> CostTerms:
        """The model as arrays, with the calibration applied."""
        return self._terms

    def predict(self, arch: Architecture) -> Cost:
        """The cost of one architecture, with a breakdown.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        codes = self.space.encode(arch)
        latency_ms, memory_mb, params = self._tabulated(codes[None])[0].tolist()
        return Cost(latency_ms, memory_mb, int(params), self._breakdown(codes), self._clip_s(latency_ms))

    def predict_many(self, codes: np.ndarray | Sequence[Sequence[int]]) -> pd.DataFrame:
        """The costs of N architectures given as codes `(N, slots)`: columns latency_ms, memory_mb, params, and
        generation_s where it is known.

        Raises:
            SpaceError: the wrong number of columns, or a code out of range.
        """
        codes = np.atleast_2d(np.asarray(codes))
        sizes = np.array([len(choices) for choices in self.space.slots.values()])
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise SpaceError(f"expected codes of shape (N, {len(sizes)}), got {codes.shape}")
        if len(codes) and not ((codes.min(0) >= 0).all() and (codes.max(0) < sizes).all()):
            slot = list(self.space.slots)[int(((codes.min(0) < 0) | (codes.max(0) >= sizes)).argmax())]
            raise SpaceError(f"slot '{slot}' has codes 0..{len(self.space.slots[slot]) - 1}; one of the codes is not")
        costs = self._tabulated(codes)
        frame = pd.DataFrame({"latency_ms": costs[:, 0], "memory_mb": costs[:, 1]}, copy=False)
        frame["params"] = costs[:, 2].astype(np.int64)
        if self._generation is not None:
            frame["generation_s"] = self._generation.seconds(costs[:, 0])
        return frame

    def generation(self, steps: int | None = None, guidance: bool | None = None) -> Generation:
        """The generation time of a clip in parts; `steps` and `guidance` default to those of this model.

        Raises:
            TableError: the space has no text encoder or decoder, the table has no rows for them (the message gives the
                command that measures them), or measured and estimated rows are mixed.
        """
        steps = self.steps if steps is None else steps
        guidance = self.guidance if guidance is None else guidance
        needed = {str(workload) for workload in self.space.pipeline_workloads()}
        rows = {key: _without_nan(row) for key, row in self.table.rows().items() if key in needed}
        generation = Generation.from_rows(self.space, rows, self.table, steps, guidance)
        self._check_mixed({*self.sources, generation.text.source, generation.decoder.source})
        return generation

    def generation_s(self, arch: Architecture, steps: int | None = None, guidance: bool | None = None) -> float:
        """Seconds to generate a clip: text encoder + steps x denoiser (twice with guidance) + decoder.

        Raises:
            TableError: as `generation`.
            SpaceError: the architecture belongs to another space.
        """
        return self.generation(steps, guidance).seconds(self.predict(arch).latency_ms)

    def resolve_budget(self, budget: Budget) -> Budget:
        """The budget with its bound on generation time, if any, replaced by one on the latency of the denoiser.

        Raises:
            TableError: a bounded cost is not in the table: generation time (see `generation`) or memory.
            BudgetError: the text encoder and the decoder alone exceed the bound on generation time, or a bound names a
                device.
        """
        budget.check_devices(())
        if budget.memory_mb is not None:
            self.check_memory()
        if budget.generation_s is None:
            return budget
        bound_ms = self.generation().latency_bound_ms(budget.generation_s)
        return replace(budget, generation_s=None, latency_ms=min(bound_ms, budget.latency_ms or bound_ms))

    def limits(self, budget: Budget) -> dict[str, Budget]:
        """`resolve_budget` by device, of which there is one, without a name.

        Raises:
            TableError, BudgetError: as `resolve_budget`.
        """
        return {"": self.resolve_budget(budget)}

    def check_memory(self) -> None:
        """Check that the memory of every workload is known.

        Raises:
            TableError: the memory of a workload is unknown; the message names the workload.
        """
        for key, row in self._rows.items():
            if np.isnan(row.memory_mb):
                device = self.table.provenance.device or "the device"
                raise TableError(
                    f"{self.table.path or 'the table'}: row '{key}': memory_mb is unknown, as {device} does not report "
                    "it; bound latency and params instead, or fill the column in from another device"
                )

    def upper_bounds(self) -> Cost:
        """The maximum of each cost over all feasible architectures (in general not the costs of one architecture)."""
        terms = self._terms
        finite = [np.isfinite(latency) for latency in terms.latency_ms]
        latency_ms = terms.base_latency_ms + sum(x[ok].max() for x, ok in zip(terms.latency_ms, finite))
        params = terms.base_params + sum(x[ok].max() for x, ok in zip(terms.params, finite))
        peak_mb = np.max([terms.base_peak_mb, *(x[ok].max() for x, ok in zip(terms.peak_mb, finite))])
        weights_mb = terms.base_weights_mb + sum(x[ok].max() for x, ok in zip(terms.weights_mb, finite))
        memory_mb = float(weights_mb + peak_mb)
        return Cost(float(latency_ms), memory_mb, int(params), pd.DataFrame(), self._clip_s(float(latency_ms)))

    def resident_mb(self, slot: str) -> float:
        """Memory in use at a slot besides the activations of its layer and all weights: its input and the skips.

        With a runtime that does not release its buffers (`buffers: kept` in the table's metadata), it is the backbone's
        peak, since the runtime does not report which of these buffers it reuses for the layer.
        """
        if not isinstance(self.space, BackboneSpace):
            return 0.0
        if self.table.provenance.buffers == "kept":
            return self._rows[str(self.space.backbone_workload())].memory_mb
        site = self.space.sites[self.space.site_name(slot)]
        elements = site.skip_elements + site.channels * site.height * site.width
        return elements * self.space.latent.frames * self.space.batch * DTYPE_BYTES[self.space.dtype] / MB

    def _clip_s(self, latency_ms: float) -> float | None:
        return None if self._generation is None else self._generation.seconds(latency_ms)

    def _check_mixed(self, sources: AbstractSet[str]) -> None:
        sources = sources - {"transferred"}
        if self.interpolate:
            sources = sources - {"interpolated"}
        if "measured" in sources and len(sources) > 1 and not self.estimates:
            raise TableError(
                f"{self.table.path or 'table'}: mixes {join_sources(sources)} rows; "
                "measure the rest, or allow estimates (estimates=True, --estimates)"
            )

    def _check_calibration(self) -> None:
        least = self._terms.base_latency_ms + sum(float(column.min()) for column in self._terms.latency_ms)
        if least < 0:
            raise TableError(
                f"{self.table.path or 'table'}: its calibration makes latencies negative, down to {least:.4g} ms; "
                "calibrate it again (nas calibrate), or remove the calibration"
            )

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
        terms = self._terms
        rows: list[tuple[str | float, ...]] = []
        scale = (self.table.calibration or Calibration()).scale
        backbone = self.space.backbone_workload()
        if backbone is not None:
            base = self._rows[str(backbone)]
            numbers = (terms.base_latency_ms, terms.base_peak_mb, terms.base_weights_mb, terms.base_params)
            rows.append(("backbone", "", *numbers, base.source, scale * base.latency_ci_ms))
        for i, (slot, choices) in enumerate(self.space.slots.items()):
            c, row = codes[i], self._row(slot, choices[codes[i]])
            numbers = (terms.latency_ms[i][c], terms.peak_mb[i][c], terms.weights_mb[i][c], terms.params[i][c])
            rows.append(
                (slot, choices[c], *numbers, row.source if row else "", scale * row.latency_ci_ms if row else 0.0)
            )
        columns = ["slot", "choice", "latency_ms", "memory_mb", "weights_mb", "params", "source", "latency_ci_ms"]
        return pd.DataFrame(rows, columns=columns)


def _latency_ms(row: Row | None) -> float:
    if row is None:
        return 0.0
    return row.latency_ms if row.status == "ok" else float("inf")


def _rows_needed(space: SearchSpace, table: LookupTable) -> dict[str, Row]:
    """The rows of the space's workloads, infeasible ones without NaN; raises a TableError that lists missing ones."""
    rows = table.rows()
    needed = [str(workload) for workload in space.workloads()]
    missing = [key for key in needed if key not in rows]
    if missing:
        name = table.path or "the table"
        examples = "; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise TableError(
            f"{name}: has no row for {len(missing)} of {len(needed)} workloads of '{space.name}': {examples}. "
            f"{measure_or_estimate(table)} them: {command_to_measure(space, table)}; or interpolate operators (interpolate=True, "
            "--interpolate)"
        )
    return {key: _without_nan(rows[key]) for key in needed}


def _without_nan(row: Row) -> Row:
    if row.status == "ok":
        return row
    memory_mb, weights_mb = (0.0 if np.isnan(value) else value for value in (row.memory_mb, row.weights_mb))
    return replace(row, latency_ms=float("inf"), memory_mb=memory_mb, weights_mb=weights_mb)
