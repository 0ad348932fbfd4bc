"""Fit a correction to a lookup table by measuring whole models (`nas calibrate`)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nas.costs import Calibration, CostModel, LookupTable
from nas.costs.table import shipped_tables
from nas.errors import TableError
from nas.locks import output_lock
from nas.profiling.measuring import measure_architectures
from nas.profiling.protocol import Protocol
from nas.spaces import Architecture, SearchSpace


@dataclass(frozen=True)
class CalibrationReport:
    """The result of a calibration.

    Attributes:
        calibration: the correction; `LookupTable.save` stores it beside the table.
        models: one row per measured architecture: architecture, predicted_ms (without correction), corrected_ms,
            measured_ms.
        error_before: mean relative error of the predictions.
        error_after: mean relative error of the corrected predictions, each by a fit without the model (leave-one-out).
    """

    calibration: Calibration
    models: pd.DataFrame
    error_before: float
    error_after: float


def calibrate(
    space: SearchSpace,
    table: LookupTable,
    count: int = 8,
    seed: int = 0,
    protocol: Protocol | None = None,
    progress: bool = True,
    **options: Any,
) -> CalibrationReport:
    """Measure `count` whole architectures as the table was measured, and fit `latency = scale * sum + offset`.

    The architectures are spread over the range of predicted latencies. Sets `table.calibration`, and stores it beside the
    table if the table was read from a file.

    Args:
        space: with a backbone.
        table: measured; its metadata says by which runtime, on which device, with how many threads.
        count: number of whole models to measure, at least 3.
        seed: of the random architectures.
        options: for the runtime, in addition to those in the metadata.

    Raises:
        TableError: the table is not measured, or fewer than 3 models could run.
    """
    if table.path in shipped_tables().values():
        raise TableError(f"{table.path}: is a shipped table; copy it with its .meta.json and calibrate the copy")
    if set(table.frame["source"]) != {"measured"}:
        raise TableError(f"{table.path or 'table'}: only a measured table can be calibrated")
    if count < 3:
        raise TableError(f"calibrate: {count} models are too few; measure 3 or more")
    with (
        output_lock(table.path) if table.path else nullcontext()
    ):  # an unwritable folder is an error before anything is measured
        return _calibrate(space, table, count, seed, protocol, progress, options)


def _calibrate(
    space: SearchSpace,
    table: LookupTable,
    count: int,
    seed: int,
    protocol: Protocol | None,
    progress: bool,
    options: dict[str, Any],
) -> CalibrationReport:
    uncorrected = CostModel(space, replace(table, calibration=None))
    archs = _spread(space, uncorrected, count, seed)
    keys = ("threads", "wait", "compute_unit", "target", "precision")
    stored = {name: value for name, value in table.meta.items() if name in keys}
    rows = measure_architectures(
        space,
        archs,
        (table.provenance.runtime or "eager").partition("+")[0],
        table.provenance.device or "local",
        protocol,
        progress,
        table,
        **{**stored, **options},
    )
    feasible = [i for i, row in enumerate(rows) if row.status == "ok"]
    if len(feasible) < 3:
        raise TableError(f"calibrate: only {len(feasible)} of {count} whole models could run: {rows[0].reason}")
    predicted = np.array([uncorrected.predict(archs[i]).latency_ms for i in feasible])
    measured = np.array([rows[i].latency_ms for i in feasible])
    if not (measured > 0).all():
        raise TableError("calibrate: a whole model took 0 ms: too short for the clock; calibrate a larger space")
    calibration = fit(predicted, measured)
    try:
        CostModel(space, replace(table, calibration=calibration))
    except TableError:  # an offset that makes the smallest architectures' latencies negative
        calibration = _fit_scale(predicted, measured)
    table.calibration = calibration
    if table.path:
        table.save(table.path)
    held_out = [fit(np.delete(predicted, i), np.delete(measured, i)) for i in range(len(feasible))]
    left_out = np.array([c.scale * p + c.offset_ms for c, p in zip(held_out, predicted)])
    models = pd.DataFrame(
        {
            "architecture": [str(archs[i]) for i in feasible],
            "predicted_ms": predicted,
            "corrected_ms": table.calibration.scale * predicted + table.calibration.offset_ms,
            "measured_ms": measured,
        }
    )
    errors = [float(np.mean(np.abs(p / measured - 1))) for p in (predicted, left_out)]
    return CalibrationReport(table.calibration, models, *errors)


def fit(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> Calibration:
    """Fit `scale` and `offset_ms` to the least squared relative error.

    Fits the scale only if the predictions hardly differ, or if noise would make the scale negative.
    """
    if np.ptp(predicted_ms) < 0.02 * np.mean(predicted_ms):
        return _fit_scale(predicted_ms, measured_ms)
    weight = 1 / measured_ms
    columns = np.stack([predicted_ms * weight, weight], axis=1)
    scale, offset_ms = np.linalg.lstsq(columns, np.ones(len(weight)), rcond=None)[0]
    return Calibration(float(scale), float(offset_ms)) if scale > 0 else _fit_scale(predicted_ms, measured_ms)


def _fit_scale(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> Calibration:
    """The scale with the least squared relative error, without an offset."""
    ratio = predicted_ms / measured_ms
    return Calibration(float(np.sum(ratio) / np.sum(ratio**2)))


def _spread(space: SearchSpace, cost: CostModel, count: int, seed: int) -> list[Architecture]:
    """Random feasible architectures, evenly spaced by predicted latency."""
    rng = np.random.default_rng(seed)
    drawn = {space.random(rng) for _ in range(50 * count)}
    latencies = {arch: cost.predict(arch).latency_ms for arch in drawn}
    ranked = sorted((arch for arch in drawn if np.isfinite(latencies[arch])), key=latencies.__getitem__)
    picks = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[i] for i in dict.fromkeys(picks)]
