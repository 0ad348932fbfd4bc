"""The lookup table on the page: heat maps of operator against shape, and every row behind them."""

from __future__ import annotations

import math

from nas.costs import Row
from nas.report.colours import short
from nas.report.folder import RunFolder
from nas.report.markup import Markup, tag
from nas.report.numbers import MISSING, count, figures, plural
from nas.report.search_sections import absent
from nas.spaces import NONE, SearchSpace, Workload


def lookup_table(run: RunFolder) -> Markup:
    """Heat maps of operator against shape, for latency and memory, and every row behind them."""
    if run.table is None:
        return absent(run, "table")
    rows = run.table.rows()
    maps = (
        []
        if run.space is None
        else [
            _heat_map(run, rows, "latency_ms", "Latency / ms"),
            _heat_map(run, rows, "memory_mb", "Activation memory / MB"),
        ]
    )
    infeasible = sum(row.status != "ok" for row in rows.values())
    sources = {s: sum(r.source == s for r in rows.values()) for s in dict.fromkeys(r.source for r in rows.values())}
    told = (
        ", ".join(f"{n} {source}" for source, n in sources.items())
        if len(sources) > 1
        else f"all {next(iter(sources), '')}"
    )
    words = f"{plural(len(rows), 'workload')}: {told}" + (
        f"; {infeasible} cannot run on the device" if infeasible else ""
    )
    words += ". Cells hold the median, and the 10th to 90th percentile below it."
    detail = tag("details", tag("summary", f"All {plural(len(rows), 'row')}"), _rows(list(rows.values())))
    return tag("div", tag("p", words, class_="caption"), tag("div", maps, class_="maps"), detail)


def _heat_map(run: RunFolder, rows: dict[str, Row], column: str, title: str) -> Markup:
    cells, shapes, operators = heat_cells(run.space)
    values = [getattr(rows[key], column) for key in cells.values() if key in rows and rows[key].status == "ok"]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    body = []
    for operator in operators:
        line = [
            tag(
                "th",
                tag("i", class_="swatch", style=f"background:{run.colours.get(operator)}"),
                short(operator),
                scope="row",
            )
        ]
        for shape in shapes:
            line.append(_heat_cell(rows.get(cells.get((operator, shape), "")), column, low, high))
        body.append(tag("tr", line))
    heads = [tag("th", "")] + [tag("th", _shape(shape), scope="col") for shape in shapes]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", body), class_="heat")
    return tag("figure", tag("figcaption", title), tag("div", table, class_="scroll"))


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
    return (
        cells,
        shapes,
        list(dict.fromkeys(choice for offered in space.slots.values() for choice in offered if choice != NONE)),
    )


def _shape(shape: tuple) -> str:
    if len(shape) == 1:
        return shape[0]
    _, channels, _, height, width = shape
    return f"{channels} \N{MULTIPLICATION SIGN} {height}\N{MULTIPLICATION SIGN}{width}"


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
        below = tag("small", f"{figures(row.latency_p10_ms)}\N{EN DASH}{figures(row.latency_p90_ms)}")
    mark = tag("em", row.source[:3] + ".", title=row.source) if row.source != "measured" else ""
    return tag("td", figures(value), mark, below, style=f"--heat:{share:.3f}", title=row.workload)


def _rows(rows: list[Row]) -> Markup:
    """Every row; page.js sorts them by a column."""
    names = (
        "Workload",
        "Median / ms",
        "p10 / ms",
        "p90 / ms",
        "\N{PLUS-MINUS SIGN}95% / ms",
        "n",
        "Memory / MB",
        "Weights / MB",
        "Parameters",
        "Source",
    )
    head = tag("tr", [tag("th", tag("button", name, type="button"), scope="col") for name in names])
    body = []
    for r in rows:
        numbers = (
            r.latency_ms,
            r.latency_p10_ms,
            r.latency_p90_ms,
            r.latency_ci_ms,
            r.count,
            r.memory_mb,
            r.weights_mb,
            r.params,
        )
        written = [count(n) if i in (4, 7) else figures(n) for i, n in enumerate(numbers)]
        source = r.source if r.status == "ok" else f"{r.status}: {r.reason}"
        body.append(
            tag(
                "tr",
                tag("td", r.workload, class_="key"),
                [tag("td", shown, data_value=repr(float(n))) for n, shown in zip(numbers, written)],
                tag("td", source, class_="name"),
            )
        )
    table = tag("table", tag("thead", head), tag("tbody", body), class_="figures sortable")
    return tag("div", table, class_="scroll")
