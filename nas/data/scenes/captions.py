"""Captions of scenes, in varied or plain wording: every object's color and class, and in clips what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nas.data.digits import WORDS
from nas.data.scenes.config import STILL
from nas.data.scenes.labels import Scene, SceneObject
from nas.data.scenes.sampling import pick

MOVES = ("moves", "slides", "glides", "drifts")
WHERE = {
    "left": ("left", "to the left", "leftward"),
    "right": ("right", "to the right", "rightward"),
    "up": ("up", "upward"),
    "down": ("down", "downward"),
}
RATES = {"slow": ("slowly",), "fast": ("fast", "quickly")}
RESTS = ("stays still", "does not move", "rests")
BOUNCES = {
    "left": "bounces left and right",
    "right": "bounces left and right",
    "up": "bounces up and down",
    "down": "bounces up and down",
}
APPEARS, VANISHES = ("appears", "shows up"), ("vanishes", "disappears")
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
BEHIND = {
    "plain": "on a plain background",
    "stripes": "on a striped background",
    "checkers": "on a checkered background",
    "clouds": "on a cloudy background",
}
NUMBERS = {2: "two", 3: "three"}


def plain_caption(scene: Scene) -> str:
    """The caption of a scene in always the same words: `a red square moves left fast and a blue circle stays still`."""
    names = [f"a {thing.color} {thing.name}" for thing in scene.objects]
    if scene.frames > 1:
        names = [f"{name} {_action(thing, _first)}" for name, thing in zip(names, scene.objects)]
    return " and ".join(names)


def _first(words: Sequence[str]) -> str:
    return words[0]


def caption(scene: Scene, random: np.random.Generator) -> str:
    """One caption of a scene; with another state of `random` in other words.

    At most one relation is named, and only one that holds.
    """
    names = [_name(thing, random) for thing in scene.objects]
    # what is said of the picture as a whole, each in a part of the captions
    behind = f" {BEHIND[scene.background.kind]}" if random.random() < 0.25 else ""
    count = len(scene.objects)
    total = f"{NUMBERS[count]} objects: " if count > 1 and random.random() < 0.2 else ""
    related = pick(random, scene.relations) if scene.relations else None
    if related is not None and random.random() < 0.3 and scene.frames > 1:
        related = None
    order = [int(i) for i in random.permutation(count)]
    if scene.frames == 1:
        return total + _still_picture(names, order, related, random) + behind
    parts = [f"{names[i]} {_action(scene.objects[i], partial(pick, random))}" for i in order]
    text = total + _listed(parts, random)
    if related is not None:
        first, relation, second = related
        where = pick(random, RELATION_WORDS[relation])
        text += f", {_short(scene.objects[first])} {where} {_short(scene.objects[second])}"
    return text + behind


def _still_picture(
    names: Sequence[str], order: Sequence[int], related: tuple[int, str, int] | None, random: np.random.Generator
) -> str:
    if related is None:
        return _listed([names[i] for i in order], random)
    first, relation, second = related
    pair = f"{names[first]} {pick(random, RELATION_WORDS[relation])} {names[second]}"
    return _listed([pair, *(names[i] for i in order if i not in (first, second))], random)


def _name(thing: SceneObject, random: np.random.Generator) -> str:
    """`a small red square`, `a blue digit seven`; the size is said in half of the captions."""
    size = f"{thing.size} " if random.random() < 0.5 else ""
    digit = "digit " if thing.name in WORDS and random.random() < 0.3 else ""
    return f"a {size}{thing.color} {digit}{thing.name}"


def _short(thing: SceneObject) -> str:
    return f"the {thing.color} {thing.name}"


def _action(thing: SceneObject, choose: Callable[[Sequence[str]], str]) -> str:
    """What an object does; `choose` picks one of several wordings."""
    if thing.direction == STILL:
        text = "spins in place" if thing.manner == "spins" else choose(RESTS)
    else:
        rate = choose(RATES[thing.speed])
        if thing.manner == "bounces":
            return f"{BOUNCES[thing.direction]} {rate}"
        text = f"{choose(MOVES)} {choose(WHERE[thing.direction])} {rate}"
        text = f"spins and {text}" if thing.manner == "spins" else text
    if thing.manner == "appears":
        text = f"{choose(APPEARS)} and {text}"
    if thing.manner == "vanishes":
        text = f"{text} and {choose(VANISHES)}"
    return text


def _listed(parts: Sequence[str], random: np.random.Generator) -> str:
    if len(parts) == 1:
        return parts[0]
    last = pick(random, (" and ", " while ")) if " " in parts[-1] and _has_verb(parts[-1]) else " and "
    return ", ".join(parts[:-1]) + last + parts[-1]


def _has_verb(part: str) -> bool:
    verbs = (*MOVES, "stays", "does", "rests", "bounces", "spins", "appears", "shows")
    return any(word in verbs for word in part.split())
