"""The cost section: the chosen architecture's cost as measured, as predicted and as budgeted, then slot by slot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from nas.costs import Cost
from nas.report import findings
from nas.report.formatting import MISSING, megabytes, milliseconds, percent
from nas.report.templating import render
from nas.runs.folder import RunFolder
from nas.spaces import NONE
from nas.spaces.colors import BACKBONE, short_label


@dataclass(frozen=True)
class TotalRow:
    """One quantity of the whole model, as text; `share` and `marks` are positions on its bar, `(class, share)` each."""

    title: str
    source: str
    measured: str
    predicted: str
    budget: str
    of_budget: str
    over: bool
    share: float
    marks: list[tuple[str, float]]


@dataclass(frozen=True)
class SlotRow:
    """Cost of the backbone or of one slot's layer; `others` are `(choice, latency in ms, color)`."""

    slot: str
    choice: str
    layer: str
    color: str
    latency_ms: float
    latency_share: float
    memory_mb: float
    weights_mb: float
    params: int
    others: list[tuple[str, float, str]]

    @property
    def is_none(self) -> bool:
        """Whether the slot is empty."""
        return self.choice == NONE


def costs(run: RunFolder) -> Markup:
    """Measured, predicted and budgeted cost in a table and in sentences; then slot by slot."""
    cost = run.predicted_cost
    reasons = [run.missing[part] for part in ("cost_model", "table", "architecture", "space") if part in run.missing]
    frame = cost.breakdown if cost else pd.DataFrame(columns=["slot", "latency_ms", "memory_mb"])
    slots = frame[(frame["slot"] != "backbone") & frame["latency_ms"].map(math.isfinite)]["latency_ms"]
    longest_ms = float(slots.max() if len(slots) else 0.0) * 1.6 or 1.0
    most_mb = (float(frame["memory_mb"].max()) if len(frame) else 0.0) or 1.0
    return render(
        "costs",
        totals=_totals(run),
        whole_model=f"{findings.total_cost_source(run, 'latency_ms').capitalize()} whole",
        text=" ".join(findings.costs(run) + findings.clip_time(run)),
        absent_reason="" if cost else "Not in this run yet: " + ("; ".join(reasons) or "it is not there yet") + ".",
        breakdown_caption=_caption(cost, longest_ms) if cost else "",
        rows=[_slot_row(run, cost, row, longest_ms) for row in frame.to_dict("records")] if cost else [],
        longest_ms=longest_ms,
        most_mb=most_mb,
    )


def _totals(run: RunFolder) -> list[TotalRow]:
    predicted_cost, measured_cost = run.record.predicted or run.predicted_cost, run.record.measured
    if predicted_cost is None and measured_cost is None:
        return []
    rows = []
    for name, quantity in findings.QUANTITIES.items():
        predicted, measured = getattr(predicted_cost, name, None), getattr(measured_cost, name, None)
        bound = run.record.budget.get(name)
        value = measured if measured is not None else predicted
        finite = [v for v in (predicted, measured, bound) if v is not None and math.isfinite(v)]
        largest = max(finite, default=0) * 1.08 or 1.0
        rows.append(
            TotalRow(
                quantity.title,
                findings.total_cost_source(run, name),
                quantity.format(measured),
                quantity.format(predicted),
                quantity.format(bound),
                percent(value / bound) if bound else MISSING,
                bound is not None and value > bound,
                value / largest,
                [
                    (mark, v / largest)
                    for mark, v in (("guess", predicted), ("limit", bound))
                    if v is not None and math.isfinite(v)
                ],
            )
        )
    return rows


def _caption(cost: Cost, longest_ms: float) -> str:
    frame = cost.breakdown
    text = f"As predicted from the table. Latency adds up to {milliseconds(cost.latency_ms)}"
    correction = cost.latency_ms - float(frame["latency_ms"].sum())
    if abs(correction) > 1e-6:
        text += f" (of which calibration adds {milliseconds(correction)})"
    text += (
        f"; peak memory is all weights ({megabytes(float(frame['weights_mb'].sum()))}) plus the largest amount alive at"
        f" once ({megabytes(float(frame['memory_mb'].max()))}). Thin marks are the slot's other choices."
    )
    if (frame["latency_ms"] > longest_ms).any():
        text += " A bar with a double line at its end is longer than the scale; its value is beside it."
    return text


def _slot_row(run: RunFolder, cost: Cost, row: dict, longest_ms: float) -> SlotRow:
    """The row of one slot, or of the backbone, from a row of the cost breakdown."""
    slot, choice = row["slot"], row["choice"]
    is_backbone = slot == "backbone"
    share = row["latency_ms"] / cost.latency_ms if row["latency_ms"] > 0 and math.isfinite(cost.latency_ms) else 0.0
    others = [
        (other, ms, run.colors.get(other, "transparent"))
        for other, ms in run.slot_latencies_ms.get(slot, {}).items()
        if other not in (choice, NONE) and ms <= longest_ms
    ]
    return SlotRow(
        slot,
        choice,
        "spatial UNet" if is_backbone else short_label(choice),
        BACKBONE if is_backbone else run.colors.get(choice, "transparent"),
        row["latency_ms"],
        share,
        row["memory_mb"],
        row["weights_mb"],
        row["params"],
        others,
    )
