"""What scenes may show, and the config that chooses from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Annotated, Literal

from nas.config import AtLeast0, AtLeast1, keyed
from nas.data.digits import WORDS
from nas.errors import ConfigError, suggestion
from nas.ranges import Range, check_range

SHAPES = ("square", "circle", "triangle", "cross", "ring", "star")
CLASSES = (*WORDS, *SHAPES)
GROUPS = {"digits": WORDS, "shapes": SHAPES}
"""Names that stand for several classes in a config."""
COLORS = {
    "red": (0.95, 0.1, 0.1),
    "yellow": (0.95, 0.85, 0.1),
    "green": (0.1, 0.8, 0.2),
    "cyan": (0.1, 0.85, 0.95),
    "blue": (0.2, 0.3, 1.0),
    "magenta": (0.95, 0.15, 0.85),
}
"""RGB from 0 to 1. Hues are far apart and backgrounds are nearly gray, so that every pixel tells its object's color."""
SIZES = {"small": 0.25, "large": 0.4}
"""Side of an object in shares of the canvas's shorter side."""
STILL = "none"
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), STILL: (0, 0)}
"""Name to (dy, dx)."""
SPEEDS = {"slow": 0.125, "fast": 0.375}
"""Shares of the canvas's side per second."""
MANNERS = ("moves", "bounces", "spins", "appears", "vanishes")
BACKGROUNDS = ("plain", "stripes", "checkers", "clouds")
ROUND = ("circle", "ring")
"""Shapes that look the same however they are turned."""
ATTRIBUTES = {
    "class": CLASSES,
    "color": tuple(COLORS),
    "size": tuple(SIZES),
    "direction": tuple(DIRECTIONS),
    "speed": (*SPEEDS, STILL),
    "manner": MANNERS,
}
"""The values of each attribute of an object."""
MAX_OBJECTS = 3


@dataclass(frozen=True)
class Combination:
    """A combination of attributes, such as class square, color red: an object has it if each given attribute agrees.

    Each attribute is one value, or several of which one must agree; () means any. An object of an image has none of
    direction, speed and manner, and so no combination that names one of them.
    """

    name: str | tuple[str, ...] = keyed("class", default=())
    color: str | tuple[str, ...] = ()
    size: str | tuple[str, ...] = ()
    direction: str | tuple[str, ...] = ()
    speed: str | tuple[str, ...] = ()
    manner: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for attribute, values in self.given.items():
            check_names(attribute, values, ATTRIBUTES[attribute])
        if not self.given:
            raise ConfigError("a combination needs at least one attribute, such as {class: square, color: red}")

    @cached_property
    def given(self) -> dict[str, tuple[str, ...]]:
        """The attributes that are given, by their names in files, groups of classes spelled out."""
        values = {attribute: _several(getattr(self, _field(attribute))) for attribute in ATTRIBUTES}
        return {attribute: _expanded(names) for attribute, names in values.items() if names}

    def holds(self, attributes: dict[str, str]) -> bool:
        """Whether an object with these attributes has the combination."""
        return all(attributes.get(attribute) in values for attribute, values in self.given.items())


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no object has in clips, and in images."""

    videos: tuple[Combination, ...] = ()
    images: tuple[Combination, ...] = ()


@dataclass(frozen=True)
class SceneConfig:
    """Which scenes to generate. Values of a list are equally likely; one that is listed twice is twice as likely.

    Attributes:
        objects: numbers of objects in a scene, from 1 to 3. Objects of one scene differ in color.
        classes: of objects; `digits` and `shapes` stand for all of these.
        directions: `none` for objects that stay where they are.
        manners: `moves` leaves the canvas and enters it on the other side, so that a clip of any length moves as its
            caption says; `bounces` turns round at its borders; `spins` turns about itself (digits and round shapes move
            instead); `appears` and `vanishes` are seen in a part of the clip.
        backgrounds: `plain`, or textures that drift.
        crossing: whether objects may start where others are.
        held_out: combinations that clips or images do not show.
        wordings: captions of each clip and image, in different words; each epoch of training uses one of them.
        phrasing: `varied`, or `plain` for captions that always use the same words and name only class, color and motion, which
            a small model learns to follow in fewer steps.
        videos, images: number of each in the training split; the test split has a fifth.
        seed: with the split, the kind and the index, it determines an item.
    """

    objects: tuple[Annotated[int, Range(1, MAX_OBJECTS)], ...] = (1, 2)
    classes: tuple[str, ...] = ("digits", "shapes")
    colors: tuple[str, ...] = tuple(COLORS)
    sizes: tuple[str, ...] = tuple(SIZES)
    directions: tuple[str, ...] = tuple(DIRECTIONS)
    speeds: tuple[str, ...] = tuple(SPEEDS)
    manners: tuple[str, ...] = ("moves", "moves", "moves", "moves", "bounces", "spins", "appears", "vanishes")
    backgrounds: tuple[str, ...] = BACKGROUNDS
    crossing: bool = False
    held_out: HeldOut = field(default_factory=HeldOut)
    wordings: AtLeast1 = 1
    phrasing: Literal["varied", "plain"] = "varied"
    videos: AtLeast1 = 10_000
    images: AtLeast1 = 10_000
    seed: AtLeast0 = 0

    def __post_init__(self) -> None:
        check_range(self, ("objects",), 1, MAX_OBJECTS)
        for name, known in (
            ("classes", (*CLASSES, *GROUPS)),
            ("colors", COLORS),
            ("sizes", SIZES),
            ("directions", DIRECTIONS),
            ("speeds", SPEEDS),
            ("manners", MANNERS),
            ("backgrounds", BACKGROUNDS),
        ):
            check_names(name, getattr(self, name), known)
        if not self.objects:
            raise ConfigError("objects: give at least one number")
        if max(self.objects) > len(set(self.colors)):
            raise ConfigError(f"colors: {max(self.objects)} objects of one scene need as many colors")
        for kind in ("videos", "images"):
            if not getattr(self.held_out, kind):
                continue
            free = {attributes["color"] for attributes in self.allowed(kind)}
            if max(self.objects) > len(free):
                raise ConfigError(
                    f"held_out.{kind}: leaves {len(free)} colors for {max(self.objects)} objects; hold out less"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, groups spelled out."""
        return _expanded(self.classes)

    def values(self, kind: str) -> dict[str, tuple[str, ...]]:
        """What each attribute of an object of `videos` or `images` is drawn from; objects of images do not move."""
        values = {"class": self.class_names, "color": self.colors, "size": self.sizes}
        if kind == "videos":
            values |= {"direction": self.directions, "speed": self.speeds, "manner": self.manners}
        return values

    def allowed(self, kind: str) -> list[dict[str, str]]:
        """The attributes that an object of `videos` or `images` may have: every combination that is not held out."""
        held_out, values = getattr(self.held_out, kind), self.values(kind)
        chosen = itertools.product(*map(dict.fromkeys, values.values()))
        combinations = [consistent(dict(zip(values, one))) for one in chosen]
        return [found for found in combinations if not any(pattern.holds(found) for pattern in held_out)]

    def to_dict(self) -> dict[str, object]:
        """As `nas.config.build` reads it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.phrasing == "varied":  # data that were encoded before there was a choice keep their hash
            del values["phrasing"]
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
            "held_out": {
                kind: [{k: list(v) for k, v in pattern.given.items()} for pattern in getattr(self.held_out, kind)]
                for kind in asdict(self.held_out)
            },
        }


def consistent(attributes: dict[str, str]) -> dict[str, str]:
    """The attributes of an object of a clip without what contradicts itself: what stays has no speed and cannot bounce."""
    found = dict(attributes)
    turned_alike = found["class"] in ROUND or found["class"] in WORDS  # a turned six is a nine
    still = found.get("direction") == STILL
    if (found.get("manner") == "spins" and turned_alike) or (found.get("manner") == "bounces" and still):
        found["manner"] = "moves"
    if still:
        found["speed"] = STILL
    return found


def check_names(field_name: str, values: Iterable[str], known: Iterable[str]) -> None:
    """
    Raises:
        ConfigError: no value, or one that is not known.
    """
    known, values = tuple(known), tuple(values)
    if not values:
        raise ConfigError(f"{field_name}: give at least one of {', '.join(known)}")
    for value in values:
        if value not in known:
            raise ConfigError(f"{field_name}: unknown value '{value}'{suggestion(value, known)}")


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _expanded(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(GROUPS.get(name, (name,)) for name in names))


def _field(attribute: str) -> str:
    return "name" if attribute == "class" else attribute
