"""The page's first sections: the winner, what it costs against the budget, and the front that it was chosen from."""

from __future__ import annotations

import math

from nas.report import findings, svg
from nas.report.formatting import MISSING, count, figures, megabytes, milliseconds, percent, plural, plus_minus
from nas.report.markup import Markup, bar, table, tag
from nas.report.plotted import Shown
from nas.report.unet_layout import draw, longest_latency_ms
from nas.runs.folder import RunFolder, layer_key
from nas.spaces import NONE

UNITS = {"latency_ms": milliseconds, "memory_mb": megabytes, "params": count}
NAMES = {"latency_ms": "Latency", "memory_mb": "Peak memory", "params": "Parameters"}


def absent(run: RunFolder, *parts: str) -> Markup:
    """Why a section is empty."""
    reasons = [run.missing[part] for part in parts if part in run.missing] or ["it is not there yet"]
    return tag("p", "Not in this run yet: ", "; ".join(reasons), ".", class_="absent")


def key_figures(run: RunFolder) -> Markup:
    """Whole model, predicted, and budget, side by side; a bar for the whole model and a line for the budget."""
    predicted, measured = run.record.predicted or run.predicted_cost, run.record.measured
    if predicted is None and measured is None:
        return Markup()
    whole = f"{findings.whole_source(run, 'latency_ms').capitalize()} whole"
    rows = []
    for name, unit in UNITS.items():
        guess, value, bound = getattr(predicted, name, None), getattr(measured, name, None), run.record.budget.get(name)
        best = value if value is not None else guess
        top = max((v for v in (guess, value, bound) if v is not None and math.isfinite(v)), default=0) * 1.08 or 1.0
        over = bound is not None and best > bound
        marks = [_mark("guess", guess, top), _mark("limit", bound, top)]
        rows.append(
            tag(
                "tr",
                tag("th", NAMES[name], scope="row"),
                tag("td", unit(value), data_name=findings.whole_source(run, name)),
                tag("td", unit(guess), data_name="predicted"),
                tag("td", unit(bound), data_name="budget"),
                tag(
                    "td",
                    percent(best / bound) if bound else MISSING,
                    data_name="of budget",
                    class_="over" if over else None,
                ),
                tag("td", bar(best / top, marks, over=over), class_="wide", aria_hidden="true"),
            )
        )
    return table(("", whole, "Predicted", "Budget", "Of budget", ""), rows, "figures keys")


def _mark(class_: str, value: float | None, top: float) -> Markup:
    if value is None or not math.isfinite(value):
        return Markup()
    return tag("i", class_=class_, style=f"left:{value / top:.2%}")


def architecture(run: RunFolder, shown: list[Shown]) -> Markup:
    """The winner on the UNet; page.js puts others in its place."""
    if not run.choices and not shown:
        return absent(run, "architecture", "space")
    first = next((a for a in shown if a.chosen), shown[0] if shown and not run.choices else None)
    choices = first.choices if first else run.choices or shown[0].choices
    latencies = run.slot_latencies_ms
    full = longest_latency_ms(latencies, [a.choices for a in shown] or [choices])
    pictures = [
        svg.unet(draw(run.space, run.slots, width), choices, run.colors, latencies, full, class_)
        for width, class_ in ((640, "wide"), (340, "narrow"))
    ]
    words = "Each gray block is a spatial block of the UNet, with its temporal slots below it."
    if run.space is None or run.space.backbone is None:
        words = "This space has no backbone: its slots, in order."
    scale = f" A bar that fills its slot takes {milliseconds(full)}." if full else ""
    panel = tag("div", _totals(run, first), legend(run), class_="panel")
    drawing = tag("div", svg.tip(), pictures, tag("p", words, scale, class_="caption"), class_="drawing")
    said = " ".join(findings.found(run))
    return tag("div", tag("div", drawing, panel, class_="arch"), tag("p", said, class_="caption") if said else "")


def legend(run: RunFolder) -> Markup:
    """Every choice of the space with its color, its name in drawings, and its hyper-parameters."""
    operators = (run.space.operators if run.space else None) or {}
    items = []
    for choice, color in run.colors.items():
        options = dict(operators[choice].options) if choice in operators else {}
        told = ", ".join(
            v if isinstance(v, str) else f"{v} {k}" if k == "heads" else f"{k} {v}" for k, v in options.items()
        )
        items.append(
            tag(
                "li",
                tag("i", class_="swatch", style=f"background:{color}"),
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
    score = plus_minus(first.score, first.score_std) if first else MISSING
    rows.append(tag("div", tag("dt", "Score"), tag("dd", tag("b", score, data_total="score"))))
    label = first.label if first else "The chosen architecture"
    label += "" if run.choices else ", none is chosen yet"
    back = tag("button", "Back to the chosen one", type="button", id="back", hidden=True)
    return tag("div", tag("h3", label, id="drawn", aria_live="polite"), tag("dl", rows, class_="totals"), back)


def front(run: RunFolder, shown: list[Shown]) -> Markup:
    """The Pareto front as three linked projections: each cost against the score."""
    scored = [(i, a) for i, a in enumerate(shown) if a.can_be_drawn]
    if run.front is None or not scored:
        return absent(run, "front")
    chosen = next((i for i, a in scored if a.chosen), None)
    millions = max(a.params for _, a in scored) >= 1e6
    axes = (
        ("latency_ms", "ms", 1.0),
        ("memory_mb", "MB", 1.0),
        ("params", "millions" if millions else "thousands", 1e-6 if millions else 1e-3),
    )
    random = findings.finite_scores(run)
    band = (min(random), max(random)) if random else None
    deviations = {i: a.score_std for i, a in scored if a.score_std is not None and math.isfinite(a.score_std)}
    charts = []
    for name, unit, factor in axes:
        points = [(i, getattr(a, name), a.score) for i, a in scored]
        bound = run.record.budget.get(name)
        charts.append(svg.scatter(points, chosen, bound, NAMES[name], unit, factor, band=band, deviations=deviations))
    words = (
        f"{plural(sum(a.on_front for a in shown), 'architecture')} that no other beats in score, latency, memory and"
        " parameters at once. Up is better, left is cheaper; the line joins the best score at each cost, the red part"
        f" is over the budget, the ringed point is the chosen one. {findings.SCORE}"
    )
    if band:
        words += (
            f" The gray band holds {plural(len(random), 'random architecture')} within the budget: what lies above it is"
            " what searching gained."
        )
    if deviations:
        words += " Bars through dots are the standard deviation of a score over draws of its noise."
    words += " Select a dot to draw its layers on the UNet below."
    return tag("div", tag("div", charts, class_="charts"), tag("p", words, class_="caption"))


def candidates(run: RunFolder, shown: list[Shown]) -> Markup:
    """The best of the search, briefly retrained before the choice."""
    if not run.record.candidates:
        return tag("p", "Not in this run yet: no candidate has been retrained.", class_="absent")
    places = {a.key: i for i, a in enumerate(shown)}
    rows = []
    for rank, candidate in enumerate(run.record.candidates, start=1):
        place = places[layer_key(candidate.choices)]
        chosen = shown[place].chosen
        rows.append(
            tag(
                "tr",
                tag("th", rank, scope="row", data_name="Candidate"),
                tag("td", _chips(run, candidate.choices), class_="name"),
                tag("td", plus_minus(candidate.score, candidate.score_std), data_name="score"),
                tag("td", figures(candidate.retrained_loss, 4), data_name="loss retrained"),
                tag("td", milliseconds(candidate.predicted.latency_ms), data_name="latency"),
                tag("td", megabytes(candidate.predicted.memory_mb), data_name="memory"),
                tag("td", count(candidate.predicted.params), data_name="parameters"),
                tag("td", tag("button", "chosen" if chosen else "draw", type="button", data_draw=place), class_="act"),
                class_="chosen" if chosen else None,
            )
        )
    heads = ("", "Layers in order", "Score", "Loss retrained", "Latency", "Memory", "Parameters", "")
    words = (
        "Ranked by the search's score (minus the supernet's validation loss). That comes from shared weights, so each"
        " was then trained briefly with weights of its own: the lowest loss after this retraining within the budget"
        " is chosen."
    )
    return tag("div", tag("p", words, class_="caption"), table(heads, rows, "figures cards", words=heads[1:2]))


def _chips(run: RunFolder, choices: dict[str, str]) -> Markup:
    """The architecture as a row of small squares, one per slot, in the colors of its layers."""
    taken = [(slot, choices.get(slot, NONE)) for slot in run.slots or choices]
    chips = [
        tag("i", class_="chip", style=f"background:{run.colors.get(choice, 'transparent')}", title=f"{slot}: {choice}")
        for slot, choice in taken
    ]
    return tag("span", chips, class_="chips")


def cautions(run: RunFolder) -> Markup:
    """What must not be overlooked, above everything else."""
    found = findings.warnings(run)
    return tag("ul", [tag("li", words) for words in found], class_="warnings") if found else Markup()
