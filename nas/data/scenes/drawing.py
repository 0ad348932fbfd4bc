"""Draws scenes: the pixels of a scene are a function of the scene and of the handwritten digits alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.data.digits import WORDS
from nas.data.scenes.config import COLORS
from nas.data.scenes.labels import Background, Scene

INK = 1.5
"""Handwritten strokes are drawn this much stronger, so that thin ones have their color, too."""


def draw(scene: Scene, glyphs: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels `(3, frames, height, width)`, float32 in [-1, 1].

    Args:
        glyphs: of each object the digit's image `(8, 8)` from 0 to 1; shapes have none that is looked at.
    """
    canvas = _background(scene)
    flat = canvas.reshape(3, -1)
    first = np.arange(scene.frames)[:, None, None] * scene.height * scene.width
    for index, thing in enumerate(scene.objects):
        centers, side = scene.centers[index], scene.side(index)
        turning = thing.manner == "spins"
        reach = int(np.ceil((0.75 if turning else 0.6) * side)) + 1  # 0.75: a square turned by 45 degrees
        near = np.arange(-reach, reach + 1)
        rows, columns = (np.floor(centers[:, axis]).astype(int)[:, None] + near for axis in (0, 1))
        dy = (rows + 0.5 - centers[:, :1]).astype(np.float32)[:, :, None]
        dx = (columns + 0.5 - centers[:, 1:]).astype(np.float32)[:, None, :]
        if turning:
            angle = scene.angle(index).astype(np.float32)[:, None, None]
            dy, dx = np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx
        if thing.name in WORDS:
            alpha = _ink(glyphs[index], dy / side, dx / side)
        else:
            alpha = SHAPE_INK[thing.name](dy, dx, side)
        alpha = (alpha * scene.visible[index][:, None, None]).astype(np.float32)
        place = first + (rows % scene.height * scene.width)[:, :, None] + (columns % scene.width)[:, None, :]
        for channel, level in zip(flat, COLORS[thing.color]):
            behind = channel[place]
            channel[place] = behind + alpha * (np.float32(level) - behind)
    canvas *= 2
    canvas -= 1
    return canvas


def _background(scene: Scene) -> np.ndarray:
    """`(3, T, H, W)`, float32 from 0 to 1."""
    back: Background = scene.background
    tone = np.array(back.tone, np.float32)[:, None, None, None]
    if back.kind == "plain":
        return np.broadcast_to(tone, (3, scene.frames, scene.height, scene.width)).copy()
    drifting = any(back.velocity)
    seconds = np.arange(scene.frames if drifting else 1)[:, None] / scene.fps
    y = (np.arange(scene.height) + 0.5) / scene.height - back.velocity[0] * seconds
    x = (np.arange(scene.width) + 0.5) / scene.width - back.velocity[1] * seconds
    waves = [_wave(m * y + phase, n * x) for (m, n), phase in zip(back.waves, back.phases)]
    # stripes and checkers have soft edges, which a small autoencoder can keep
    texture = np.mean(waves, axis=0) if back.kind == "clouds" else np.clip(3 * np.prod(waves, axis=0), -1, 1)
    levels = (tone + np.float32(back.contrast) * texture).clip(0, 1)
    return levels if drifting else levels.repeat(scene.frames, axis=1)


def _wave(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`sin(2 pi (rows + columns))` `(T, H, W)`, float32, of rows `(T, H)` and columns `(T, W)`, in few sines."""
    a, b = ((2 * np.pi * part).astype(np.float32) for part in (rows, columns))
    sines, cosines = np.sin(a)[..., None], np.cos(a)[..., None]
    return sines * np.cos(b)[:, None] + cosines * np.sin(b)[:, None]


def _ink(glyph: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A digit's image at positions in shares of its side, relative to the center of its ink; bilinear."""
    padded = np.pad(glyph, 1)
    total = glyph.sum()
    middle = [(glyph.sum(1 - axis) * (np.arange(8) + 0.5)).sum() / total for axis in (0, 1)]
    row, column = (np.clip(8 * at + center + 0.5, 0, 9) for at, center in ((y, middle[0]), (x, middle[1])))
    top, left = np.minimum(row.astype(int), 8), np.minimum(column.astype(int), 8)
    down, right = row - top, column - left
    above = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    below = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return np.clip(INK * (above * (1 - down) + below * down), 0, 1)


def _edge(distance: np.ndarray) -> np.ndarray:
    """Ink from the signed distance to the border in pixels, positive inside: one pixel of it is half covered."""
    return np.clip(distance + 0.5, 0, 1)


def _square(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    return _edge(0.44 * side - np.maximum(abs(y), abs(x)))


def _circle(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    return _edge(0.5 * side - np.hypot(y, x))


def _ring(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    return _edge(0.13 * side - abs(np.hypot(y, x) - 0.37 * side))


def _triangle(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    """Its center of mass is at the origin, its tip upward."""
    slope = np.sqrt(3) / 2
    return _edge(np.minimum(0.29 * side - y, 0.29 * side - slope * abs(x) + 0.5 * y))


def _cross(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    long, wide = 0.5 * side, 0.16 * side
    upright = np.minimum(long - abs(y), wide - abs(x))
    return _edge(np.maximum(upright, np.minimum(long - abs(x), wide - abs(y))))


def _star(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    """Five points, the first upward."""
    angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(y, x)
    along, across = radius * np.cos(angle), radius * abs(np.sin(angle))
    outer, inner = 0.55 * side, 0.22 * side
    # of the edge from the inner corner, which is on the axis, to the outer one, at 36 degrees from it
    ey, ex = outer * np.sin(np.pi / 5), outer * np.cos(np.pi / 5) - inner
    return _edge((ex * across - ey * (along - inner)) / np.hypot(ey, ex))


SHAPE_INK = {
    "square": _square,
    "circle": _circle,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "star": _star,
}
