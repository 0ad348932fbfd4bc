"""The report's figures in matplotlib, as they are for a paper: each function draws on `ax` and returns it.

    >>> from nas.report import plots
    >>> ax = plots.plot_front(result.front, budget=budget, chosen=result.best)
    >>> ax.figure.savefig("front.pdf")

Without `ax` a new figure is made at a column's width. Colors are those of the report (`nas.spaces.colors`).
matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nas.costs import Budget, Cost, LookupTable
from nas.errors import ConfigError, suggestion
from nas.report.formatting import format_number
from nas.report.sections.table import heat_cells
from nas.report.unet_layout import BAR, draw, longest_latency_ms
from nas.runs.record import Candidate
from nas.spaces import NONE, Architecture, SearchSpace, colors, operator_kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, QUIET, RULE, FAINT, WARN, MARK = "#1d2127", "#656c76", "#c9ced4", "#eef0f2", "#a4330f", "#1257c4"
COST_NAMES = {"latency_ms": "Latency / ms", "memory_mb": "Peak memory / MB", "params": "Parameters / millions"}


def plot_front(
    front: pd.DataFrame,
    against: str = "latency_ms",
    budget: Budget | None = None,
    chosen: Architecture | Candidate | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One cost against the score, the best score at each cost, the budget, and the chosen architecture.

    Args:
        front: columns latency_ms, memory_mb, params, score, and one per slot (`nas.search.run(...).front`).
        against: the cost on the axis.
        budget: its bound on that cost is drawn as a line.
        chosen: an architecture is marked where the front has it; a candidate of a run (`RunFolder.chosen`), which
            brings its own score and costs, also off the front.

    Raises:
        ConfigError: no such cost, or a frame without the columns.
    """
    if against not in COST_NAMES:
        raise ConfigError(f"plot_front: nothing called '{against}'{suggestion(against, COST_NAMES)}")
    for column in (against, "score"):
        if column not in front.columns:
            raise ConfigError(f"plot_front: the front has no column '{column}'{suggestion(column, front.columns)}")
    ax = _axes(ax, 3.4, 2.6)
    factor = 1e-6 if against == "params" else 1.0
    cost, score = front[against].to_numpy(float) * factor, front["score"].to_numpy(float)
    bound = getattr(budget, against, None)
    over = cost > bound * factor if bound is not None else np.zeros(len(cost), dtype=bool)
    order = np.argsort(cost, kind="stable")
    ax.step(cost[order], np.maximum.accumulate(score[order]), where="post", color=RULE, linewidth=1, zorder=1)
    ax.scatter(cost[~over], score[~over], s=18, color=QUIET, zorder=2, linewidths=0)
    ax.scatter(cost[over], score[over], s=18, facecolors="white", edgecolors=QUIET, zorder=2)
    if bound is not None:
        ax.axvline(bound * factor, color=WARN, linestyle=(0, (4, 3)), linewidth=1)
        ax.annotate("budget", (bound * factor, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                    textcoords="offset points", color=WARN, fontsize=7, ha="center")  # fmt: skip
    if isinstance(chosen, Candidate):
        marked = [getattr(chosen.predicted, against) * factor], [chosen.score]
    elif chosen is not None:
        same = np.all([front[s].astype(str) == c for s, c in chosen.choices.items() if s in front.columns], axis=0)
        marked = cost[same], score[same]
    if chosen is not None:
        ax.scatter(*marked, s=70, facecolors="none", edgecolors=MARK, linewidths=1.3, zorder=3)
        ax.scatter(*marked, s=22, color=MARK, zorder=3)
    ax.set_xlabel(COST_NAMES[against])
    ax.set_ylabel("Score")
    return ax


def plot_breakdown(
    cost: Cost, quantity: str = "latency_ms", palette: Mapping[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    """What the backbone and the layer in every slot cost, as bars.

    Args:
        cost: what `CostModel.predict` gave.
        quantity: `latency_ms`, `memory_mb`, `weights_mb` or `params`.
        palette: color by choice (`colors.choice_colors(space)`), for choices that are not named after their operator.

    Raises:
        ConfigError: no such quantity.
    """
    names = {
        "latency_ms": "Latency / ms",
        "memory_mb": "Alive at once / MB",
        "weights_mb": "Weights / MB",
        "params": "Parameters",
    }
    if quantity not in names:
        raise ConfigError(f"plot_breakdown: nothing called '{quantity}'{suggestion(quantity, names)}")
    frame = cost.breakdown.iloc[::-1]
    palette = palette or colors.choice_colors(None, [c for c in frame["choice"] if c])
    ax = _axes(ax, 3.4, 0.5 + 0.19 * len(frame))
    values = frame[quantity].replace([np.inf], np.nan).to_numpy(float)
    filled = [
        "#8b9097" if slot == "backbone" else palette.get(choice, FAINT)
        for slot, choice in zip(frame["slot"], frame["choice"])
    ]
    ax.barh(range(len(frame)), values, color=filled, height=0.66)
    for i, (value, choice) in enumerate(zip(values, frame["choice"])):
        label = colors.short_label(choice) if choice else "spatial UNet"
        says = label if choice == NONE else f"{label}  {format_number(value)}"
        ax.annotate(says, (0 if math.isnan(value) else value, i), xytext=(3, 0), textcoords="offset points", va="center",
                    fontsize=6.5, color=QUIET)  # fmt: skip
    ax.set_yticks(range(len(frame)), frame["slot"], fontsize=7)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.7, len(frame) - 0.3)
    ax.set_xlim(0, np.nanmax(np.append(values, 0)) * 1.3 or 1)
    ax.set_xlabel(names[quantity])
    return ax


def plot_table(space: SearchSpace, table: LookupTable, quantity: str = "latency_ms", ax: Axes | None = None) -> Axes:
    """The lookup table as a heat map of operator against shape, medians in the cells, shaded on a log scale.

    Args:
        space: says which workload an operator at a site is.
        quantity: `latency_ms` or `memory_mb`.

    Raises:
        ConfigError: no such quantity.
    """
    names = {"latency_ms": "latency / ms", "memory_mb": "activation memory / MB"}
    if quantity not in names:
        raise ConfigError(f"plot_table: nothing called '{quantity}'{suggestion(quantity, names)}")
    cells, shapes, operators = heat_cells(space)
    rows = table.rows()
    values = np.full((len(operators), len(shapes)), np.nan)
    marks = np.full(values.shape, "", dtype=object)
    for (operator, shape), key in cells.items():
        at = operators.index(operator), shapes.index(shape)
        row = rows.get(key)
        if row is None:
            marks[at] = "\N{EN DASH}"
        elif row.status != "ok":
            marks[at] = "cannot\nrun"
        else:
            values[at], marks[at] = getattr(row, quantity), format_number(getattr(row, quantity))
            marks[at] += f"\n({row.source})" if row.source != "measured" else ""
    ax = _axes(ax, 1.1 + 0.75 * len(shapes), 0.6 + 0.32 * len(operators))
    ax.imshow(_shaded(values), aspect="auto")
    for (i, j), mark in np.ndenumerate(marks):
        ax.text(j, i, mark, ha="center", va="center", fontsize=7, color=WARN if mark.startswith("cannot") else INK)
    titles = [
        s[0] if len(s) == 1 else f"{s[1]}\N{MULTIPLICATION SIGN}{s[3]}\N{MULTIPLICATION SIGN}{s[4]}" for s in shapes
    ]
    ax.set_xticks(range(len(shapes)), titles)
    ax.set_yticks(range(len(operators)), [colors.short_label(operator) for operator in operators])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"Median {names[quantity]}", fontsize=8, loc="left")
    return ax


def plot_losses(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame], column: str = "loss", ax: Axes | None = None
) -> Axes:
    """A column of one or of several training histories over the steps: as logged, faint, and its running median.

    Args:
        histories: a frame with `step` and `column`, or such frames by the name of their stage.

    Raises:
        ConfigError: a history without these columns.
    """
    named = {"": histories} if isinstance(histories, pd.DataFrame) else histories
    ax = _axes(ax, 3.4, 2.2)
    for i, (stage, frame) in enumerate(named.items()):
        for needed in ("step", column):
            if needed not in frame.columns:
                raise ConfigError(
                    f"plot_losses: {stage or 'the history'} has no column '{needed}'{suggestion(needed, frame.columns)}"
                )
        data = frame[["step", column]].dropna()
        color = [spec.color for spec in operator_kinds().values() if spec.color][(1, 3, 5, 0, 2, 4)[i % 6]]
        window = max(len(data) // 20, 5)
        smooth = data[column].rolling(window, center=True, min_periods=1).median() if len(data) >= 40 else data[column]
        if len(data) >= 40:
            ax.plot(data["step"], data[column], color=color, linewidth=0.6, alpha=0.3)
        ax.plot(data["step"], smooth, color=color, linewidth=1.3, label=stage, linestyle=("-", "--", "-.", ":")[i % 4])
    if len(named) > 1:
        ax.legend(frameon=False, fontsize=7)
    ax.set_xlabel("Step")
    ax.set_ylabel(column.replace("_", " ").capitalize())
    return ax


def plot_architecture(space: SearchSpace, arch: Architecture, cost: Cost | None = None, ax: Axes | None = None) -> Axes:
    """The layers of `arch` on the UNet, colored by operator; with `cost`, each bar is as long as its latency.

    Raises:
        SpaceError: the architecture belongs to another space.
    """
    from matplotlib.patches import FancyBboxPatch, Rectangle

    choices = space.check(arch).choices
    drawing = draw(space, list(space.slots), 640)
    ax = _axes(ax, 6.4, 6.4 * drawing.height / drawing.width)
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    size = 72 * drawing.text_size * min(box.width / drawing.width, box.height / drawing.height)
    latencies = _slot_latencies(cost, choices)
    full = longest_latency_ms(latencies, [choices])
    palette = colors.choice_colors(space, choices.values())
    for points in drawing.skips:
        ax.plot(*zip(*points), color=QUIET, linewidth=0.8, linestyle=":")
    for points in drawing.flow:
        ax.plot(*zip(*points[:-1]), color=QUIET, linewidth=0.9)
        ax.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={"arrowstyle": "-|>", "color": QUIET, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
        )
    for group in drawing.groups:
        style = "round,pad=0,rounding_size=4"
        ax.add_patch(FancyBboxPatch((group.x, group.y), group.width, group.height, style, fill=False, edgecolor=RULE))
        ax.text(group.x + 7, group.y + 13, group.label, fontsize=size, color=QUIET)
    for block in drawing.blocks:
        ax.add_patch(Rectangle((block.x, block.y), block.width, block.height, color="#e4e7ea", linewidth=0))
        ax.text(block.x + 5, block.y + 14.5, block.label, fontsize=size, color=INK)
    for slot, place in drawing.slots.items():
        choice = choices[slot]
        ms = latencies.get(slot, {}).get(choice)
        share = 0.0 if choice == NONE else (ms or 0.0) / full if full else 1.0
        y = place.bottom - BAR - 4
        ax.add_patch(Rectangle((place.x, y), place.width, BAR, color=FAINT, linewidth=0))
        ax.add_patch(Rectangle((place.x, y), place.width * share, BAR, color=palette.get(choice, FAINT), linewidth=0))
        ax.text(place.x, y - 4, colors.short_label(choice), fontsize=size, color=QUIET if choice == NONE else INK)
        if ms is not None:
            ax.text(place.right, y - 4, f"{format_number(ms)} ms", fontsize=size, color=QUIET, ha="right")
    ax.set(xlim=(-1, drawing.width + 1), ylim=(drawing.height + 1, -1), aspect="equal")
    ax.axis("off")
    return ax


def _shaded(values: np.ndarray) -> np.ndarray:
    """RGB `(rows, columns, 3)`: white to blue by the logarithm of each value, never too dark for text; white for NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(values)
    logs[~np.isfinite(logs)] = np.nan
    known = logs[~np.isnan(logs)]
    span = np.ptp(known) if len(known) else 0.0
    share = (logs - known.min()) / span if span > 0 else np.zeros_like(logs)
    strength = np.nan_to_num(0.05 + 0.42 * share)
    blue = np.array([int(MARK[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return 1 - (1 - blue) * strength[..., None]


def _slot_latencies(cost: Cost | None, choices: Mapping[str, str]) -> dict[str, dict[str, float]]:
    if cost is None:
        return {}
    rows = cost.breakdown[cost.breakdown["slot"] != "backbone"]
    return {
        slot: {choice: ms}
        for slot, choice, ms in zip(rows["slot"], rows["choice"], rows["latency_ms"])
        if choice != NONE and math.isfinite(ms) and choices.get(slot) == choice
    }


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or a new one of `width` x `height` inches; made ready for print."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(width, height), layout="constrained", dpi=200)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=RULE, linewidth=0.8)
    ax.tick_params(labelsize=7, color=RULE, labelcolor=QUIET)
    ax.xaxis.label.set(size=8, color=INK)
    ax.yaxis.label.set(size=8, color=INK)
    return ax
