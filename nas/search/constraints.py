"""What an architecture must have beside costs within the budget: fixed and excluded choices, and bounds on counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from nas.errors import ConfigError, SpaceError, shown, suggestion
from nas.spaces import NONE, SearchSpace

_COUNT = re.compile(r"count\(\s*([^@()]+?)\s*(?:@\s*([^@()]+?)\s*)?\)\s*(<=|>=|==?)\s*([0-9]{1,9})")


@dataclass(frozen=True, eq=False)
class Count:
    """A bound on how many slots take one of some choices.

    Attributes:
        text: as it was given.
        members: `(D,)` bool, the columns that count.
        low, high: inclusive; infinite where the count is not bounded.
    """

    text: str
    members: np.ndarray
    low: float
    high: float

    def holds(self, columns: np.ndarray) -> np.ndarray:
        """Of columns `(N, slots)`: bool `(N,)`."""
        return np.asarray(self.excess(columns) <= 0)

    def excess(self, columns: np.ndarray) -> np.ndarray:
        """By how much the count of columns `(N, slots)` is outside: `(N,)`, 0 or less where it is within."""
        count = self.members[columns].sum(-1)
        return np.asarray(np.maximum(self.low - count, count - self.high))


@dataclass(frozen=True)
class Constraints:
    """Fixed choices, excluded choices and counts. They hold for architectures in canonical form.

    A slot is a name, a site for its slots, or a pattern with `*` and `?`; a choice is a name, an operator kind for the
    choices of that kind (unless a choice has that name), or a pattern, which never means `none`. `a|b` is either.

    Attributes:
        fix: `"mid.0/0=Conv1D"`: the slots take one of the choices. A dict of slots and choices is accepted.
        exclude: `"up.3.*:SelfAttention3D"`: the slots take none of the choices.
        count: `"count(SelfAttention3D)<=2"`, `"count(*@down.*)>=1"`: how many slots, or how many of those after `@`, take
            one of the choices; `<=`, `>=` or `=`.
    """

    fix: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    count: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.fix, Mapping):
            object.__setattr__(self, "fix", tuple(f"{slot}={choice}" for slot, choice in self.fix.items()))
        for name in ("fix", "exclude", "count"):
            value = getattr(self, name)
            given = (value,) if isinstance(value, str) else tuple(value)
            if not all(isinstance(text, str) for text in given):
                raise ConfigError(f"{name}: must be texts such as {_EXAMPLES[name]!r}")
            parts = [part.strip() for text in given for part in _split(text)]
            object.__setattr__(self, name, tuple(filter(None, parts)))

    def __bool__(self) -> bool:
        return bool(self.fix or self.exclude or self.count)

    def __str__(self) -> str:
        named = [("fix", self.fix), ("exclude", self.exclude), ("", self.count)]
        return ", ".join(f"{name} {text}".strip() for name, texts in named for text in texts)

    def without(self, text: str) -> Constraints:
        """These constraints but one."""
        kept = ([other for other in texts if other != text] for texts in (self.fix, self.exclude, self.count))
        return Constraints(*map(tuple, kept))

    def texts(self) -> list[str]:
        """All of them, as they were given."""
        return [*self.fix, *self.exclude, *self.count]

    def permitted(self, space: SearchSpace) -> np.ndarray:
        """`(D,)` bool: the columns that fixed and excluded choices leave.

        Raises:
            ConfigError: a text that cannot be read.
            SpaceError: an unknown slot, choice or kind.
        """
        slots = [slot for slot, choices in space.slots.items() for _ in choices]
        names = [choice for choices in space.slots.values() for choice in choices]
        left = np.ones(len(names), dtype=bool)
        for text in self.fix:
            slot_pattern, choice_pattern = _two_parts(text, "=", "fix")
            inside = _slots(space, slot_pattern, f"fix {text!r}")
            chosen = _choices(space, choice_pattern, inside, f"fix {text!r}")
            for slot in sorted(inside, key=list(space.slots).index):
                if not chosen & set(space.slots[slot]):
                    raise SpaceError(
                        f"fix {text!r}: slot '{slot}' does not offer it{suggestion(choice_pattern, space.slots[slot])}"
                    )
            left &= np.array([slot not in inside or name in chosen for slot, name in zip(slots, names)])
        for text in self.exclude:
            slot_pattern, choice_pattern = _two_parts(text, ":", "exclude")
            inside = _slots(space, slot_pattern, f"exclude {text!r}")
            chosen = _choices(space, choice_pattern, inside, f"exclude {text!r}")
            left &= np.array([not (slot in inside and name in chosen) for slot, name in zip(slots, names)])
        return left

    def counts(self, space: SearchSpace) -> tuple[Count, ...]:
        """
        Raises:
            ConfigError: a text that cannot be read.
            SpaceError: an unknown slot, choice or kind.
        """
        found = []
        for text in self.count:
            match = _COUNT.fullmatch(text)
            if not match:
                raise ConfigError(f"constraint: cannot read {shown(text)}; write it like {_EXAMPLES['count']}")
            choice_pattern, slot_pattern, sign, number = match.groups()
            inside = _slots(space, slot_pattern or "*", f"constraint {text!r}")
            chosen = _choices(space, choice_pattern, inside, f"constraint {text!r}")
            members = [slot in inside and name in chosen for slot, choices in space.slots.items() for name in choices]
            low = -np.inf if sign == "<=" else float(number)
            high = np.inf if sign == ">=" else float(number)
            found.append(Count(text, np.array(members), low, high))
        return tuple(found)


_EXAMPLES = {
    "fix": "mid.0/0=Conv1D",
    "exclude": "up.3.*:SelfAttention3D",
    "count": "count(SelfAttention3D)<=2, or count(*@down.*)>=1 for some of the slots",
}


def _split(text: str) -> list[str]:
    """Constraints that commas separate; not inside parentheses."""
    return re.split(r"[,;](?![^(]*\))", text)


def _two_parts(text: str, sign: str, what: str) -> tuple[str, str]:
    slot, found, choice = (part.strip() for part in text.rpartition(sign))
    if not (slot and found and choice):
        raise ConfigError(f"{what}: cannot read {shown(text)}; write it like {_EXAMPLES[what]}")
    return slot, choice


def _slots(space: SearchSpace, pattern: str, where: str) -> set[str]:
    """The slots that a pattern means."""
    found: set[str] = set()
    for one in _alternatives(pattern):
        matched = {slot for slot in space.slots if one in (slot, space.site_name(slot))}
        matched = matched or {s for s in space.slots if fnmatchcase(s, one) or fnmatchcase(space.site_name(s), one)}
        if not matched:
            raise SpaceError(f"{where}: no slot '{one}' in '{space.name}'{suggestion(one, space.slots)}")
        found |= matched
    return found


def _choices(space: SearchSpace, pattern: str, slots: Iterable[str], where: str) -> set[str]:
    """The choices that a pattern means, of those that some of the slots offer."""
    offered = list(dict.fromkeys(choice for slot in space.slots if slot in slots for choice in space.slots[slot]))
    kinds = {choice: space.operators[choice].kind for choice in offered if choice in space.operators}
    found: set[str] = set()
    for one in _alternatives(pattern):
        matched = {choice for choice in offered if choice == one}
        matched = matched or {choice for choice in offered if kinds.get(choice) == one}
        if not matched and ("*" in one or "?" in one or "[" in one):
            named = [choice for choice in offered if choice != NONE]
            matched = {c for c in named if fnmatchcase(c, one) or fnmatchcase(kinds.get(c, c), one)}
        if not matched:
            known = dict.fromkeys([*offered, *kinds.values()])
            raise SpaceError(f"{where}: no choice or kind '{one}' there{suggestion(one, known)}")
        found |= matched
    return found


def _alternatives(pattern: str) -> list[str]:
    return [one.strip() for one in pattern.split("|")]
