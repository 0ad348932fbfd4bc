"""Layout of the drawing of a UNet: rectangles and lines, drawn by `nas.report.unet_plot`.

Levels are rows, resolution falls from top to bottom; the encoder runs down on the left, the decoder up on the right::

    [down.0]  - - skip - ->  [up.1]
       |                        ^
    [down.1]  - - skip - ->  [up.0]
       +------> [mid.0] --------+

A site is a gray spatial block with its slots below it, in execution order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas.spaces import SearchSpace

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle with `(x, y)` at its top left, y downwards, and its label."""

    x: float
    y: float
    width: float
    height: float
    label: str = ""
    name: str = ""

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def right(self) -> float:
        return self.x + self.width


@dataclass
class Drawing:
    """Rectangles and lines of one drawing, in pixels.

    Attributes:
        groups: one per level and side, labeled with its channels and resolution.
        blocks: the spatial block of each site.
        slots: the box of each slot; its label is at the top, its bar at the bottom.
        flow, skips: lines of the data flow and of the skip connections, each a sequence of points.
        text_size: of labels, in pixels.
    """

    width: float
    height: float = 0.0
    groups: list[Box] = field(default_factory=list)
    blocks: list[Box] = field(default_factory=list)
    slots: dict[str, Box] = field(default_factory=dict)
    flow: list[tuple[Point, ...]] = field(default_factory=list)
    skips: list[tuple[Point, ...]] = field(default_factory=list)
    text_size: float = 11.0


SLOT_HEIGHT = 31.0
BAR = 9.0
BLOCK_HEIGHT = 21.0
PAD = 7.0
MIN_SLOT_WIDTH = 58.0
"""Enough for an operator's short label."""


def draw(space: SearchSpace | None, slots: Sequence[str], width: float) -> Drawing:
    """The layout of `space`, about `width` pixels wide, or wider if its slots would not fit.

    In a space without a backbone, `slots` are laid out as a grid.
    """
    if space is None or space.backbone is None:
        return _grid(slots, width)
    return _unet(space, width)


def _unet(space: SearchSpace, width: float) -> Drawing:
    backbone, per_level = space.backbone, space.backbone.layers_per_block
    levels = len(backbone.channels)
    columns = 2 * per_level + 1
    row_gap, gap = (22.0, 44.0) if width >= 480 else (18.0, 16.0)
    cell = (width - gap - 4 * PAD - (columns - 2) * PAD) / columns
    cell = max(cell, MIN_SLOT_WIDTH)
    width = columns * cell + gap + 4 * PAD + (columns - 2) * PAD
    unit = " channels," if cell >= 120 else " ch,"
    drawing = Drawing(width, text_size=11.0 if cell >= 90 else 9.5)
    depth = max(len(group) for group in space.slot_groups)
    sites: dict[str, list[str]] = {}
    for layer in backbone.layers():
        if layer.site:
            sites.setdefault(layer.block, []).append(layer.site)
    by_site: dict[str, list[str]] = {}
    for slot in space.slots:
        by_site.setdefault(space.site_name(slot), []).append(slot)

    def group(block: str, x: float, y: float) -> Box:
        """One level of one side: its spatial blocks side by side, the slots of each below it."""
        names = sites[block]
        site = space.sites[names[0]]
        box = Box(
            x,
            y,
            len(names) * cell + (len(names) + 1) * PAD,
            18 + BLOCK_HEIGHT + depth * SLOT_HEIGHT + PAD,
            f"{site.channels}{unit} {site.height}\N{MULTIPLICATION SIGN}{site.width}",
        )
        drawing.groups.append(box)
        for i, name in enumerate(names):
            left = x + PAD + i * (cell + PAD)
            drawing.blocks.append(Box(left, y + 18, cell, BLOCK_HEIGHT, name))
            for j, slot in enumerate(by_site.get(name, [])):
                top = y + 18 + BLOCK_HEIGHT + j * SLOT_HEIGHT
                drawing.slots[slot] = Box(left, top, cell, SLOT_HEIGHT, name=slot)
        return box

    right_side = width - ((per_level + 1) * cell + (per_level + 2) * PAD)
    y, down, up = 0.5, [], []
    for level in range(levels):
        down.append(group(f"down.{level}", 0.5, y))
        up.append(group(f"up.{level}", right_side - 0.5, y))
        y = down[-1].bottom + row_gap
    for upper, lower in itertools.pairwise(down):
        drawing.flow.append(((upper.middle, upper.bottom), (lower.middle, lower.y)))
    for upper, lower in itertools.pairwise(up):
        drawing.flow.append(((lower.middle, lower.y), (upper.middle, upper.bottom)))
    for left, right in zip(down, up):
        line = left.y + 18 + BLOCK_HEIGHT / 2
        drawing.skips.append(((left.right, line), (right.x, line)))
    if backbone.mid:
        box_width = cell + 2 * PAD
        center = min(max((down[-1].middle + up[-1].middle) / 2, down[-1].middle + box_width / 2 + 14), width)
        mid = group("mid", center - box_width / 2, y)
        line = mid.y + 18 + BLOCK_HEIGHT / 2
        drawing.flow.append(((down[-1].middle, down[-1].bottom), (down[-1].middle, line), (mid.x, line)))
        to = max(up[-1].middle, mid.right + 14)
        drawing.flow.append(((mid.right, line), (to, line), (to, up[-1].bottom)))
        y = mid.bottom
    else:
        line = down[-1].bottom - PAD
        drawing.flow.append(((down[-1].right, line), (up[-1].x, line)))
        y = down[-1].bottom
    drawing.height = y + 0.5
    drawing.slots = {slot: drawing.slots[slot] for slot in space.slots}
    return drawing


def _grid(slots: Sequence[str], width: float) -> Drawing:
    columns = max(1, min(len(slots), int(width // 130)))
    cell = (width - (columns - 1) * PAD) / columns
    drawing = Drawing(width)
    for i, slot in enumerate(slots):
        row, column = divmod(i, columns)
        x, y = column * (cell + PAD), row * (BLOCK_HEIGHT + SLOT_HEIGHT + PAD)
        drawing.blocks.append(Box(x, y, cell, BLOCK_HEIGHT, slot))
        drawing.slots[slot] = Box(x, y + BLOCK_HEIGHT, cell, SLOT_HEIGHT, name=slot)
        drawing.height = y + BLOCK_HEIGHT + SLOT_HEIGHT
    return drawing


def longest_latency_ms(latencies_ms: Mapping[str, Mapping[str, float]], architectures: Sequence[Mapping[str, str]]):
    """The latency of the slowest layer in any of `architectures`, which fills a whole bar; None without latencies."""
    latencies = [
        latencies_ms[slot][choice]
        for choices in architectures
        for slot, choice in choices.items()
        if choice in latencies_ms.get(slot, {})
    ]
    return max(latencies, default=None) or None
