"""The lookup table on the page: heat maps of operator against shape, and all rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from nas.costs import Row
from nas.report.formatting import count, format_number, plural
from nas.report.sections import absent
from nas.report.templating import render
from nas.runs.folder import RunFolder
from nas.spaces import NONE, SearchSpace, Workload


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map; `share` is its shade from 0 to 1, `infeasible` the reason why the workload cannot run."""

    row: Row
    value: float = math.nan
    share: float = 0.0
    spread: str = ""
    infeasible: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A heat map: `rows` are `(choice, color, cells)`, a cell of a missing workload is None."""

    title: str
    shapes: list[str]
    rows: list[tuple[str, str, list[HeatCell | None]]]


def lookup_table(run: RunFolder) -> Markup:
    """Heat maps of operator against shape, for latency and memory, and all rows."""
    if run.table is None:
        return absent(run, "table")
    rows = run.table.rows()
    maps = []
    if run.space is not None:
        maps.append(_heat_map(run, rows, "latency_ms", "Latency / ms"))
        maps.append(_heat_map(run, rows, "memory_mb", "Activation memory / MB"))
    sources = [row.source for row in rows.values()]
    counts = {source: sources.count(source) for source in dict.fromkeys(sources)}
    summary = (
        ", ".join(f"{n} {source}" for source, n in counts.items()) if len(counts) > 1 else f"all {''.join(counts)}"
    )
    infeasible = sum(row.status != "ok" for row in rows.values())
    summary += f"; {infeasible} cannot run on the device" if infeasible else ""
    text = (
        f"{plural(len(rows), 'workload')}: {summary}. Cells hold the median and, below it, the 10th to 90th percentile of"
        " the samples, or \N{PLUS-MINUS SIGN} the 95% confidence interval of the median where the latency is a difference"
        " of two timings that is small compared with their noise."
    )
    heads = ("Workload", *COLUMNS, "Source")
    return render("table", text=text, maps=maps, heads=heads, rows=[_table_row(row) for row in rows.values()])


def _heat_map(run: RunFolder, rows: dict[str, Row], column: str, title: str) -> HeatMap:
    cells, shapes, operators = heat_cells(run.space)
    values = [getattr(rows[key], column) for key in cells.values() if key in rows and rows[key].status == "ok"]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    lines = []
    for operator in operators:
        line = [_heat_cell(rows.get(cells.get((operator, shape), "")), column, low, high) for shape in shapes]
        lines.append((operator, run.colors.get(operator, "transparent"), line))
    return HeatMap(title, [_shape_title(shape) for shape in shapes], lines)


def heat_cells(space: SearchSpace) -> tuple[dict[tuple[str, tuple], str], list[tuple], list[str]]:
    """The table's key by (choice, shape), the shapes from high resolution to low, and the choices in order.

    In a cost-only space, which has no shapes, `(slot,)` takes the place of the shape.
    """
    cells: dict[tuple[str, tuple], str] = {}
    for slot, choices in space.slots.items():
        for choice in choices:
            workload = space.workload(slot, choice)
            if isinstance(workload, Workload):
                cells[choice, workload.shape] = str(workload)
            elif workload is not None:
                cells[choice, (slot,)] = workload
    shapes = list(dict.fromkeys(shape for _, shape in cells))
    if space.backbone is not None:
        shapes.sort(key=lambda s: (-s[3] * s[4], s[1]))
    choices = dict.fromkeys(
        choice for slot_choices in space.slots.values() for choice in slot_choices if choice != NONE
    )
    return cells, shapes, list(choices)


def _shape_title(shape: tuple) -> str:
    if len(shape) == 1:
        return shape[0]
    _, channels, _, height, width = shape
    return f"{channels} \N{MULTIPLICATION SIGN} {height}\N{MULTIPLICATION SIGN}{width}"


def _spread(row: Row) -> str:
    """The 10th to 90th percentile of a latency's samples, or the 95% confidence interval of a difference.

    An operator's latency is the difference of two timings, so that noise can make single samples negative.
    """
    if row.latency_p10_ms >= 0:
        return f"{format_number(row.latency_p10_ms)}\N{EN DASH}{format_number(row.latency_p90_ms)}"
    return f"\N{PLUS-MINUS SIGN}{format_number(row.latency_ci_ms)}"


def _percentile(value: float) -> float:
    """NaN for a negative percentile: see `_spread`."""
    return value if value >= 0 else math.nan


def _heat_cell(row: Row | None, column: str, low: float, high: float) -> HeatCell | None:
    if row is None:
        return None
    if row.status != "ok":
        return HeatCell(row, infeasible=row.reason or "infeasible")
    value = getattr(row, column)
    span = math.log(high / low) if 0 < low < high else 0.0
    share = math.log(value / low) / span if span and value > 0 else 0.0
    spread = _spread(row) if column == "latency_ms" and not math.isnan(row.latency_p10_ms) else ""
    return HeatCell(row, value, share, spread)


COLUMNS = {
    "Median / ms": (lambda row: row.latency_ms, format_number),
    "p10 / ms": (lambda row: _percentile(row.latency_p10_ms), format_number),
    "p90 / ms": (lambda row: _percentile(row.latency_p90_ms), format_number),
    "\N{PLUS-MINUS SIGN}95% / ms": (lambda row: row.latency_ci_ms, format_number),
    "n": (lambda row: row.count, count),
    "Memory / MB": (lambda row: row.memory_mb, format_number),
    "Weights / MB": (lambda row: row.weights_mb, format_number),
    "Parameters": (lambda row: row.params, count),
}
"""Numeric columns of the table of rows: functions that get a row's value and that format it."""


def _table_row(row: Row) -> tuple[str, list[tuple[str, str]], str]:
    """Workload, `(value to sort by, text)` of each column, and source."""
    cells = [(repr(float(get(row))), formatted(get(row))) for get, formatted in COLUMNS.values()]
    return row.workload, cells, ": ".join(filter(None, (row.source if row.status == "ok" else row.status, row.reason)))
