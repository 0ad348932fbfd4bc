"""The results of the search on the page: the Pareto front, the chosen architecture, and the best candidates."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from nas.costs import Budget
from nas.report import charts, findings
from nas.report.formatting import MISSING, milliseconds, plural, plus_minus
from nas.report.plotted import PlottedArchitecture
from nas.report.sections import absent, absent_text
from nas.report.templating import render
from nas.report.unet_layout import draw, longest_latency_ms
from nas.runs.folder import RunFolder, layer_key
from nas.runs.record import Candidate
from nas.spaces import NONE


@dataclass(frozen=True)
class Total:
    """One quantity of the drawn architecture, as text."""

    name: str
    title: str
    value: str
    limit: str
    over: bool = False


@dataclass(frozen=True)
class CandidateRow:
    """A candidate, its choices by slot, and its index among the architectures that the page can draw."""

    candidate: Candidate
    choices: list[tuple[str, str]]
    index: int
    chosen: bool


def front(run: RunFolder, plotted: list[PlottedArchitecture]) -> Markup:
    """The Pareto front as three linked projections: the score against each cost."""
    scored = [(i, arch) for i, arch in enumerate(plotted) if arch.has_finite_numbers]
    if run.front is None or not scored:
        return absent(run, "front")
    random_scores = findings.finite_scores(run)
    budget = Budget(**{name: run.record.budget.get(name) for name in findings.QUANTITIES})
    images = [charts.front(scored, name, budget, random_scores) for name in findings.QUANTITIES]
    text = (
        f"{plural(sum(arch.on_front for arch in plotted), 'architecture')} that no other one beats in score, latency,"
        " memory and parameters at once. Up is better, left is cheaper; the line joins the best score at each cost, the"
        f" red area is over the budget, the blue point is the chosen architecture. {findings.SCORE}"
    )
    if random_scores:
        text += (
            f" The gray band spans the scores of {plural(len(random_scores), 'random architecture')} within the budget: what"
            " lies above it was gained by searching."
        )
    if any(arch.score_std is not None for _, arch in scored):
        text += " Bars through points are the standard deviation of a score over noise seeds."
    text += " Select a point to draw its layers on the UNet below."
    return render("front", charts=images, text=text)


def architecture(run: RunFolder, plotted: list[PlottedArchitecture]) -> Markup:
    """The chosen architecture on the UNet, in which page.js can draw the others."""
    if not run.choices and not plotted:
        return absent(run, "architecture", "space")
    drawn = next((arch for arch in plotted if arch.chosen), plotted[0] if plotted and not run.choices else None)
    choices = drawn.choices if drawn else run.choices or plotted[0].choices
    latencies = run.slot_latencies_ms
    longest_ms = longest_latency_ms(latencies, [arch.choices for arch in plotted] or [choices])
    drawings = [
        charts.unet(draw(run.space, run.slots, width), choices, run.colors, latencies, longest_ms, class_)
        for width, class_ in ((640, "wide"), (340, "narrow"))
    ]
    caption = "Each gray block is a spatial block of the UNet, with its temporal slots below it."
    if run.space is None or run.space.backbone is None:
        caption = "This space has no backbone: its slots, in order."
    if longest_ms:
        caption += f" A bar that fills its slot takes {milliseconds(longest_ms)}."
    label = drawn.label if drawn else "The chosen architecture"
    return render(
        "architecture",
        drawings=drawings,
        drawing_caption=caption,
        label=label + ("" if run.choices else ", none is chosen yet"),
        totals=[_total(run, drawn, name) for name in findings.QUANTITIES],
        score=plus_minus(drawn.score, drawn.score_std) if drawn else MISSING,
        legend=_legend(run),
        text=" ".join(findings.search_result(run)),
    )


def _total(run: RunFolder, drawn: PlottedArchitecture | None, name: str) -> Total:
    quantity, bound, value = findings.QUANTITIES[name], run.record.budget.get(name), getattr(drawn, name, None)
    limit = f"of {quantity.format(bound)}" if bound is not None else ""
    over = bound is not None and value is not None and value > bound
    return Total(name, quantity.title, quantity.format(value), limit, over)


def _legend(run: RunFolder) -> list[tuple[str, str, str]]:
    """Every choice of the space with its color and its hyperparameters."""
    operators = (run.space.operators if run.space else None) or {}
    legend = []
    for choice, color in run.colors.items():
        options = dict(operators[choice].options) if choice in operators else {}
        texts = [v if isinstance(v, str) else f"{v} {k}" if k == "heads" else f"{k} {v}" for k, v in options.items()]
        legend.append((choice, color, ", ".join(texts)))
    return legend


def candidates(run: RunFolder, plotted: list[PlottedArchitecture]) -> Markup:
    """The best candidates of the search, which were retrained briefly before one was chosen."""
    if not run.record.candidates:
        return absent_text("no candidate has been retrained")
    indices = {arch.key: i for i, arch in enumerate(plotted)}
    rows = []
    for candidate in run.record.candidates:
        index = indices[layer_key(candidate.choices)]
        choices = [(slot, candidate.choices.get(slot, NONE)) for slot in run.slots or candidate.choices]
        rows.append(CandidateRow(candidate, choices, index, plotted[index].chosen))
    text = (
        "Ranked by the search's score (minus the supernet's validation loss). Since the supernet shares weights, each"
        " candidate was then trained briefly with its own weights: the one with the lowest loss after this retraining"
        " within the budget is chosen."
    )
    return render("candidates", rows=rows, colors=run.colors, text=text)
