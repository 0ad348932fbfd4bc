"""Numbers that enter from files and arguments: finite and in range, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from nas.errors import ConfigError


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
    if not math.isfinite(number):
        raise ConfigError(f"{name}: must be a finite number, not {number}")
    if number < low or (above and number == low) or number > high:
        least = f"above {low:g}" if above else f"at least {low:g}"
        wanted = least if high == math.inf else f"{least} and at most {high:g}"
        raise ConfigError(f"{name}: must be {wanted}, not {number:.12g}")
    return number
