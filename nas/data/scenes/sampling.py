"""Draws random scenes from a config."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from nas.data.digits import WORDS
from nas.data.scenes.config import SIZES, Combination, SceneConfig, consistent
from nas.data.scenes.labels import Background, Scene, SceneObject

T = TypeVar("T")
ATTEMPTS = 1000
"""Draws before a fitting object is taken from the list of all that are allowed."""
PLACES = 100
"""Draws of places before objects may lie on others."""
CLEARANCE = 0.55
"""Least distance of two objects' centers at the start, in shares of the sum of their sides."""
DRIFT = 0.06
"""Speed of a texture, in shares of the canvas per second."""


def draw_scene(
    config: SceneConfig,
    kind: str,
    random: np.random.Generator,
    glyphs: Mapping[str, int],
    frames: int,
    fps: float,
    height: int,
    width: int,
    must: Sequence[Combination] = (),
) -> Scene:
    """A random scene.

    Args:
        kind: `videos` or `images`.
        glyphs: number of handwritten images of each digit.
        must: one object has one of these combinations, held out or not.
    """
    count, colors = pick(random, config.objects), set(config.colors)
    attributes: list[dict[str, str]] = []
    for index in range(count):
        if index == 0 and must:
            found = _with_combination(config, kind, random, must)
        else:
            found = _attributes(config, kind, random, colors)
        colors -= {found["color"]}
        attributes.append(found)
    attributes = [attributes[index] for index in random.permutation(count)]
    sides = np.array([SIZES[found["size"]] for found in attributes]) * min(height, width)
    starts = _places(sides, np.array([height, width], float), random, config.crossing)
    things: list[SceneObject] = []
    for found, (y, x) in zip(attributes, starts):
        glyph = int(random.integers(glyphs[found["class"]])) if found["class"] in WORDS else 0
        event = float(random.uniform(0.3, 0.6))
        thing = SceneObject(found["class"], found["color"], found["size"], start=(y, x), glyph=glyph, event=event)
        if kind == "videos":
            thing = replace(thing, **{k: found[k] for k in ("direction", "speed", "manner")})
        things.append(thing)
    background = _background(config, random)
    return Scene(tuple(things), background, frames if kind == "videos" else 1, fps, height, width)


def _attributes(config: SceneConfig, kind: str, random: np.random.Generator, colors: set[str]) -> dict[str, str]:
    """Of an object in one of the colors, without a combination that is held out."""
    free = tuple(color for color in config.colors if color in colors)
    values = config.values(kind) | {"color": free}
    held_out = getattr(config.held_out, kind)
    for _ in range(ATTEMPTS):
        found = consistent({name: pick(random, choices) for name, choices in values.items()})
        if not any(pattern.holds(found) for pattern in held_out):
            return found
    left = [found for found in config.allowed(kind) if found["color"] in free]
    return pick(random, left)


def _with_combination(
    config: SceneConfig, kind: str, random: np.random.Generator, must: Sequence[Combination]
) -> dict[str, str]:
    """Of an object that has one of the combinations."""
    pattern, values = pick(random, must), config.values(kind)
    given = {name: chosen for name, chosen in pattern.given.items() if name in values}
    return consistent({name: pick(random, choices) for name, choices in (values | given).items()})


def _places(
    sides: np.ndarray, shape: np.ndarray, random: np.random.Generator, crossing: bool
) -> list[tuple[float, float]]:
    """Starts of objects, in shares of the canvas: inside it and, unless `crossing` or there is no room, not on each other."""
    borders = sides[:, None] / 2 / shape
    pairs = list(itertools.combinations(range(len(sides)), 2))
    for _ in range(PLACES):
        starts = random.uniform(borders, 1 - borders)
        apart = (np.linalg.norm((starts[a] - starts[b]) * shape) >= CLEARANCE * (sides[a] + sides[b]) for a, b in pairs)
        if crossing or all(apart):
            break
    return [(float(y), float(x)) for y, x in starts]


def _background(config: SceneConfig, random: np.random.Generator) -> Background:
    kind = pick(random, config.backgrounds)
    tone = random.uniform(0.05, 0.3) + random.uniform(-0.03, 0.03, 3)
    red, green, blue = (float(level) for level in tone.clip(0, 1))
    if kind == "plain":
        return Background(kind, (red, green, blue))
    count = {"stripes": 1, "checkers": 2, "clouds": 5}[kind]
    if kind == "stripes":
        chosen = pick(random, [(0, 1), (1, 0), (1, 1), (1, -1)])
        times = int(random.integers(2, 5))
        waves = ((chosen[0] * times, chosen[1] * times),)
    elif kind == "checkers":
        times = int(random.integers(2, 4))
        waves = ((times, 0), (0, times))
    else:
        waves = tuple((int(random.integers(-3, 4)), int(random.integers(-3, 4))) for _ in range(count))
    angle, speed = random.uniform(0, 2 * np.pi), DRIFT * int(random.integers(2))
    return Background(
        kind,
        (red, green, blue),
        float(random.uniform(0.05, 0.12)),
        waves,
        tuple(float(phase) for phase in random.uniform(0, 1, count)),
        (float(speed * np.sin(angle)), float(speed * np.cos(angle))),
    )


def pick(random: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values; many times as fast as `Generator.choice`."""
    return values[int(random.integers(len(values)))]
