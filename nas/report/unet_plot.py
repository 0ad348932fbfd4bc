"""Draws an architecture on the UNet in matplotlib, for papers and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.report.formatting import format_number
from nas.report.palette import BLOCK, FAINT, INK, QUIET, RULE
from nas.report.unet_layout import BAR, Box, Drawing
from nas.spaces import NONE, colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMPTY_LABEL = "\N{NO-BREAK SPACE}"
"""matplotlib leaves out empty texts, which a page could then not fill."""
NARROWEST_WITH_LATENCY = 84.0
"""Narrower slots have no room for a latency beside the operator's name, in pixels."""


def draw_unet(
    ax: Axes,
    drawing: Drawing,
    choices: Mapping[str, str],
    palette: Mapping[str, str],
    latencies_ms: Mapping[str, Mapping[str, float]],
    longest_ms: float | None,
    scaled_bars: bool = True,
) -> None:
    """Draw one architecture on `drawing`.

    The artists of the i-th slot have the gids `track-{i}`, `bar-{i}`, `choice-{i}` and `latency-{i}`.

    Args:
        choices: choice by slot.
        palette: color by choice.
        latencies_ms: latency by slot and choice.
        longest_ms: the latency of a bar that fills its track; without it, every bar does.
        scaled_bars: False draws all bars at full length, for a page that scales them.
    """
    from matplotlib.patches import FancyBboxPatch, Rectangle

    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    size = 72 * drawing.text_size * min(box.width / drawing.width, box.height / drawing.height)
    texts = {"fontsize": size, "parse_math": False}
    for points in drawing.skips:
        ax.plot(*zip(*points), color=QUIET, linewidth=0.8, linestyle=":", clip_on=False)
    for points in drawing.flow:
        ax.plot(*zip(*points[:-1]), color=QUIET, linewidth=0.9, clip_on=False)
        arrow = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", points[-1], points[-2], arrowprops=arrow, annotation_clip=False)
    for group in drawing.groups:
        style = "round,pad=0,rounding_size=4"
        patch = FancyBboxPatch((group.x, group.y), group.width, group.height, style, fill=False, edgecolor=RULE)
        ax.add_patch(patch).set_clip_on(False)
        ax.text(group.x + 7, group.y + 13, group.label, color=QUIET, **texts)
    for block in drawing.blocks:
        patch = Rectangle((block.x, block.y), block.width, block.height, color=BLOCK, linewidth=0, clip_on=False)
        ax.add_patch(patch)
        ax.text(
            block.x + 5, block.y + 14.5, fit(block.label, label_length(block.width - 8, drawing)), color=INK, **texts
        )
    for i, (slot, place) in enumerate(drawing.slots.items()):
        choice = choices.get(slot, NONE)
        ms = latencies_ms.get(slot, {}).get(choice) if choice != NONE else None
        length = place.width * (bar_share(choice, ms, longest_ms) if scaled_bars else 1.0)
        y = place.bottom - BAR - 4
        for name, width, color in (("track", place.width, FAINT), ("bar", length, palette.get(choice, FAINT))):
            patch = Rectangle((place.x, y), width, BAR, color=color, linewidth=0, clip_on=False, gid=f"{name}-{i}")
            ax.add_patch(patch)
        label = fit(colors.short_label(choice), choice_label_length(place, drawing, longest_ms))
        ax.text(place.x, y - 4, label, color=QUIET if choice == NONE else INK, gid=f"choice-{i}", **texts)
        if place.width >= NARROWEST_WITH_LATENCY:
            latency = format_number(ms) if ms is not None else EMPTY_LABEL
            ax.text(place.right, y - 4, latency, color=QUIET, ha="right", gid=f"latency-{i}", **texts)
    ax.set(xlim=(0, drawing.width), ylim=(drawing.height, 0), aspect="equal")
    ax.axis("off")


def bar_share(choice: str, latency_ms: float | None, longest_ms: float | None) -> float:
    """Length of a slot's bar as a share of its track; a layer's bar is never too short to be seen."""
    if choice == NONE:
        return 0.0
    return min(max((latency_ms or 0.0) / longest_ms, 0.02), 1.0) if longest_ms else 1.0


def label_length(width: float, drawing: Drawing) -> int:
    """Number of characters that fit into `width` pixels: a character is about 0.6 times as wide as the text is high."""
    return max(int(width / (0.6 * drawing.text_size)), 2)


def choice_label_length(slot: Box, drawing: Drawing, longest_ms: float | None) -> int:
    """Number of characters that fit above a slot's bar, beside its latency if there are latencies."""
    return label_length(slot.width * (0.66 if longest_ms else 1.0), drawing)


def fit(text: str, length: int) -> str:
    """`text`, cut to `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
