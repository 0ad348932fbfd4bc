"""Compares what clips show with the labels of the scenes that their captions describe.

class, color: of objects. object: both are right. count: scenes with as many objects. relation: those of the scene.
direction, speed: of objects that are found; of one that bounces the axis. presence: of objects that appear or vanish,
those that do. scene: scenes in which every object is right, and their number, too: the multi-object accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.data.scenes import Scene, SceneObject
from nas.data.scenes.config import STILL
from nas.data.scenes.labels import RELATIONS
from nas.metrics.detection import Found, find, motion
from nas.metrics.judges import Judges
from nas.metrics.label_free import consistency
from nas.metrics.results import JUDGED

RELATION_FRAMES = 0.8
"""A relation holds in this share of the frames in which both objects are seen, or more."""
ENDS = 0.2
"""What appears is unseen in most of the first share of the frames and seen in most of the last; what vanishes, the other way round."""


@dataclass(frozen=True)
class ClipScore:
    """Of one clip: for each of `JUDGED` how many are right, and of how many; similarity of its objects over the frames."""

    right: dict[str, int]
    total: dict[str, int]
    subject: float


@dataclass(frozen=True)
class _Seen:
    """A found object with its class."""

    found: Found
    name: str


def score(clip: np.ndarray, scene: Scene, judges: Judges) -> ClipScore:
    """Score a clip `(3, T, H, W)` in [-1, 1] against the scene of its caption; its length may differ from the scene's."""
    found = find(clip)
    classified = [judges.classify(one.crops) for one in found]
    seen = [_Seen(one, name) for one, (name, _) in zip(found, classified)]
    matched = _match(scene.objects, seen)
    right, total = dict.fromkeys(JUDGED, 0), dict.fromkeys(JUDGED, 0)

    def note(what: str, is_right: bool) -> None:
        total[what] += 1
        right[what] += bool(is_right)

    for thing, one in zip(scene.objects, matched):
        note("class", one is not None and one.name == thing.name)
        note("color", one is not None and one.found.color == thing.color)
        note("object", _is(one, thing))
        if one is not None and clip.shape[1] > 1:
            _note_motion(thing, one.found, clip.shape[2:], scene.fps, note)
    counted = sum(one.parts for one in found) == len(scene.objects)
    note("count", counted)
    note("scene", counted and all(_is(one, thing) for thing, one in zip(scene.objects, matched)))
    for first, relation, second in scene.relations:
        a, b = matched[first], matched[second]
        note("relation", a is not None and b is not None and _holds(a.found, relation, b.found))
    similar = [consistency(features) for _, features in classified if len(features) > 1]
    return ClipScore(right, total, float(np.mean(similar)) if similar else float("nan"))


def _is(one: _Seen | None, thing: SceneObject) -> bool:
    return one is not None and one.name == thing.name and one.found.color == thing.color


def _note_motion(thing: SceneObject, found: Found, canvas: tuple[int, int], fps: float, note) -> None:
    moved = motion(found, canvas, fps)
    if thing.manner == "bounces":
        axis = int(thing.direction in ("left", "right"))
        note("direction", moved.path[axis] > 2 * moved.path[1 - axis] and moved.speed(axis) != STILL)
        note("speed", moved.speed(axis) == thing.speed)
    else:
        note("direction", moved.direction == thing.direction)
        if thing.speed != STILL:
            note("speed", moved.speed() == thing.speed)
    if thing.manner in ("appears", "vanishes"):
        length = max(1, round(ENDS * len(found.seen)))
        first, last = found.seen[:length].mean() > 0.5, found.seen[-length:].mean() > 0.5
        note("presence", (first, last) == (thing.manner == "vanishes", thing.manner == "appears"))


def _match(things: Sequence[SceneObject], seen: Sequence[_Seen]) -> list[_Seen | None]:
    """For each object of a scene one that was found: as many classes and colors as possible agree."""
    candidates: list[_Seen | None] = [*seen, *[None] * len(things)]

    def agreement(chosen: tuple[_Seen | None, ...]) -> float:
        pairs = [(one, thing) for one, thing in zip(chosen, things) if one is not None]
        return sum(1.01 * (one.found.color == thing.color) + (one.name == thing.name) + 0.1 for one, thing in pairs)

    return list(max(itertools.permutations(candidates, len(things)), key=agreement))


def _holds(a: Found, relation: str, b: Found) -> bool:
    axis, sign = RELATIONS[relation]
    both = a.seen & b.seen
    return bool(both.any()) and (sign * (b.centers - a.centers)[both, axis] > 0).mean() >= RELATION_FRAMES
