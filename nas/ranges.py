"""Range checks of numbers from files and arguments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nas.errors import ConfigError, shown

MAX_GUIDANCE = 1000.0
"""Largest scale of classifier-free guidance."""


@dataclass(frozen=True)
class Range:
    """The allowed values of a number. `nas.config` reads it from a field's `Annotated` type.

    Attributes:
        low, high: smallest and largest value.
        above: exclusive lower bound.
        unknown: whether NaN, for an unknown value, is allowed.
        infinite: whether infinity is allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    unknown: bool = False
    infinite: bool = False

    def violation(self, value: float) -> str | None:
        """Why a number is not allowed, or None if it is."""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"must fit 64 bits, found {shown(value)}"
        if math.isnan(value) or math.isinf(value):
            allowed = self.unknown if math.isnan(value) else self.infinite
            return None if allowed else f"must be a finite number, not {value}"
        if self.low <= value <= self.high and (value > self.above or self.above == -math.inf):
            return None
        least = f"above {self.above:g}" if self.above > -math.inf else f"at least {self.low:g}"
        most = f"at most {self.high:g}"
        wanted = least if self.high == math.inf else most if least == "at least -inf" else f"{least} and {most}"
        return f"must be {wanted}, not {value:.12g}"


def check_range(
    owner: Any, names: Iterable[str], low: float, high: float = math.inf, *, above: bool = False, where: str = ""
) -> None:
    """Check numeric fields of a data class, and each entry of tuples; None is accepted.

    Args:
        low, high: inclusive bounds.
        above: whether `low` is exclusive.
        where: prefix of the field's name in the error.

    Raises:
        ConfigError: a field is out of range, NaN or infinite.
    """
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None:
                in_range(number, where + name, low, high, above=above)


def in_range(number: float, name: str, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """The number, if it is in range; raises like `check_range`."""
    limits = Range(above=low, high=high) if above else Range(low, high)
    if violation := limits.violation(number):
        raise ConfigError(f"{name}: {violation}")
    return number
