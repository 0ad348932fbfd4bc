"""The page's pictures as SVG: the UNet, the Pareto front, training curves. Colors of the theme come from page.css."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.report.formatting import format_number, log_ticks, milliseconds, ticks
from nas.report.markup import Markup, tag
from nas.report.unet_layout import BAR, Box, Drawing
from nas.spaces import NONE
from nas.spaces.colors import short_label


def number(value: float) -> str:
    """A coordinate: two decimals are finer than a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def svg(width: float, height: float, *children: object, label: str, class_: str = "", **attributes: object) -> Markup:
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        style=f"max-width:{number(width)}px",
        class_=class_ or None,
        role="img",
        aria_label=label,
        **attributes,
    )


def text(x: float, y: float, *words: object, **attributes: object) -> Markup:
    return tag("text", *words, x=number(x), y=number(y), **attributes)


def rect(x: float, y: float, width: float, height: float, *children: object, **attributes: object) -> Markup:
    sizes = {"x": number(x), "y": number(y), "width": number(max(width, 0)), "height": number(height)}
    return tag("rect", *children, **sizes, **attributes)


def path(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    d = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return tag("path", d=d, **attributes)


# -- the UNet --------------------------------------------------------------------------------------------------------


def unet(
    drawing: Drawing,
    choices: Mapping[str, str],
    colors: Mapping[str, str],
    latencies_ms: Mapping[str, Mapping[str, float]],
    full_ms: float | None,
    class_: str,
) -> Markup:
    """The UNet with one architecture on it. page.js redraws the slots by their `data-slot`."""
    parts = [path(line, class_="skip") for line in drawing.skips]
    parts += [path(line, class_="flow", marker_end="url(#tip)") for line in drawing.flow]
    for box in drawing.groups:
        parts.append(rect(box.x, box.y, box.width, box.height, class_="group", rx="4"))
        parts.append(text(box.x + 7, box.y + 13, box.label, class_="quiet"))
    for box in drawing.blocks:
        parts.append(rect(box.x, box.y, box.width, box.height, class_="block", rx="2"))
        parts.append(text(box.x + 5, box.y + 14.5, _fit(box.label, box.width - 8, drawing.text_size)))
    for slot, box in drawing.slots.items():
        parts.append(_slot(box, choices.get(slot, NONE), colors, latencies_ms.get(slot, {}), full_ms, drawing))
    size = f"font-size:{number(drawing.text_size)}px;max-width:{number(drawing.width)}px"
    if "narrow" in class_:
        size += f";min-width:{number(drawing.width)}px"
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {number(drawing.width)} {number(drawing.height)}",
        class_=f"unet {class_}",
        style=size,
        role="img",
        aria_label="The UNet with the layer that stands in each slot, its bar as long as its latency",
    )


def _slot(box: Box, choice: str, colors, latencies, full_ms, drawing: Drawing) -> Markup:
    """One slot: the operator's name, its latency, and a bar as long as that latency."""
    ms = latencies.get(choice) if choice != NONE else None
    share = 0.0 if choice == NONE else (1.0 if full_ms is None else min((ms or 0.0) / full_ms, 1.0))
    y = box.y + box.height - BAR - 4
    says = f"{box.name}: {choice}" + (f", {milliseconds(ms)}" if ms is not None else "")
    return tag(
        "g",
        tag("title", says),
        rect(box.x, y, box.width, BAR, class_="track", rx="1.5"),
        rect(box.x, y, max(box.width * share, 2.0 * (choice != NONE)), BAR, class_="fill", rx="1.5",
             style=f"fill:{colors.get(choice, 'none')}"),
        text(box.x, y - 4, _fit(short_label(choice), box.width * (0.66 if full_ms else 1), drawing.text_size), class_="choice"),
        text(box.right, y - 4, format_number(ms) if ms is not None and box.width >= 84 else "", class_="ms", text_anchor="end"),
        data_slot=box.name,
        class_="slot empty" if choice == NONE else "slot",
    )  # fmt: skip


def tip() -> Markup:
    """The arrow head that the UNets share; browsers find it by its id anywhere in the page."""
    head = tag("path", d="M0 0L7 3.5L0 7", class_="tip")
    marker = tag("marker", head, id="tip", markerWidth="8", markerHeight="8", refX="6.5", refY="3.5", orient="auto")
    return tag("svg", tag("defs", marker), width="0", height="0", class_="defs", aria_hidden="true")


def _fit(words: str, width: float, size: float) -> str:
    """`words`, cut to what fits: letters are about 0.6 times as wide as the text is high."""
    room = max(int(width / (0.6 * size)), 2)
    return words if len(words) <= room else words[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"


# -- charts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Data to pixels along one axis, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, about)


def spread(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """The range of `values` with some room at both ends; never empty."""
    low, high = float(np.min(values)), float(np.max(values))
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - room, high + room


def scatter(
    points: Sequence[tuple[int, float, float]],
    chosen: int | None,
    bound: float | None,
    name: str,
    unit: str,
    factor: float = 1.0,
    score_name: str = "score",
    band: tuple[float, float] | None = None,
    deviations: Mapping[int, float] | None = None,
) -> Markup:
    """One cost against the score: a dot per architecture, the budget as a line, the upper hull of what is best.

    Args:
        points: `(id, cost, score)`; the id is the dot's `data-point`.
        chosen: the id of the winner.
        bound: the budget for this cost.
        factor: of the cost's numbers on the axis, such as 1e-6 for millions.
        band: the lowest and the highest score of random architectures, drawn behind the dots.
        deviations: the score's standard deviation by id, drawn as a bar through the dot.
    """
    width, height, left, right, top, bottom = 340.0, 250.0, 50.0, 10.0, 16.0, 40.0
    costs = [cost * factor for _, cost, _ in points] + ([bound * factor] if bound is not None else [])
    x = Scale(*spread(costs), left, width - right)
    y = Scale(*spread([*(score for *_, score in points), *(band or ())]), height - bottom, top)
    parts = _axes(x, y, f"{name} / {unit}" if unit else name, width, height)
    parts.append(text(4, 8, score_name, class_="tick"))
    if band:
        thick = max(y(band[0]) - y(band[1]), 2.0)
        parts.append(rect(left, y(band[1]), width - right - left, thick, class_="random"))
        parts.append(text(width - right - 4, y(band[0]) - 4, "random", class_="tick", text_anchor="end"))
    if bound is not None:
        at = x(bound * factor)
        parts.append(rect(at, top, width - right - at, height - bottom - top, class_="beyond"))
        parts.append(path([(at, top), (at, height - bottom)], class_="bound"))
        parts.append(
            text(at, top - 4, "budget", class_="boundname", text_anchor="middle" if at < width - 30 else "end")
        )
    parts.append(path(_stairs(points, x, y, factor), class_="hull"))
    for i, cost, score in sorted(points, key=lambda point: point[0] == chosen):  # the chosen one on top
        over = bound is not None and cost > bound
        kind = "point" + (" chosen" if i == chosen else "") + (" over" if over else "")
        at_x, at_y = number(x(cost * factor)), number(y(score))
        label = f"{name} {format_number(cost * factor)} {unit}, {score_name} {format_number(score, 4)}"
        dot = tag("circle", cx=at_x, cy=at_y, r="6" if i == chosen else "4.5", class_="dot")
        reach = tag("circle", cx=at_x, cy=at_y, r="11", class_="reach")
        deviation = (deviations or {}).get(i)
        if deviation:
            ends = [(x(cost * factor), min(max(y(score + d), top), height - bottom)) for d in (-deviation, deviation)]
            parts.append(path(ends, class_="noise"))
        parts.append(tag("g", reach, dot, class_=kind, data_point=i, tabindex="0", role="button", aria_label=label))
    return svg(width, height, *parts, label=f"{score_name} against {name}", class_="chart scatter")


def _stairs(points, x: Scale, y: Scale, factor: float) -> list[tuple[float, float]]:
    """The best score at each cost: rises at every point that beats all cheaper ones."""
    line, best = [], -math.inf
    for _, cost, score in sorted(points, key=lambda p: (p[1], -p[2])):
        if score > best:
            if line:
                line.append((x(cost * factor), line[-1][1]))
            line.append((x(cost * factor), y(score)))
            best = score
    return [*line, (x.end, line[-1][1])]


def curve(history: pd.DataFrame, column: str, width: float = 340.0, height: float = 170.0) -> Markup:
    """One column of a training history over its steps: as logged, faint, and smoothed when there are many points."""
    data = history[["step", column]].dropna()
    steps, values = data["step"].to_numpy(float), data[column].to_numpy(float)
    positive = values[values > 0]
    log = len(positive) == len(values) and np.quantile(values, 0.99) > 30 * np.quantile(values, 0.01)
    shown = values if len(values) < 20 else np.clip(values, *_without_outliers(values, log))
    low, high = (shown.min() / 1.1, shown.max() * 1.1) if log else spread(shown)
    small = width < 300
    left, right, top, bottom = 48.0, 8.0, 8.0, 20.0 if small else 36.0
    x = Scale(*(steps.min(), max(steps.max(), steps.min() + 1)), left, width - right)
    y = Scale(low, high, height - bottom, top, log)
    parts = _axes(x, y, "" if small else "step", width, height, few=small)
    line = [(x(s), y(v)) for s, v in zip(*_thinned(steps, np.clip(shown, low, high)))]
    many = len(values) >= 40
    if len(line) == 1:
        parts.append(tag("circle", cx=number(line[0][0]), cy=number(line[0][1]), r="3", class_="line"))
    parts.append(path(line, class_="line raw" if many else "line"))
    if many:
        smooth = pd.Series(values).rolling(max(len(values) // 20, 5), center=True, min_periods=1).median()
        parts.append(
            path([(x(s), y(v)) for s, v in zip(*_thinned(steps, smooth.clip(low, high).to_numpy()))], class_="line")
        )
    return svg(width, height, *parts, label=f"{column} over steps", class_="chart curve")


def curves(
    histories: Mapping[str, tuple[str, pd.DataFrame]], column: str, width: float = 460.0, height: float = 200.0
) -> Markup:
    """One column of several histories in one chart, smoothed: `{name: (color, history)}`."""
    lines = {}
    for name, (color, history) in histories.items():
        data = history[["step", column]].dropna()
        window = max(len(data) // 20, 5)
        smooth = data[column].rolling(window, center=True, min_periods=1).median()
        lines[name] = color, data["step"].to_numpy(float), smooth.to_numpy(float)
    steps, values = (np.concatenate([line[i] for line in lines.values()]) for i in (1, 2))
    low, high = spread(np.clip(values, *_without_outliers(values, False)) if len(values) >= 20 else values)
    left, right, top, bottom = 48.0, 8.0, 8.0, 36.0
    x = Scale(*(steps.min(), max(steps.max(), steps.min() + 1)), left, width - right)
    y = Scale(low, high, height - bottom, top)
    parts = _axes(x, y, "step", width, height)
    for name, (color, at, value) in lines.items():
        points = [(x(s), y(v)) for s, v in zip(*_thinned(at, value.clip(low, high)))]
        parts.append(path(points, class_="line", style=f"stroke:{color}", data_line=name))
    return svg(width, height, *parts, label=f"{column} over steps of {', '.join(lines)}", class_="chart curve")


def _without_outliers(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The range to show: a spike of a few points must not flatten the rest."""
    scaled = np.log(values) if log else values
    low, high = np.quantile(scaled, [0.005, 0.995])
    room = (high - low) * 0.25
    bounds = max(low - room, scaled.min()), min(high + room, scaled.max())
    return tuple(math.exp(b) if log else b for b in bounds)


def _thinned(steps: np.ndarray, values: np.ndarray, most: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """No more points than pixels: the smallest and the largest of each stretch stay, so spikes do."""
    if len(values) <= most:
        return steps, values
    keep = set()
    for part in np.array_split(np.arange(len(values)), most // 2):
        keep |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    index = sorted(keep | {0, len(values) - 1})
    return steps[index], values[index]


def _axes(x: Scale, y: Scale, name: str, width: float, height: float, few: bool = False) -> list[Markup]:
    parts = []
    for value in y.ticks(3 if few else 4):
        parts.append(path([(x.start, y(value)), (x.end, y(value))], class_="grid"))
        parts.append(text(x.start - 6, y(value) + 3.5, _tick(value), class_="tick", text_anchor="end"))
    marks = x.ticks(2 if few else 4)
    for value in marks:
        at = x(value)
        anchor = "end" if at > x.end - 10 else "middle"
        parts.append(path([(at, y.start), (at, y.start + 4)], class_="mark"))
        parts.append(text(at, y.start + 15, _tick(value), class_="tick", text_anchor=anchor))
    parts.append(path([(x.start, y.start), (x.end, y.start)], class_="axis"))
    parts.append(text((x.start + x.end) / 2, height - 5, name, class_="name", text_anchor="middle"))
    return parts


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0e}" if not 1e-3 <= abs(value) < 1e6 else f"{value:,.10g}"
