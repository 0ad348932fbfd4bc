"""The exact labels of a scene: its objects, where each is in every frame, and how they lie to each other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nas.data.scenes.config import DIRECTIONS, SIZES, SPEEDS, STILL

SPIN = 0.25
"""Turns per second of an object that spins."""
MARGIN = 0.15
"""Two objects have a relation if their centers are this share of the canvas apart, or more, in every frame of both."""
RELATIONS = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "below": (0, -1)}
"""Name to (axis, sign): on the axis (y, x) the second object's center minus the first's has this sign."""


@dataclass(frozen=True)
class Background:
    """What is behind the objects.

    Attributes:
        kind: see `nas.data.scenes.config.BACKGROUNDS`.
        tone: RGB from 0 to 1, nearly gray and dark.
        contrast: of a texture.
        waves: whole numbers of periods on the canvas, (y, x), of a texture's waves.
        phases: of its waves, in periods.
        velocity: (y, x) of a texture, in shares of the canvas per second.
    """

    kind: str = "plain"
    tone: tuple[float, float, float] = (0.1, 0.1, 0.1)
    contrast: float = 0.0
    waves: tuple[tuple[int, int], ...] = ()
    phases: tuple[float, ...] = ()
    velocity: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class SceneObject:
    """One object; in an image its direction is `none`, and it is still.

    Attributes:
        name: its class.
        glyph: number of the digit's handwritten image in its split; 0 for shapes.
        start: center in the first frame, (y, x) in shares of the canvas.
        event: when it appears or vanishes, as a share of the clip.
    """

    name: str
    color: str
    size: str
    direction: str = STILL
    speed: str = STILL
    manner: str = "moves"
    start: tuple[float, float] = (0.5, 0.5)
    glyph: int = 0
    event: float = 0.0

    @property
    def attributes(self) -> dict[str, str]:
        """By their names in `nas.data.scenes.config.ATTRIBUTES`."""
        names = ("color", "size", "direction", "speed", "manner")
        return {"class": self.name} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Scene:
    """Objects, the last in front, over a background; everything that its pixels depend on.

    Attributes:
        frames, fps, height, width: of the clip; an image has one frame.
    """

    objects: tuple[SceneObject, ...]
    background: Background = field(default_factory=Background)
    frames: int = 1
    fps: float = 8.0
    height: int = 64
    width: int = 64

    @property
    def canvas(self) -> np.ndarray:
        """(height, width)."""
        return np.array([self.height, self.width], float)

    def side(self, index: int) -> float:
        """Side of an object in pixels."""
        return SIZES[self.objects[index].size] * min(self.height, self.width)

    @cached_property
    def centers(self) -> np.ndarray:
        """`(objects, frames, 2)`: y and x of each object's center in pixels, from 0 to the canvas's height and width.

        The center is that of the object's ink. On the pixel grid, the middle of the pixel in row i has y = i + 0.5.
        """
        return np.stack([self._centers(i) for i in range(len(self.objects))])

    def _centers(self, index: int) -> np.ndarray:
        thing = self.objects[index]
        seconds = np.arange(self.frames)[:, None] / self.fps
        step = np.array(DIRECTIONS[thing.direction], float) * SPEEDS.get(thing.speed, 0.0) * self.canvas
        moved = np.array(thing.start) * self.canvas + seconds * step
        if thing.manner != "bounces":
            return np.mod(moved, self.canvas)
        border = self.side(index) / 2
        span = self.canvas - 2 * border
        return border + np.abs(np.mod(moved - border + span, 2 * span) - span)

    @cached_property
    def visible(self) -> np.ndarray:
        """`(objects, frames)`: whether an object has appeared and not vanished; another may still hide it."""
        time = np.arange(self.frames) / max(self.frames, 1)
        rows = []
        for thing in self.objects:
            later = time >= thing.event
            rows.append(later if thing.manner == "appears" else ~later if thing.manner == "vanishes" else time >= 0)
        return np.array(rows)

    def angle(self, index: int) -> np.ndarray:
        """`(frames,)`: by how much an object is turned, in radians."""
        turns = SPIN * np.arange(self.frames) / self.fps
        return 2 * np.pi * turns * (self.objects[index].manner == "spins")

    @cached_property
    def relations(self) -> tuple[tuple[int, str, int], ...]:
        """(object, relation, object) that hold in every frame in which both are visible; each pair in one order.

        An object that crosses the border of the canvas is on both sides of it, so it has no relation on that axis.
        """
        found = []
        for first, second in itertools.combinations(range(len(self.objects)), 2):
            both = self.visible[first] & self.visible[second]
            if not both.any():
                continue
            apart = (self.centers[second] - self.centers[first])[both] / self.canvas
            whole = self._inside(first)[both].all(0) & self._inside(second)[both].all(0)
            for name, (axis, sign) in RELATIONS.items():
                if whole[axis] and (sign * apart[:, axis] >= MARGIN).all():
                    found.append((first, name, second))
        return tuple(found)

    def _inside(self, index: int) -> np.ndarray:
        """`(frames, 2)`: whether an object is inside the canvas on the axes y and x."""
        border = self.side(index) / 2
        return (self.centers[index] >= border) & (self.centers[index] <= self.canvas - border)
