"""Numbers that enter from files and arguments: finite and in range, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nas.errors import ConfigError, shown


@dataclass(frozen=True)
class Range:
    """What a number may be. `nas.config` reads it beside a field, as the second argument of `Annotated`.

    Attributes:
        low, high: smallest and largest value.
        above: a value that it must exceed.
        unknown: whether NaN is allowed, which says that the value is not known.
        infinite: whether infinity is allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    unknown: bool = False
    infinite: bool = False

    def refusal(self, value: float) -> str | None:
        """What is wrong with a number, or None."""
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
    """Check fields of a data class (each entry of a tuple); None is no number and passes.

    Args:
        low, high: bounds, both allowed.
        above: whether a number must be above `low` instead.
        where: what stands before the field's name in the error.

    Raises:
        ConfigError: a field is out of range, is NaN, or is infinite.
    """
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None:
                in_range(number, where + name, low, high, above=above)


def in_range(number: float, name: str, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """The number itself. Raises as `check_range`."""
    limits = Range(above=low, high=high) if above else Range(low, high)
    if refusal := limits.refusal(number):
        raise ConfigError(f"{name}: {refusal}")
    return number
