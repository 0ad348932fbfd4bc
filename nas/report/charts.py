"""The page's charts: figures of `nas.report.plots` as inline SVG that page.css colors and page.js makes interactive."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from markupsafe import Markup

from nas.costs import Budget
from nas.report import palette, plots, unet_plot
from nas.report.formatting import format_number, log_ticks, milliseconds, ticks
from nas.report.plotted import PlottedArchitecture
from nas.report.templating import printable
from nas.report.unet_layout import Drawing
from nas.spaces import NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THEME = {
    palette.INK: "var(--ink)",
    palette.QUIET: "var(--quiet)",
    palette.RULE: "var(--rule)",
    palette.FAINT: "var(--faint)",
    palette.WARN: "var(--warn)",
    palette.MARK: "var(--mark)",
    palette.PAPER: "var(--paper)",
    palette.BLOCK: "var(--block)",
}
"""Variables of page.css, which differ in light and dark, for the colors of the plots."""

Attributes = Mapping[str, Mapping[str, str]]
"""SVG attributes by gid; `title` is a tooltip. An attribute `style` replaces the style of the gid's shapes."""


def front(
    architectures: list[tuple[int, PlottedArchitecture]], against: str, budget: Budget, random_scores: list[float]
) -> Markup:
    """The score against one cost; page.js finds each architecture's point by its `data-point`.

    Args:
        architectures: with their index on the page.
    """
    architectures = sorted(architectures, key=lambda item: item[1].chosen)  # the chosen one is drawn on top
    columns = ("latency_ms", "memory_mb", "params", "score", "score_std")
    frame = pd.DataFrame([[getattr(arch, column) for column in columns] for _, arch in architectures], columns=columns)
    figure, ax = _figure(340, 250, left=50, right=10, top=16, bottom=40)
    plots.plot_front(frame, against, budget, ax=ax, random_scores=random_scores)
    ax.set_ylabel("")
    for collection in ax.collections:
        collection.set_sizes([64])
    for text in ax.texts:
        text.set_fontsize(10)
    figure.text(4 / 340, 1 - 8 / 250, "score", fontsize=10, color=palette.QUIET)
    _set_ticks(ax, 4)
    unit, factor = plots.cost_unit(frame, against)
    bound, attributes = getattr(budget, against), {"random": {"class": "random"}}
    for i, (index, arch) in enumerate(architectures):
        cost = getattr(arch, against)
        attributes[f"deviation-{i}"] = {"class": "deviation"}
        attributes[f"point-{i}"] = {
            "class": "point" + " chosen" * arch.chosen + " over" * (bound is not None and cost > bound),
            "data-point": str(index),
            "tabindex": "0",
            "role": "button",
            "aria-label": f"{plots.COST_NAMES[against]} {format_number(cost * factor)} {unit}, score {format_number(arch.score, 4)}",
            "style": "",
        }
    return _svg(figure, f"score against {plots.COST_NAMES[against].lower()}", "chart front", attributes)


def unet(
    drawing: Drawing,
    choices: Mapping[str, str],
    color_by_choice: Mapping[str, str],
    latencies_ms: Mapping[str, Mapping[str, float]],
    longest_ms: float | None,
    class_: str,
) -> Markup:
    """An architecture on the UNet; page.js finds the parts of a slot by their class and `data-slot`."""
    figure, ax = _figure(drawing.width, drawing.height)
    unet_plot.draw_unet(ax, drawing, choices, color_by_choice, latencies_ms, longest_ms, scaled_bars=False)
    attributes = {}
    for i, (slot, place) in enumerate(drawing.slots.items()):
        choice = choices.get(slot, NONE)
        ms = latencies_ms.get(slot, {}).get(choice) if choice != NONE else None
        title = f"{slot}: {choice}" + (f", {milliseconds(ms)}" if ms is not None else "")
        share = unet_plot.bar_share(choice, ms, longest_ms)
        length = unet_plot.choice_label_length(place, drawing, longest_ms)
        bar_style = f"fill:{color_by_choice.get(choice, 'none')};transform:scaleX({share:.4f})"
        attributes |= {
            f"track-{i}": {"class": "track", "data-slot": slot, "title": title, "style": ""},
            f"bar-{i}": {"class": "bar", "data-slot": slot, "title": title, "style": bar_style},
            f"choice-{i}": {
                "class": "choice" + " empty" * (choice == NONE),
                "data-slot": slot,
                "data-length": str(length),
            },
            f"latency-{i}": {"class": "latency", "data-slot": slot},
        }
    label = "The UNet with the layer in each slot; the length of a bar is the layer's latency"
    return _svg(figure, label, f"unet {class_}", attributes)


def curve(history: pd.DataFrame, column: str, width: float, height: float) -> Markup:
    """One column of a training history over the steps."""
    small = width < 300
    figure, ax = _figure(width, height, left=48, right=8, top=8, bottom=20 if small else 36)
    plots.plot_losses(history, column, ax, colors_by_stage={"": palette.MARK})
    _label_steps(ax, [history], "" if small else "step", 2 if small else 4)
    return _svg(figure, f"{column} over steps", "chart curve")


def curves(histories: Mapping[str, pd.DataFrame], column: str, line_colors: Mapping[str, str]) -> Markup:
    """One column of several histories in one chart, smoothed; each line has its `data-line`."""
    figure, ax = _figure(460, 200, left=48, right=8, top=8, bottom=36)
    plots.plot_losses(histories, column, ax, colors_by_stage=line_colors, raw=False)
    _label_steps(ax, histories.values(), "step", 4)
    attributes = {
        f"line-{i}": {"class": "line", "data-line": name, "style": f"stroke:{line_colors[name]}"}
        for i, name in enumerate(histories)
    }
    return _svg(figure, f"{column} over steps of {', '.join(histories)}", "chart curve", attributes)


def _figure(
    width: float, height: float, left: float = 0, right: float = 0, top: float = 0, bottom: float = 0
) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` pixels with one axes inside margins in pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    ax = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    ax.patch.set_visible(False)
    return figure, ax


def _label_steps(ax: Axes, histories: Iterable[pd.DataFrame], label: str, count: int) -> None:
    steps = np.concatenate([history["step"].to_numpy(float) for history in histories])
    ax.set_xlim(steps.min(), max(steps.max(), steps.min() + 1))
    ax.set(xlabel=label, ylabel="")
    _set_ticks(ax, count, min(count + 1, 4))


def _set_ticks(ax: Axes, x_count: int, y_count: int = 4) -> None:
    """Round tick values, a horizontal grid, and no vertical axis line."""
    from matplotlib.ticker import NullLocator

    y_ticks = log_ticks(*ax.get_ylim()) if ax.get_yscale() == "log" else ticks(*ax.get_ylim(), y_count)
    x_ticks = ticks(*ax.get_xlim(), x_count)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks(x_ticks, [_tick_label(value) for value in x_ticks], fontsize=10)
    left, right = ax.get_xlim()
    for value, label in zip(x_ticks, ax.get_xticklabels()):
        if value > right - 0.05 * (right - left):  # a centered label would be cut off
            label.set_horizontalalignment("right")
    ax.set_yticks(y_ticks, [_tick_label(value) for value in y_ticks], fontsize=10)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.label.set(size=10, color=palette.QUIET)
    ax.spines["left"].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color=palette.FAINT, linewidth=1)


def _tick_label(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0e}" if not 1e-3 <= abs(value) < 1e6 else f"{value:,.10g}"


SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def _svg(figure: Figure, label: str, class_: str, attributes: Attributes | None = None) -> Markup:
    """The figure as an `<svg>` element for the page, with `attributes` on the artists of their gids."""
    import matplotlib

    for text in figure.findobj(matplotlib.text.Text):
        text.set_text(printable(text.get_text()))
    file, options = io.StringIO(), {"svg.fonttype": "none", "svg.hashsalt": "nas"}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("metadata") or child.find(f"{SVG}style") is not None:
                parent.remove(child)
    for element in list(root.iter()):
        if element.tag == f"{SVG}g":
            _apply(element, (attributes or {}).get(element.attrib.pop("id", ""), {}))
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        if HREF in element.attrib:
            element.set("href", element.attrib.pop(HREF))
        if "d" in element.attrib:
            element.set("d", re.sub(r"-?\d+\.\d+", _rounded, " ".join(element.attrib["d"].split())))
        if element.get("style") and "data-own" not in element.attrib:
            element.set("style", _themed(element.get("style")))
        element.attrib.pop("data-own", None)
        element.text, element.tail = (text.strip() or None if text else None for text in (element.text, element.tail))
    width = root.get("viewBox").split()[2]
    root.attrib = {"viewBox": root.get("viewBox"), "class": class_, "role": "img", "aria-label": printable(label)}
    root.set("style", f"max-width:{width}px" + (f";min-width:{width}px" if "narrow" in class_ else ""))
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _apply(group: ElementTree.Element, attributes: Mapping[str, str]) -> None:
    """Set attributes on the group of one artist; a `style` replaces those of its shapes, which then inherit it."""
    if "style" in attributes:
        for element in group.iter():
            element.attrib.pop("style", None)
            element.attrib.pop("clip-path", None)
        group.set("data-own", "")
    for name, value in attributes.items():
        if name == "title":
            title = ElementTree.Element(f"{SVG}title")
            title.text = printable(value)
            group.insert(0, title)
        elif name != "style" or value:
            group.set(name, printable(value))


def _rounded(number: re.Match) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _themed(style: str) -> str:
    """A style with the page's variables for colors, and the size of a font but not its family."""
    for color, variable in THEME.items():
        style = style.replace(color, variable)
    style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)
    return re.sub(r"font-family: [^;]*;?\s*", "", style)
