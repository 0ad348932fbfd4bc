"""What each slot of the winner costs: latency end to end, and latency and memory slot by slot."""

from __future__ import annotations

import math

from nas.costs import Cost
from nas.report import findings
from nas.report.formatting import MISSING, count, megabytes, milliseconds, percent
from nas.report.markup import Markup, bar, table, tag
from nas.report.sections.search import absent, key_figures
from nas.runs.folder import RunFolder
from nas.spaces import NONE
from nas.spaces.colors import BACKBONE, short_label


def costs(run: RunFolder) -> Markup:
    """Measured, predicted and allowed, in a table and in words; then slot by slot."""
    said = " ".join(findings.costs(run) + findings.clip(run))
    return tag(
        "div",
        key_figures(run),
        tag("p", said, class_="caption") if said else "",
        tag("h3", "Slot by slot"),
        breakdown(run),
    )


def breakdown(run: RunFolder) -> Markup:
    """Latency and memory slot by slot, and what every other choice would have cost there."""
    cost = run.predicted_cost
    if cost is None:
        return absent(run, "cost_model", "table", "architecture", "space")
    frame = cost.breakdown
    slots = frame[(frame["slot"] != "backbone") & frame["latency_ms"].map(math.isfinite)]["latency_ms"]
    longest_ms = float(slots.max() if len(slots) else 0.0) * 1.6 or 1.0
    most_mb = float(frame["memory_mb"].max()) or 1.0
    rows = [_row(run, row, longest_ms, most_mb) for row in frame.to_dict("records")]
    heads = ("Slot", "Choice", "Latency", "", "Alive", "", "Weights", "Parameters")
    words = tag("p", _caption(cost, longest_ms), class_="caption")
    return tag("div", words, _stack(run, cost), table(heads, rows, "figures breakdown", words=heads[1:2]))


def _caption(cost: Cost, longest_ms: float) -> str:
    frame = cost.breakdown
    words = f"As predicted from the table. Latency adds up to {milliseconds(cost.latency_ms)}"
    correction = cost.latency_ms - float(frame["latency_ms"].sum())
    if abs(correction) > 1e-6:
        words += f" (of which calibration adds {milliseconds(correction)})"
    words += (
        f"; peak memory is all weights ({megabytes(float(frame['weights_mb'].sum()))}) plus the largest that is alive at"
        f" once ({megabytes(float(frame['memory_mb'].max()))}). Thin marks are the other choices of the slot."
    )
    if (frame["latency_ms"] > longest_ms).any():
        words += " A bar with a double line at its end goes beyond the scale; its number is beside it."
    return words


def _stack(run: RunFolder, cost: Cost) -> Markup:
    """The whole latency as one bar: the backbone, then every slot in the order they run."""
    parts = []
    for row in cost.breakdown.to_dict("records"):
        if row["latency_ms"] > 0 and math.isfinite(cost.latency_ms):
            share = row["latency_ms"] / cost.latency_ms
            says = f"{row['slot']} {row['choice']}: {milliseconds(row['latency_ms'])}, {percent(share)}"
            parts.append(tag("i", style=f"flex:{share:.5f};background:{_color(run, row)}", title=says))
    label = "Latency of the backbone and of each slot, end to end"
    return tag("div", parts, class_="stack", role="img", aria_label=label)


def _row(run: RunFolder, row: dict, longest_ms: float, most_mb: float) -> Markup:
    """One slot, or the backbone."""
    slot, choice, ms, mb = row["slot"], row["choice"], row["latency_ms"], row["memory_mb"]
    cells = [
        tag("th", slot, scope="row"),
        tag("td", "spatial UNet" if slot == "backbone" else short_label(choice), class_="name"),
        tag("td", milliseconds(ms), data_name="latency"),
        tag("td", bar(ms / longest_ms, _others(run, row, longest_ms), color=_color(run, row), cut=ms > longest_ms), class_="barcell"),
        tag("td", megabytes(mb), data_name="alive"),
        tag("td", bar(mb / most_mb, color=_color(run, row)), class_="barcell"),
        tag("td", megabytes(row["weights_mb"]), data_name="weights"),
        tag("td", count(row["params"]), data_name="parameters"),
    ]  # fmt: skip
    if choice == NONE:
        cells[2] = cells[4] = cells[6] = cells[7] = tag("td", MISSING)
    return tag("tr", cells, class_="none" if choice == NONE else None)


def _others(run: RunFolder, row: dict, longest_ms: float) -> list[Markup]:
    """A mark for the latency of every other choice of a slot."""
    return [
        tag(
            "i",
            class_="other",
            style=f"left:{ms / longest_ms:.2%};background:{run.colors.get(other)}",
            title=f"{other}: {milliseconds(ms)}",
        )
        for other, ms in run.slot_latencies_ms.get(row["slot"], {}).items()
        if other not in (row["choice"], NONE) and ms <= longest_ms
    ]


def _color(run: RunFolder, row: dict) -> str:
    return BACKBONE if row["slot"] == "backbone" else run.colors.get(row["choice"], "transparent")
