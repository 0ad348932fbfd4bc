"""The report's plots in matplotlib, for papers and for the page: each function draws on `ax` and returns it.

    >>> from nas.report import plots
    >>> ax = plots.plot_front(result.front, budget=budget, chosen=result.best)
    >>> ax.figure.savefig("front.pdf")

Without `ax` a new figure is made at a column's width. Colors are those of the report (`nas.spaces.colors`).
matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nas.costs import Budget, Cost, LookupTable
from nas.errors import ConfigError, suggestion
from nas.report.formatting import format_number
from nas.report.palette import FAINT, INK, MARK, PAPER, QUIET, RULE, WARN
from nas.report.sections.table import heat_cells
from nas.report.unet_layout import draw, longest_latency_ms
from nas.report.unet_plot import draw_unet
from nas.runs.record import Candidate
from nas.spaces import NONE, Architecture, SearchSpace, colors, operator_kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COST_NAMES = {"latency_ms": "Latency", "memory_mb": "Peak memory", "params": "Parameters"}


def plot_front(
    front: pd.DataFrame,
    against: str = "latency_ms",
    budget: Budget | None = None,
    chosen: Architecture | Candidate | None = None,
    ax: Axes | None = None,
    random_scores: Sequence[float] = (),
) -> Axes:
    """One cost against the score, the best score at each cost, the budget, and the chosen architecture.

    Args:
        front: columns latency_ms, memory_mb, params, score, and one per slot (`nas.search.run(...).front`). A column
            `score_std` is drawn as error bars. Row i's artist has the gid `point-{i}`, its error bar `deviation-{i}`.
        against: the cost on the axis: `latency_ms`, or `latency_ms@pixel` for one device of several.
        budget: its bound on that cost is drawn as a line.
        chosen: an architecture is marked where the front has it; a candidate of a run (`RunFolder.chosen`), which
            brings its own score and costs, also off the front.
        random_scores: scores of random architectures; their range is drawn as a band.

    Raises:
        ConfigError: no such cost, or a frame without the columns.
    """
    quantity, _, device = against.partition("@")
    if quantity not in COST_NAMES:
        raise ConfigError(f"plot_front: unknown cost '{against}'{suggestion(against, COST_NAMES)}")
    for column in (against, "score"):
        if column not in front.columns:
            raise ConfigError(f"plot_front: the front has no column '{column}'{suggestion(column, front.columns)}")
    ax = _axes(ax, 3.4, 2.6)
    unit, factor = cost_unit(front, against)
    cost, score = front[against].to_numpy(float) * factor, front["score"].to_numpy(float)
    bound = getattr(budget.on(device) if budget and device else budget, quantity, None)
    limits = cost if bound is None else np.append(cost, bound * factor)
    ax.set_xlim(*_limits(limits))
    ax.set_ylim(*_limits(np.append(score, random_scores)))
    if len(random_scores):
        ax.axhspan(
            min(random_scores), max(random_scores), color=QUIET, alpha=0.16, linewidth=2, zorder=0.5, gid="random"
        )
        low, high = ax.get_ylim()
        below = max(random_scores) > high - 0.12 * (high - low)  # above the band, it would cover the budget's label
        ax.annotate("random", (1, max(random_scores)), xycoords=("axes fraction", "data"), xytext=(-3, -3 if below else 3),
                    textcoords="offset points", color=QUIET, fontsize=8, ha="right", va="top" if below else "bottom")  # fmt: skip
    if bound is not None:
        ax.axvspan(bound * factor, ax.get_xlim()[1], color=WARN, alpha=0.07, linewidth=0, zorder=0.5)
        ax.axvline(bound * factor, color=WARN, linestyle=(0, (4, 3)), linewidth=1)
        ax.annotate("budget", (bound * factor, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                    textcoords="offset points", color=WARN, fontsize=8, ha="center")  # fmt: skip
    order = np.argsort(cost, kind="stable")
    ax.step(cost[order], np.maximum.accumulate(score[order]), where="post", color=RULE, linewidth=1.2, zorder=1)
    deviations = front["score_std"].to_numpy(float) if "score_std" in front.columns else np.full(len(front), np.nan)
    for i in np.flatnonzero(np.isfinite(deviations)):
        ends = score[i] - deviations[i], score[i] + deviations[i]
        ax.plot([cost[i]] * 2, ends, color=INK, linewidth=1.2, zorder=2, gid=f"deviation-{i}")
    for i in range(len(front)):
        over = bound is not None and cost[i] > bound * factor
        style = {"facecolors": PAPER, "edgecolors": QUIET} if over else {"color": QUIET, "linewidths": 0}
        ax.scatter(cost[i], score[i], s=22, zorder=3, gid=f"point-{i}", **style)
    if isinstance(chosen, Candidate):
        marked = [getattr(chosen.predicted, quantity) * factor], [chosen.score]
    elif chosen is not None:
        same = np.all([front[s].astype(str) == c for s, c in chosen.choices.items() if s in front.columns], axis=0)
        marked = cost[same], score[same]
    if chosen is not None:
        ax.scatter(*marked, s=90, facecolors="none", edgecolors=MARK, linewidths=1.3, zorder=4, gid="ring")
        ax.scatter(*marked, s=22, color=MARK, zorder=4, gid="chosen")
    ax.set_xlabel(f"{COST_NAMES[quantity]}{f' on {device}' if device else ''} / {unit}")
    ax.set_ylabel("Score")
    return ax


def plot_sweep(frame: pd.DataFrame, over: str = "latency_ms", ax: Axes | None = None) -> Axes:
    """The exact optimum under each bound on one cost, as `nas.search.sweep` returns it.

    A bar above a point reaches to the upper bound of the score where the optimum is not proved.

    Args:
        over: the bounded cost: `latency_ms`, or `latency_ms@pixel` for one device of several.

    Raises:
        ConfigError: no such cost, or a frame without the columns.
    """
    found = frame[frame["score"].notna()].reset_index(drop=True)
    ax = plot_front(found, over, ax=ax)
    _, factor = cost_unit(found, over)
    for row in found[~found["proved"].astype(bool)].to_dict("records"):
        ax.plot([row[over] * factor] * 2, [row["score"], row["upper_bound"]], color=WARN, linewidth=1.2, zorder=2)
    open_rows = int((~frame["proved"].astype(bool)).sum())
    ax.set_title("every point is proved optimal" if not open_rows else f"{open_rows} of {len(frame)} points not proved",
                 fontsize=8, color=WARN if open_rows else QUIET, loc="left")  # fmt: skip
    return ax


def plot_breakdown(
    cost: Cost, quantity: str = "latency_ms", palette: Mapping[str, str] | None = None, ax: Axes | None = None
) -> Axes:
    """The cost of the backbone and of the layer in each slot, as bars.

    Args:
        cost: a result of `CostModel.predict`.
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
        raise ConfigError(f"plot_breakdown: unknown quantity '{quantity}'{suggestion(quantity, names)}")
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
        text = label if choice == NONE else f"{label}  {format_number(value)}"
        ax.annotate(text, (0 if math.isnan(value) else value, i), xytext=(3, 0), textcoords="offset points", va="center",
                    fontsize=6.5, color=QUIET, parse_math=False)  # fmt: skip
    ax.set_yticks(range(len(frame)), frame["slot"], fontsize=7, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.7, len(frame) - 0.3)
    ax.set_xlim(0, np.nanmax(np.append(values, 0)) * 1.3 or 1)
    ax.set_xlabel(names[quantity])
    return ax


def plot_table(space: SearchSpace, table: LookupTable, quantity: str = "latency_ms", ax: Axes | None = None) -> Axes:
    """The lookup table as a heat map of operator against shape, medians in the cells, shaded on a log scale.

    Args:
        space: maps an operator at a site to its workload.
        quantity: `latency_ms` or `memory_mb`.

    Raises:
        ConfigError: no such quantity.
    """
    names = {"latency_ms": "latency / ms", "memory_mb": "activation memory / MB"}
    if quantity not in names:
        raise ConfigError(f"plot_table: unknown quantity '{quantity}'{suggestion(quantity, names)}")
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
    ax.set_xticks(range(len(shapes)), titles, parse_math=False)
    ax.set_yticks(range(len(operators)), [colors.short_label(operator) for operator in operators], parse_math=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"Median {names[quantity]}", fontsize=8, loc="left")
    return ax


def plot_losses(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame],
    column: str = "loss",
    ax: Axes | None = None,
    colors_by_stage: Mapping[str, str] | None = None,
    raw: bool = True,
) -> Axes:
    """A column of one or of several training histories over the steps: as logged, faint, and its running median.

    The axis is logarithmic where the values span more than a factor of 30; it leaves out single outliers.

    Args:
        histories: a frame with `step` and `column`, or such frames by the name of their stage.
        colors_by_stage: colors of the lines, in place of a legend.
        raw: whether to draw the values as logged too.

    Raises:
        ConfigError: a history without these columns.
    """
    named = {"": histories} if isinstance(histories, pd.DataFrame) else histories
    ax = _axes(ax, 3.4, 2.2)
    operator_colors = [spec.color for spec in operator_kinds().values() if spec.color]
    columns = []
    for i, (stage, frame) in enumerate(named.items()):
        for needed in ("step", column):
            if needed not in frame.columns:
                raise ConfigError(
                    f"plot_losses: {stage or 'the history'} has no column '{needed}'{suggestion(needed, frame.columns)}"
                )
        data = frame[["step", column]].dropna()
        color = colors_by_stage[stage] if colors_by_stage else operator_colors[(1, 3, 5, 0, 2, 4)[i % 6]]
        window = max(len(data) // 20, 5)
        smooth = data[column].rolling(window, center=True, min_periods=1).median() if len(data) >= 40 else data[column]
        if len(data) >= 40 and raw:
            ax.plot(data["step"], data[column], color=color, linewidth=0.6, alpha=0.3)
        style = "-" if colors_by_stage else ("-", "--", "-.", ":")[i % 4]
        marker = "o" if len(data) == 1 else None
        ax.plot(
            data["step"],
            smooth,
            color=color,
            linewidth=1.3,
            label=stage,
            linestyle=style,
            marker=marker,
            gid=f"line-{i}",
        )
        columns.append(data[column].to_numpy(float) if raw else smooth.to_numpy(float))
    low, high, is_log = _limits_without_outliers(np.concatenate(columns))
    if is_log:
        ax.set_yscale("log")
    ax.set_ylim(low, high)
    if len(named) > 1 and colors_by_stage is None:
        for text in ax.legend(frameon=False, fontsize=7).get_texts():
            text.set_parse_math(False)
    ax.set_xlabel("Step")
    ax.set_ylabel(column.replace("_", " ").capitalize())
    return ax


def plot_architecture(space: SearchSpace, arch: Architecture, cost: Cost | None = None, ax: Axes | None = None) -> Axes:
    """The layers of `arch` on the UNet, colored by operator; with `cost`, a bar's length is the layer's latency.

    Raises:
        SpaceError: the architecture belongs to another space.
    """
    choices = space.check(arch).choices
    drawing = draw(space, list(space.slots), 640)
    ax = _axes(ax, 6.4, 6.4 * drawing.height / drawing.width)
    latencies = _slot_latencies(cost, choices)
    palette = colors.choice_colors(space, choices.values())
    draw_unet(ax, drawing, choices, palette, latencies, longest_latency_ms(latencies, [choices]))
    return ax


def cost_unit(front: pd.DataFrame, against: str) -> tuple[str, float]:
    """The unit of a cost on an axis, and the factor from the frame's numbers to it."""
    quantity = against.partition("@")[0]
    if quantity != "params":
        return {"latency_ms": "ms", "memory_mb": "MB"}[quantity], 1.0
    return ("millions", 1e-6) if len(front) and front[against].max() >= 1e6 else ("thousands", 1e-3)


def _limits(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    """The range of `values` with a margin at both ends; never empty."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(np.min(values)), float(np.max(values))
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _limits_without_outliers(values: np.ndarray) -> tuple[float, float, bool]:
    """Limits of an axis that shows all but single outliers, and whether the axis should be logarithmic."""
    values = values[np.isfinite(values)]
    is_log = bool(len(values)) and values.min() > 0 and np.quantile(values, 0.99) > 30 * np.quantile(values, 0.01)
    scaled = np.log(values) if is_log else values
    if len(values) >= 20:
        low, high = np.quantile(scaled, [0.005, 0.995])
        room = (high - low) * 0.25
        scaled = np.clip(scaled, low - room, high + room)
    low, high = _limits(scaled)
    return (math.exp(low), math.exp(high), True) if is_log else (low, high, False)


def _shaded(values: np.ndarray) -> np.ndarray:
    """RGB `(rows, columns, 3)` from white to light blue by the logarithm of each value; white for NaN."""
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
    """`ax`, or a new one of `width` x `height` inches, with the report's style."""
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
