"""Carry lookup tables over to a new device: which workloads to measure there, and the rows of the others.

The rows that are not measured on the device are predicted from the tables of other devices by the model of
`nas.costs.transfer.model`, and have `source` transferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from nas.costs.interpolate import COVERAGE
from nas.costs.provenance import Provenance
from nas.costs.row import COLUMNS, Row
from nas.costs.sources import without_transferred
from nas.costs.table import LookupTable
from nas.costs.transfer.model import Prediction, choose, predict
from nas.costs.transfer.predictors import MIN_ROWS, SourceTables, noise, runs
from nas.errors import SpaceError, TableError
from nas.spaces import SearchSpace, Workload

ARCHITECTURES = 500
"""Random architectures that decide how important a workload is."""
EACH = 0.1
"""The importance of all single workloads, alike, relative to that of architectures: a search with a tight budget needs the
cheap ones, which hardly count in random architectures."""
STEPS = 4
"""Denoising steps of a clip, in which the text encoder and the decoder count."""
LARGE_MB = 1000.0
"""Attention scores of this size may not fit on a device that stores them, or slow it down much..."""
DOUBT = 1.0
"""...so that the log latency of such a workload is uncertain by this standard deviation, in addition, before it is measured."""
SETTINGS = ("runtime", "version", "device", "chip", "dtype", "precision", "threads")
"""What the metadata of a transferred table tell of each source."""


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did.

    Attributes:
        table: measured and transferred rows.
        left_out_error: mean relative error of predicting each measured row from the others.
        half_interval: median half width of the intervals of transferred rows, relative to their latency.

    Both are NaN if all rows are measured.
    """

    table: LookupTable
    left_out_error: float
    half_interval: float


class Transfer:
    """The transfer of source tables to a device, for the workloads of a search space.

    Args:
        space: with a backbone.
        sources: tables of other devices. Their measured and estimated rows count; they may lack some, which are
            predicted from their others.
        pipeline: include the text encoder and the decoder.

    Raises:
        SpaceError: a cost-only space.
        TableError: no source, or one with hardly a row of the space.
    """

    def __init__(self, space: SearchSpace, sources: Sequence[LookupTable], pipeline: bool = False) -> None:
        self.space, self.sources, self.pipeline = space, list(sources), pipeline
        self.workloads = [w for w in space.workloads() if isinstance(w, Workload)]
        if not self.workloads:
            raise SpaceError(f"search space '{space.name}' is cost-only: its workloads have no shapes to transfer by")
        self.workloads += space.pipeline_workloads() if pipeline else []
        if not self.sources:
            raise TableError("transfer: needs at least one table of another device")
        self.known = SourceTables(self.workloads, self.sources)
        self.keys = self.known.keys
        for table, rows in zip(self.sources, self.known.rows):
            usable = sum(key in rows and runs(rows[key]) for key in self.keys)
            if usable < min(MIN_ROWS, len(self.keys)):
                raise TableError(
                    f"{table.path or 'a source table'}: has measured rows of {usable} of the {len(self.keys)} workloads "
                    f"of '{space.name}', too few to transfer; give a table that was profiled for this space"
                )

    def plan(self, measured: Mapping[str, Row], count: int, runtime: str = "") -> list[Workload]:
        """The workloads to measure next, the most informative first.

        None that cannot run by sources of the same runtime, or by what was measured. What did not run with another runtime
        is tried, since runtimes differ in whether they store attention scores.

        As long as all of them run, an interrupted run measures the rest of its plan: in which order does not matter.

        Args:
            measured: rows measured on the device, infeasible ones included.
            count: number of workloads measured in the end.
            runtime: of the device.
        """
        doubt = np.where(self._scores_mb > LARGE_MB, DOUBT**2, 0.0)
        known = [i for i, key in enumerate(self.keys) if key in measured]
        ran = [i for i in known if runs(measured[self.keys[i]])]
        order: list[int] = []
        if len(ran) == len(known):
            importance = self._importance({}, runtime)
            every = [int(i) for i in np.flatnonzero(np.diag(importance))]
            order = choose(self.known.latency, importance, doubt, [], every, count)
        if not set(known) <= set(order):
            importance = self._importance(measured, runtime)
            rest = [int(i) for i in np.flatnonzero(np.diag(importance)) if i not in known]
            order = choose(self.known.latency, importance, doubt, ran, rest, count - len(known))
        return [self.workloads[i] for i in order if i not in known]

    def plan_round(self, measured: Mapping[str, Row], count: int, runtime: str = "") -> list[Workload]:
        """The workloads of `plan` to measure before it is made again: none when it is done.

        Of those that may not fit on the device, the one with the smallest attention scores alone: if it does not run, larger
        ones of its kind need not be tried, and what is chosen next no longer serves architectures with them. Without
        such, all: measured together they take turns.
        """
        plan = self.plan(measured, count, runtime)
        scores_mb = dict(zip(self.keys, self._scores_mb))
        doubtful = [workload for workload in plan if scores_mb[str(workload)] > LARGE_MB]
        return [min(doubtful, key=lambda workload: scores_mb[str(workload)])] if doubtful else plan

    @cached_property
    def _scores_mb(self) -> np.ndarray:
        """`(N,)`: the largest attention scores of each workload, which a device may have to store."""
        return np.array([4 * max(c.attention_scores, default=0.0) / 1e6 for c in self.known.counts])

    def fill(self, table: LookupTable) -> TransferReport:
        """The table with a transferred row for every workload that it does not have.

        Args:
            table: rows measured on the device; its transferred rows are replaced.

        Raises:
            TableError: too few of its rows run.
        """
        table = replace(table, frame=without_transferred(table.frame))
        rows = table.rows()
        known = [i for i, key in enumerate(self.keys) if key in rows]
        fitted = np.array([i for i in known if runs(rows[self.keys[i]])], dtype=int)
        if len(known) == len(self.keys):
            return TransferReport(table, float("nan"), float("nan"))
        if len(fitted) < MIN_ROWS:
            raise TableError(
                f"{table.path or 'the table'}: {len(fitted)} measured workloads ran on the device; a transfer needs "
                f"{MIN_ROWS}, measure more (--measure {len(known) + MIN_ROWS})"
            )
        basis = [rows[self.keys[i]] for i in fitted]
        variances = np.array([noise(row) for row in basis])
        latency = predict(self.known.latency, fitted, np.log([row.latency_ms for row in basis]), variances)
        memory_mb, weights_mb = self.known.memory_mb(fitted, basis), self.known.weights_mb(fitted, basis)
        new = [
            self._row(i, latency, memory_mb[i], weights_mb[i], table, rows)
            for i in range(len(self.keys))
            if i not in known
        ]
        frame = pd.concat([table.frame, pd.DataFrame(map(vars, new), columns=list(COLUMNS))], ignore_index=True)
        left_out = float(np.abs(np.expm1(latency.left_out)).mean())
        shares = [row.latency_ci_ms / row.latency_ms for row in new if row.status == "ok"]
        half = float(np.median(shares)) if shares else float("nan")
        told = {
            "from": [_settings(source) for source in self.sources],
            "measured": len(known),
            "left_out_error": round(left_out, 4),
            "interval": f"{COVERAGE:.0%}",
        }
        provenance = replace(table.provenance, other={**table.provenance.other, "transfer": told})
        return TransferReport(replace(table, frame=frame, provenance=provenance), left_out, half)

    def _importance(self, measured: Mapping[str, Row], runtime: str) -> np.ndarray:
        """`(N, N)`: the expected products of the workloads' shares of the latency of random architectures, and of their
        differences from the average architecture, which decide the ranks."""
        index = {key: i for i, key in enumerate(self.keys)}
        unusable = {
            key
            for i, key in enumerate(self.keys)
            if self._infeasible(i, measured)
            or (key not in measured and self._infeasible_on(self._sources_with(key, runtime)))
        }
        counts = np.zeros((ARCHITECTURES, len(self.keys)))
        backbone = self.space.backbone_workload()
        counts[:, index[str(backbone)]] = STEPS
        rng = np.random.default_rng(0)
        for slot, choices in self.space.slots.items():
            keys = [str(self.space.workload(slot, c)) if self.space.workload(slot, c) else None for c in choices]
            usable = [key for key in keys if key not in unusable]
            for number, pick in enumerate(rng.integers(len(usable), size=ARCHITECTURES) if usable else ()):
                if (key := usable[pick]) is not None:
                    counts[number, index[key]] += STEPS
        for workload in self.space.pipeline_workloads() if self.pipeline else ():
            counts[:, index[str(workload)]] = 1 if workload == self.space.text_workload() else self.space.decoder_runs
        parts = counts * np.exp(self.known.latency.base)
        totals = parts.sum(1, keepdims=True)
        shares, differences = parts / totals, (parts - parts.mean(0)) / max(float(totals.std()), 1e-12)
        importance: np.ndarray = (shares.T @ shares + differences.T @ differences) / ARCHITECTURES
        used = np.diag((parts > 0).any(0).astype(float))
        importance += EACH * np.trace(importance) / np.trace(used) * used
        return importance

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _row(
        self,
        i: int,
        latency: Prediction,
        memory_mb: float,
        weights_mb: float,
        table: LookupTable,
        measured: Mapping[str, Row],
    ) -> Row:
        key, nan = self.keys[i], float("nan")
        same = self._sources_with(key, _runtime(table.provenance))
        if reason := self._infeasible(i, measured) or self._infeasible_on(same or self._sources_with(key)):
            return Row(key, float("inf"), nan, nan, 0, source="transferred", status="infeasible", reason=reason)
        # the interval of the log latency is from mean - h to mean + h, that of the latency as wide as their exponentials
        middle, half = np.exp(latency.mean[i]), np.sinh(latency.half_width[i])
        return Row(
            key,
            _rounded(middle),
            _rounded(memory_mb),
            _rounded(weights_mb),
            self.known.params(i),
            latency_ci_ms=_rounded(middle * half),
            variant=next((row.variant for _, row in same), ""),
            source="transferred",
        )

    def _infeasible(self, i: int, measured: Mapping[str, Row]) -> str:
        """Why a workload cannot run, if it or a smaller one of its kind could not on the device; else empty."""
        for j, other in enumerate(self.workloads):
            row = measured.get(self.keys[j])
            smaller = other.kind == self.workloads[i].kind and self.known.counts[j].peak <= self.known.counts[i].peak
            if row is not None and row.status != "ok" and smaller:
                return f"transferred: the smaller {other} cannot run: {row.reason}"
        return ""

    def _sources_with(self, key: str, runtime: str | None = None) -> list[tuple[LookupTable, Row]]:
        """The sources that have a workload, of one runtime if given, with their rows."""
        found = [(table, rows[key]) for table, rows in zip(self.sources, self.known.rows) if key in rows]
        return [(table, row) for table, row in found if runtime is None or _runtime(table.provenance) == runtime]

    def _infeasible_on(self, sources: Sequence[tuple[LookupTable, Row]]) -> str:
        """Why a workload cannot run, if it does not on any of the sources; else empty."""
        if not sources or any(row.status == "ok" for _, row in sources):
            return ""
        table, row = sources[0]
        name = table.path.name if table.path else table.provenance.device or "a source"
        return f"transferred: cannot run in {name}: {row.reason or 'no reason given'}"


def _runtime(provenance: Provenance) -> str:
    return (provenance.runtime or "").partition("+")[0]


def _settings(table: LookupTable) -> dict[str, object]:
    meta = table.meta
    return {"table": str(table.path or ""), **{key: meta[key] for key in SETTINGS if key in meta}}


def _rounded(value: float) -> float:
    """Five significant digits, as of measurements."""
    return float(f"{value:.5g}")
