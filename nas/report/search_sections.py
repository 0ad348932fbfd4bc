"""The page's first half: the architecture, the front it comes from, what it costs, and the table behind the costs."""

from __future__ import annotations

import math

from nas.costs import Cost
from nas.report import facts, svg
from nas.report.colours import BACKBONE, short
from nas.report.folder import RunFolder
from nas.report.markup import Markup, tag
from nas.report.numbers import MISSING, count, figures, megabytes, milliseconds, percent, plural
from nas.report.shown import Shown
from nas.report.unet import draw, longest_latency_ms
from nas.spaces import NONE

UNITS = {"latency_ms": milliseconds, "memory_mb": megabytes, "params": count}
NAMES = {"latency_ms": "Latency", "memory_mb": "Peak memory", "params": "Parameters"}


def absent(run: RunFolder, *parts: str) -> Markup:
    """Why a section is empty."""
    reasons = [run.missing[part] for part in parts if part in run.missing] or ["it is not there yet"]
    return tag("p", "Not in this run yet: ", "; ".join(reasons), ".", class_="absent")


def key_figures(run: RunFolder) -> Markup:
    """Predicted, measured whole, and budget, side by side; a bar for the measured one and a line for the budget."""
    predicted, measured = run.record.predicted or run.cost, run.record.measured
    if predicted is None and measured is None:
        return Markup()
    rows = []
    for name, unit in UNITS.items():
        guess, value, bound = getattr(predicted, name, None), getattr(measured, name, None), run.record.budget.get(name)
        top = max(v for v in (guess, value, bound, 1e-9) if v is not None) * 1.08
        best = value if value is not None else guess
        over = bound is not None and best > bound
        marks = [
            tag("i", class_="bar over" if over else "bar", style=f"width:{best / top:.2%}"),
            tag("i", class_="guess", style=f"left:{guess / top:.2%}") if guess is not None else "",
            tag("i", class_="limit", style=f"left:{bound / top:.2%}") if bound is not None else "",
        ]
        used = percent(best / bound) if bound else MISSING
        rows.append(
            tag(
                "tr",
                tag("th", NAMES[name], scope="row"),
                tag("td", unit(value), data_name="measured"),
                tag("td", unit(guess), data_name="predicted"),
                tag("td", unit(bound), data_name="budget"),
                tag("td", used, data_name="of budget", class_="over" if over else None),
                tag("td", tag("div", marks, class_="bullet"), class_="wide", aria_hidden="true"),
            )
        )
    heads = ("", "Measured whole", "Predicted", "Budget", "Of budget", "")
    head = tag("tr", [tag("th", words, scope="col") for words in heads])
    return tag("table", tag("thead", head), tag("tbody", rows), class_="figures keys")


def architecture(run: RunFolder, shown: list[Shown]) -> Markup:
    """The winner on the UNet; page.js puts others in its place."""
    if not run.choices and not shown:
        return absent(run, "architecture", "space")
    first = next((a for a in shown if a.chosen), None)
    choices = first.choices if first else run.choices or shown[0].choices
    latencies = run.slot_latencies_ms
    full = longest_latency_ms(latencies, [a.choices for a in shown] or [choices])
    pictures = [
        svg.unet(draw(run.space, run.slots, width), choices, run.colours, latencies, full, class_)
        for width, class_ in ((640, "wide"), (340, "narrow"))
    ]
    words = "Each grey block is a spatial block of the UNet, with its temporal slots below it."
    if run.space is None or run.space.backbone is None:
        words = "This space has no backbone: its slots, in order."
    scale = f" A bar that fills its slot takes {milliseconds(full)}." if full else ""
    panel = tag("div", _totals(run, first), legend(run), class_="panel")
    return tag(
        "div",
        tag("div", svg.tip(), pictures, tag("p", words, scale, class_="caption"), class_="drawing"),
        panel,
        class_="arch",
    )


def legend(run: RunFolder) -> Markup:
    """Every choice of the space with its colour, its name in drawings, and its hyper-parameters."""
    operators = (run.space.operators if run.space else None) or {}
    items = []
    for choice, colour in run.colours.items():
        options = dict(operators[choice].options) if choice in operators else {}
        told = ", ".join(
            v if isinstance(v, str) else f"{v} {k}" if k == "heads" else f"{k} {v}" for k, v in options.items()
        )
        items.append(
            tag(
                "li",
                tag("i", class_="swatch", style=f"background:{colour}"),
                tag("span", choice),
                tag("small", told) if told else "",
            )
        )
    return tag("ul", items, class_="legend")


def _totals(run: RunFolder, first: Shown | None) -> Markup:
    rows = []
    for name, unit in UNITS.items():
        bound = run.record.budget.get(name)
        value = getattr(first, name, None)
        over = "over" if bound is not None and value is not None and value > bound else None
        limit = f"of {unit(bound)}" if bound is not None else ""
        rows.append(
            tag("div", tag("dt", NAMES[name]), tag("dd", tag("b", unit(value), class_=over, data_total=name), " ", tag("small", limit)))
        )  # fmt: skip
    score = figures(first.score, 4) if first and first.score is not None else MISSING
    rows.append(tag("div", tag("dt", "Score"), tag("dd", tag("b", score, data_total="score"))))
    label = first.label if first else "The chosen architecture"
    back = tag("button", "Back to the chosen one", type="button", id="back", hidden=True)
    return tag("div", tag("h3", label, id="drawn", aria_live="polite"), tag("dl", rows, class_="totals"), back)


def front(run: RunFolder, shown: list[Shown]) -> Markup:
    """The Pareto front as three linked projections: each cost against the score."""
    scored = [(i, a) for i, a in enumerate(shown) if a.score is not None]
    if run.front is None or not scored:
        return absent(run, "front")
    chosen = next((i for i, a in scored if a.chosen), None)
    charts = []
    most = max(a.params for _, a in scored)
    scale, letter = (1e-6, "millions") if most >= 1e6 else (1e-3, "thousands")
    for name, words, unit, factor in (
        ("latency_ms", "Latency", "ms", 1.0),
        ("memory_mb", "Peak memory", "MB", 1.0),
        ("params", "Parameters", letter, scale),
    ):
        points = [(i, getattr(a, name), a.score) for i, a in scored]
        charts.append(svg.scatter(points, chosen, run.record.budget.get(name), words, unit, factor))
    number_on_front = sum(a.on_front for a in shown)
    words = (
        f"{plural(number_on_front, 'architecture')} that no other beats in score, latency, memory and parameters at once."
        " Up is better, left is cheaper; the line joins the best score at each cost, the shaded part is beyond the budget."
        " The ringed point is the chosen one. Point at a dot to see its layers, choose it to draw it on the UNet below."
    )
    return tag("div", tag("p", words, class_="caption"), tag("div", charts, class_="charts"))


def candidates(run: RunFolder, shown: list[Shown]) -> Markup:
    """The best of the search, briefly retrained before the choice."""
    rows = []
    by_key = {a.key: i for i, a in enumerate(shown)}
    for rank, candidate in enumerate(run.record.candidates, start=1):
        key = Shown(candidate.choices, 0, 0, 0, None, "").key
        place = by_key.get(key)
        chosen = place is not None and shown[place].chosen
        chips = [
            tag(
                "i",
                class_="chip",
                style=f"background:{run.colours.get(choice, 'transparent')}",
                title=f"{slot}: {choice}",
            )
            for slot in run.slots or candidate.choices
            for choice in [candidate.choices.get(slot, NONE)]
        ]
        rows.append(
            tag(
                "tr",
                tag("th", f"{rank}", scope="row", data_name="Candidate"),
                tag("td", tag("span", chips, class_="chips"), class_="name"),
                tag("td", figures(candidate.score, 4), data_name="score"),
                tag("td", figures(candidate.retrained_loss, 4), data_name="loss retrained"),
                tag("td", milliseconds(candidate.predicted.latency_ms), data_name="latency"),
                tag("td", megabytes(candidate.predicted.memory_mb), data_name="memory"),
                tag("td", count(candidate.predicted.params), data_name="parameters"),
                tag("td", tag("button", "chosen" if chosen else "draw", type="button", data_draw=place), class_="act"),
                class_="chosen" if chosen else None,
            )
        )  # fmt: skip
    if not rows:
        return tag("p", "Not in this run yet: no candidate has been retrained.", class_="absent")
    heads = ("", "Layers in order", "Score", "Loss retrained", "Latency", "Memory", "Parameters", "")
    head = tag(
        "tr", [tag("th", words, scope="col", class_="name" if i == 1 else None) for i, words in enumerate(heads)]
    )
    words = "Rank by the search's score; the score comes from shared weights, so each was briefly trained by itself."
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="figures cards")
    return tag("div", tag("p", words, class_="caption"), table)


def breakdown(run: RunFolder) -> Markup:
    """Latency and memory slot by slot, and what every other choice would have cost there."""
    cost = run.cost
    if cost is None:
        return absent(run, "costs", "table", "architecture", "space")
    frame = cost.breakdown
    weights = float(frame["weights_mb"].sum())
    peak = float(frame["memory_mb"].max())
    added = float(frame["latency_ms"].sum())
    words = (
        f"As predicted from the table. Latency adds up to {milliseconds(cost.latency_ms)}"
        + (
            f" (calibration adds {milliseconds(cost.latency_ms - added)})"
            if abs(cost.latency_ms - added) > 1e-6
            else ""
        )
        + f"; peak memory is all weights ({megabytes(weights)}) plus the largest that is alive at once"
        f" ({megabytes(peak)}). Thin marks are the other choices of the slot."
    )
    full = {"latency_ms": _longest(run, cost), "memory_mb": peak or 1.0}
    if (frame["latency_ms"] > full["latency_ms"]).any():
        words += " A bar that would be longer than the others' scale is cut."
    rows = [_breakdown_row(run, row, full, cost) for row in frame.to_dict("records")]
    heads = ("Slot", "Choice", "Latency", "", "Alive", "", "Weights", "Parameters")
    head = tag(
        "tr", [tag("th", words, scope="col", class_="name" if i == 1 else None) for i, words in enumerate(heads)]
    )
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="figures breakdown")
    return tag("div", tag("p", words, class_="caption"), _stack(run, cost), table)


def _longest(run: RunFolder, cost: Cost) -> float:
    slots = cost.breakdown[cost.breakdown["slot"] != "backbone"]["latency_ms"]
    return float(slots[slots.map(math.isfinite)].max()) * 1.6 or 1.0


def _stack(run: RunFolder, cost: Cost) -> Markup:
    """The whole latency as one bar: the backbone, then every slot in the order they run."""
    total = cost.latency_ms
    parts = []
    for row in cost.breakdown.to_dict("records"):
        if row["latency_ms"] > 0 and math.isfinite(total):
            colour = BACKBONE if row["slot"] == "backbone" else run.colours.get(row["choice"], BACKBONE)
            share = row["latency_ms"] / total
            says = f"{row['slot']} {row['choice']}: {milliseconds(row['latency_ms'])}, {percent(share)}"
            parts.append(tag("i", style=f"flex:{share:.5f};background:{colour}", title=says))
    return tag(
        "div", parts, class_="stack", role="img", aria_label="Latency of the backbone and of each slot, end to end"
    )


def _breakdown_row(run: RunFolder, row: dict, full: dict[str, float], cost: Cost) -> Markup:
    slot, choice = row["slot"], row["choice"]
    colour = BACKBONE if slot == "backbone" else run.colours.get(choice, "transparent")
    marks = []
    if slot != "backbone":
        for other, ms in run.slot_latencies_ms.get(slot, {}).items():
            if other not in (choice, NONE) and ms <= full["latency_ms"]:
                left = ms / full["latency_ms"]
                style = f"left:{left:.2%};background:{run.colours.get(other)}"
                marks.append(tag("i", class_="other", style=style, title=f"{other}: {milliseconds(ms)}"))
    cells = []
    for name, unit in (("latency_ms", milliseconds), ("memory_mb", megabytes)):
        share = min(row[name] / full[name], 1.0) if math.isfinite(row[name]) else 1.0
        bar = tag(
            "i",
            class_="bar" + (" cut" if row[name] > full[name] else ""),
            style=f"width:{share:.2%};background:{colour}",
        )
        words = {"latency_ms": "latency", "memory_mb": "alive"}[name]
        cells.append(tag("td", unit(row[name]) if choice != NONE else MISSING, data_name=words))
        cells.append(
            tag("td", tag("div", bar, marks if name == "latency_ms" else "", class_="bullet"), class_="barcell")
        )
    label = "spatial UNet" if slot == "backbone" else short(choice)
    return tag(
        "tr",
        tag("th", slot, scope="row"),
        tag("td", label, class_="name", data_name="choice"),
        *cells,
        tag("td", megabytes(row["weights_mb"]) if choice != NONE else MISSING, data_name="weights"),
        tag("td", count(row["params"]) if choice != NONE else MISSING, data_name="parameters"),
        class_="none" if choice == NONE else None,
    )


def cautions(run: RunFolder) -> Markup:
    """What must not be overlooked, above everything else."""
    found = facts.warnings(run)
    return tag("ul", [tag("li", words) for words in found], class_="warnings") if found else Markup()
