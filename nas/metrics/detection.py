"""Finds the objects of scenes in clips by their pixels: colored ink on a nearly gray background.

No network is involved. Objects of a scene differ in color, so the pixels of one hue are one object; its center of mass in
every frame is its path. Opposite borders of the canvas meet, as they do for objects that leave it and enter it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nas.data.scenes.config import COLORS, SIZES, SPEEDS, STILL

COLORFUL = 0.3
"""Least ink of a pixel that counts, in shares of the color's full strength."""
LEAST_INK = 0.12
"""Least ink of an object in a frame, in shares of a small object's square: thin digits have over 0.25 of it; where two
colors touch, the pixels of a third hue have under 0.08 of it in most frames."""
LEAST_FRAMES = 0.25
"""An object is seen in this share of the frames or more; what shows for a moment, where colors mix, is none."""
LEAST_PART = 0.3
"""A further part of the same color is an object of its own from this share of the largest part's ink on."""
CROP, CROP_SIDE = 32, 4.2
"""Pixels of the side of a crop, and what it covers, in root mean square distances of the ink from its center."""
CROPS = 4
"""Frames of an object that are looked at for its class."""
STILL_SPEED = min(SPEEDS.values()) / 2
"""Slower objects stay where they are."""
FAST_SPEED = math.sqrt(SPEEDS["slow"] * SPEEDS["fast"])
"""From here on an object is fast."""


@dataclass(frozen=True)
class Found:
    """An object that was found in a clip.

    Attributes:
        color: its name.
        mass: `(T,)`, ink in pixels; 0 where it is not seen.
        centers: `(T, 2)`, y and x in pixels; NaN where it is not seen.
        parts: number of separate things of this color, in most frames.
        crops: `(n, CROP, CROP)`, its ink in some frames, from 0 to 1, float32.
        frames: which frames the crops are of.
    """

    color: str
    mass: np.ndarray
    centers: np.ndarray
    parts: int
    crops: np.ndarray
    frames: tuple[int, ...]

    @property
    def seen(self) -> np.ndarray:
        """`(T,)`, whether it is seen in a frame."""
        return self.mass > 0


@dataclass(frozen=True)
class Motion:
    """How an object moves: the way along each axis (y, x) in shares of the canvas per second.

    Attributes:
        net: from its first place to its last one.
        path: the sum of the ways between frames, without their signs.
    """

    net: tuple[float, float]
    path: tuple[float, float]

    @property
    def direction(self) -> str:
        """`left`, `right`, `up`, `down`, or `none` if it stays."""
        axis = int(abs(self.net[1]) > abs(self.net[0]))
        if abs(self.net[axis]) < STILL_SPEED:
            return STILL
        return (("up", "down"), ("left", "right"))[axis][self.net[axis] > 0]

    def speed(self, axis: int | None = None) -> str:
        """`slow`, `fast`, or `none`; of an object that bounces along an axis."""
        size = self.path[axis] if axis is not None else max(abs(self.net[0]), abs(self.net[1]))
        return STILL if size < STILL_SPEED else "fast" if size >= FAST_SPEED else "slow"


def find(clip: np.ndarray, crops: int = CROPS) -> list[Found]:
    """The objects of a clip `(3, T, H, W)` in [-1, 1], those with the most ink first.

    Args:
        crops: frames of each object that are cropped.
    """
    ink = color_ink(clip)
    height, width = clip.shape[2:]
    least = LEAST_INK * (SIZES["small"] * min(height, width)) ** 2
    found = []
    for color, amount in ink.items():
        mass = amount.sum((1, 2))
        mass = np.where(mass >= least, mass, 0)
        if (mass > 0).mean() < LEAST_FRAMES:
            continue
        centers = _centers(amount)
        centers[mass == 0] = np.nan
        seen = np.flatnonzero(mass)
        parts = int(np.median([_parts(amount[t]) for t in seen[:: max(1, len(seen) // 8)]]))
        chosen = _clearest(mass, crops)
        cropped = np.stack([crop(amount[t], centers[t]) for t in chosen])
        found.append(Found(color, mass, centers, parts, cropped, chosen))
    return sorted(found, key=lambda one: -np.median(one.mass[one.seen]))


def color_ink(clip: np.ndarray) -> dict[str, np.ndarray]:
    """For each color `(T, H, W)`: how much of each pixel is its ink, from 0 to 1.

    On gray, ink of a color makes a pixel colorful in proportion; the hue says of which color it is.
    """
    pixels = (np.asarray(clip, np.float32).clip(-1, 1) + 1) / 2
    chroma, hue = pixels.max(0) - pixels.min(0), _hue(pixels)
    names = sorted(COLORS, key=_color_hue)
    own = np.array([_color_hue(name) for name in names])
    borders = (own + np.append(own[1:], own[0] + 6)) / 2  # halfway to the next hue
    nearest = np.searchsorted(borders, hue) % len(names)
    result = {}
    for number, name in enumerate(names):
        full = max(COLORS[name]) - min(COLORS[name])
        strength = np.where(nearest == number, chroma / full, 0)
        result[name] = np.where(strength >= COLORFUL, np.minimum(strength, 1), 0).astype(np.float32)
    return result


def background(clip: np.ndarray) -> np.ndarray:
    """`(T, H, W)`: whether a pixel of a clip is background, no ink in it or beside it."""
    ink = np.sum(list(color_ink(clip).values()), axis=0) > 0
    return ~ndimage.binary_dilation(ink, np.ones((1, 3, 3), bool))


def motion(found: Found, canvas: tuple[int, int], fps: float) -> Motion:
    """How an object that was found moves."""
    seen = np.flatnonzero(found.seen)
    size = np.array(canvas, float)
    steps = np.diff(found.centers[seen], axis=0)
    steps = (steps + size / 2) % size - size / 2
    seconds = max((seen[-1] - seen[0]) / fps, 1e-9) if len(seen) > 1 else math.inf
    net, path = steps.sum(0) / size / seconds, abs(steps).sum(0) / size / seconds
    return Motion((float(net[0]), float(net[1])), (float(path[0]), float(path[1])))


def crop(ink: np.ndarray, center: np.ndarray) -> np.ndarray:
    """The part `(CROP, CROP)` of ink `(H, W)` around a center, objects of any size equally large.

    What is over a border is taken from the other side.
    """
    height, width = ink.shape
    down, across = (
        np.mod(np.arange(length) + 0.5 - middle + length / 2, length) - length / 2
        for length, middle in zip(ink.shape, center)
    )
    side = CROP_SIDE * np.sqrt((ink * (down[:, None] ** 2 + across**2)).sum() / ink.sum())
    offsets = (np.arange(CROP) + 0.5) / CROP * side - side / 2
    rows, columns = (np.mod(center[axis] + offsets - 0.5, length) for axis, length in ((0, height), (1, width)))
    rows, columns = np.broadcast_arrays(rows[:, None], columns[None])
    return ndimage.map_coordinates(ink, [rows, columns], order=1, mode="grid-wrap").astype(np.float32)


def _hue(pixels: np.ndarray) -> np.ndarray:
    """The hue of pixels `(3, ...)` from 0 to 6: 0 is red, 2 green, 4 blue."""
    red, green, blue = pixels
    brightest = pixels.max(0)
    chroma = np.maximum(brightest - pixels.min(0), 1e-6)
    of_red = np.mod((green - blue) / chroma, 6)
    of_green, of_blue = (blue - red) / chroma + 2, (red - green) / chroma + 4
    return np.where(red >= brightest, of_red, np.where(green >= brightest, of_green, of_blue))


def _color_hue(name: str) -> float:
    return float(_hue(np.array(COLORS[name])))


def _centers(ink: np.ndarray) -> np.ndarray:
    """Centers of mass `(T, 2)` on a canvas whose opposite borders meet."""
    found = np.empty((len(ink), 2))
    for axis in (0, 1):
        length = ink.shape[1 + axis]
        waves = np.exp(2j * np.pi * (np.arange(length) + 0.5) / length)
        profile = ink.sum(2 - axis)
        found[:, axis] = np.mod(np.angle(profile @ waves) / (2 * np.pi), 1) * length
    return found


def _parts(ink: np.ndarray) -> int:
    """Number of separate things in a frame's ink `(H, W)`: connected pixels, gaps of up to two pixels closed."""
    mask = ink > 0
    grown = ndimage.binary_dilation(np.pad(mask, 2, mode="wrap"), np.ones((3, 3), bool))[1:-1, 1:-1]
    labels, count = ndimage.label(grown, np.ones((3, 3), int))
    if count < 2:
        return count
    names = np.arange(count + 1)
    height, width = mask.shape
    for once, again in ((labels[:2], labels[height : height + 2]), (labels[:, :2], labels[:, width : width + 2])):
        for a, b in {(int(a), int(b)) for a, b in zip(once.ravel(), again.ravel()) if a and b}:
            names[names == names[a]] = names[b]  # the same pixels, seen over the border
    masses = ndimage.sum_labels(ink, names[labels[1:-1, 1:-1]], np.unique(names[1:]))
    return int((masses >= LEAST_PART * masses.max()).sum())


def _clearest(mass: np.ndarray, count: int) -> tuple[int, ...]:
    """Frames, spread over the clip, in which an object is not half hidden."""
    seen = np.flatnonzero(mass)
    whole = seen[mass[seen] >= 0.8 * np.quantile(mass[seen], 0.8)]
    places = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    return tuple(int(t) for t in whole[places])
