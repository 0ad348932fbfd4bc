"""The lookup table on the page: heat maps of operator against shape, and every row behind them."""

from __future__ import annotations

import math

from nas.costs import Row
from nas.report.formatting import MISSING, count, figures, plural
from nas.report.markup import Markup, table, tag
from nas.report.sections.search import absent
from nas.runs.folder import RunFolder
from nas.spaces import NONE, SearchSpace, Workload
from nas.spaces.colors import short_label


def lookup_table(run: RunFolder) -> Markup:
    """Heat maps of operator against shape, for latency and memory, and every row behind them."""
    if run.table is None:
        return absent(run, "table")
    rows = run.table.rows()
    maps = []
    if run.space is not None:
        maps.append(_heat_map(run, rows, "latency_ms", "Latency / ms"))
        maps.append(_heat_map(run, rows, "memory_mb", "Activation memory / MB"))
    sources = [row.source for row in rows.values()]
    counts = {source: sources.count(source) for source in dict.fromkeys(sources)}
    told = ", ".join(f"{n} {source}" for source, n in counts.items()) if len(counts) > 1 else f"all {''.join(counts)}"
    infeasible = sum(row.status != "ok" for row in rows.values())
    told += f"; {infeasible} cannot run on the device" if infeasible else ""
    words = (
        f"{plural(len(rows), 'workload')}: {told}. Cells hold the median, and below it the 10th to 90th percentile of"
        " the samples, or \N{PLUS-MINUS SIGN} the 95% interval of the median where a sample is a difference of two"
        " timings that is lost in their noise."
    )
    detail = tag("details", tag("summary", f"All {plural(len(rows), 'row')}"), _rows(list(rows.values())))
    return tag("div", tag("p", words, class_="caption"), tag("div", maps, class_="maps"), detail)


def _heat_map(run: RunFolder, rows: dict[str, Row], column: str, title: str) -> Markup:
    cells, shapes, operators = heat_cells(run.space)
    values = [getattr(rows[key], column) for key in cells.values() if key in rows and rows[key].status == "ok"]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    body = []
    for operator in operators:
        swatch = tag("i", class_="swatch", style=f"background:{run.colors.get(operator)}")
        line = [tag("th", swatch, short_label(operator), scope="row")]
        for shape in shapes:
            line.append(_heat_cell(rows.get(cells.get((operator, shape), "")), column, low, high))
        body.append(tag("tr", line))
    heat = table(["", *map(_shape, shapes)], body, "heat")
    return tag("figure", tag("figcaption", title), tag("div", heat, class_="scroll"))


def heat_cells(space: SearchSpace) -> tuple[dict[tuple[str, tuple], str], list[tuple], list[str]]:
    """The table's key by (choice, shape), the shapes from high resolution to low, and the choices in order.

    In a cost-only space, where nothing has a shape, `(slot,)` stands for it.
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
    choices = dict.fromkeys(choice for offered in space.slots.values() for choice in offered if choice != NONE)
    return cells, shapes, list(choices)


def _shape(shape: tuple) -> str:
    if len(shape) == 1:
        return shape[0]
    _, channels, _, height, width = shape
    return f"{channels} \N{MULTIPLICATION SIGN} {height}\N{MULTIPLICATION SIGN}{width}"


def _spread(row: Row) -> str:
    """How exact a latency is: the 10th to 90th percentile of its samples, or the 95% interval of a difference.

    An operator's latency is the difference of two timings, and samples of a difference may fall below zero. Those are
    noise and no latency.
    """
    if row.latency_p10_ms >= 0:
        return f"{figures(row.latency_p10_ms)}\N{EN DASH}{figures(row.latency_p90_ms)}"
    return f"\N{PLUS-MINUS SIGN}{figures(row.latency_ci_ms)}"


def _percentile(value: float) -> float:
    """NaN for a percentile below zero: see `_spread`."""
    return value if value >= 0 else math.nan


def _heat_cell(row: Row | None, column: str, low: float, high: float) -> Markup:
    if row is None:
        return tag("td", MISSING, class_="gap")
    if row.status != "ok":
        return tag("td", "cannot run", class_="infeasible", title=row.reason or "infeasible")
    value = getattr(row, column)
    span = math.log(high / low) if 0 < low < high else 0.0
    share = math.log(value / low) / span if span and value > 0 else 0.0
    below = ""
    if column == "latency_ms" and not math.isnan(row.latency_p10_ms):
        below = tag("small", _spread(row))
    mark = tag("em", row.source[:3] + ".", title=row.source) if row.source != "measured" else ""
    return tag("td", figures(value), mark, below, style=f"--heat:{share:.3f}", title=row.workload)


COLUMNS = {
    "Median / ms": (lambda row: row.latency_ms, figures),
    "p10 / ms": (lambda row: _percentile(row.latency_p10_ms), figures),
    "p90 / ms": (lambda row: _percentile(row.latency_p90_ms), figures),
    "\N{PLUS-MINUS SIGN}95% / ms": (lambda row: row.latency_ci_ms, figures),
    "n": (lambda row: row.count, count),
    "Memory / MB": (lambda row: row.memory_mb, figures),
    "Weights / MB": (lambda row: row.weights_mb, figures),
    "Parameters": (lambda row: row.params, count),
}
"""Numbers of a row: how to get one and how to write it."""


def _rows(rows: list[Row]) -> Markup:
    """Every row; page.js sorts them by a column."""
    body = []
    for row in rows:
        cells = [tag("td", write(get(row)), data_value=repr(float(get(row)))) for get, write in COLUMNS.values()]
        source = row.source if row.status == "ok" else f"{row.status}: {row.reason}"
        body.append(tag("tr", tag("td", row.workload, class_="key"), cells, tag("td", source, class_="name")))
    heads = [tag("button", name, type="button") for name in ("Workload", *COLUMNS, "Source")]
    return tag("div", table(heads, body, "figures sortable"), class_="scroll")
