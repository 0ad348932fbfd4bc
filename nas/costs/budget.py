"""A budget: hard upper bounds on what an architecture may cost on the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from nas.costs.cost import Cost
from nas.errors import BudgetError, shown, suggestion
from nas.ranges import Range

_TIME_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES_MB = {"B": 1e-6, "KB": 1e-3, "MB": 1.0, "GB": 1e3, "KiB": 2**10 / 1e6, "MiB": 2**20 / 1e6, "GiB": 2**30 / 1e6}
_COUNT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}

_LARGEST = 1e18
"""The largest bound that is accepted, so that sums and products of bounds cannot overflow."""

_QUANTITIES: dict[str, tuple[str, Mapping[str, float]]] = {  # name in text: (field, units)
    "latency": ("latency_ms", _TIME_MS),
    "memory": ("memory_mb", _BYTES_MB),
    "params": ("params", _COUNT),
    "generation": ("generation_s", {unit: factor / 1e3 for unit, factor in _TIME_MS.items()}),
}


@dataclass(frozen=True)
class Budget:
    """Hard upper bounds; None leaves a cost unbounded.

    Attributes:
        latency_ms: one denoising step.
        memory_mb: peak memory of a denoising step, weights included, in 10^6 bytes.
        params: parameters of the denoiser.
        generation_s: a whole clip (text encoder + steps x denoiser + decoder).
    """

    latency_ms: float | None = None
    memory_mb: float | None = None
    params: float | None = None
    generation_s: float | None = None

    def __post_init__(self) -> None:
        for name, bound in self.bounds().items():
            if isinstance(bound, bool) or not isinstance(bound, int | float | np.number):
                raise BudgetError(f"budget: {name} must be a number, not {shown(bound)}")
            if violation := Range(above=0, high=_LARGEST).violation(float(bound)):
                raise BudgetError(f"budget: {name}: {violation}")

    @classmethod
    def parse(cls, text: str, upper_bounds: Cost | Budget | None = None) -> Budget:
        """Read `"latency<=80ms, memory<=1.2GB, params<=600M"`.

        Units: us, ms, s; B, KB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024); K, M, B for parameters; and %,
        of `upper_bounds` (`CostModel.upper_bounds()`), for a budget that is as tight on any device.

        Raises:
            BudgetError: a part that is not `name<=number unit`, an unknown name or unit, a cost bounded twice, or a
                bound in % of a cost that `upper_bounds` lacks.
        """
        bounds: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in re.split(r"[,;]", text))):
            match = re.fullmatch(
                r"(\w+)\s*<=?\s*([0-9]+(?:_[0-9]+)*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*|%)", part
            )
            if not match:
                raise BudgetError(f"budget: cannot read {shown(part)}; write it like latency<=80ms")
            name, number, unit = match.groups()
            if name not in _QUANTITIES:
                raise BudgetError(f"budget: unknown cost {shown(name)}{suggestion(name, _QUANTITIES)}")
            field, units = _QUANTITIES[name]
            if field in bounds:
                raise BudgetError(f"budget: {name} is bounded twice")
            if unit == "%":
                units = {"%": _percent(upper_bounds, field, name)}
            bounds[field] = float(number) * _factor(name, unit, units)
        return cls(**bounds)

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def holds(self, cost: object) -> bool:
        """Whether `cost` (an object with the budget's field names) is within every bound.

        Raises:
            BudgetError: a bounded cost is not known.
        """
        known = {name: _known(name, getattr(cost, name, None)) for name in self.bounds()}
        return all(known[name] <= bound for name, bound in self.bounds().items())

    def mask(self, costs: pd.DataFrame) -> np.ndarray:
        """Which rows of `CostModel.predict_many`'s frame are within every bound: bool `(N,)`.

        Raises:
            BudgetError: a bounded cost is not known.
        """
        fits = np.ones(len(costs), dtype=bool)
        for name, bound in self.bounds().items():
            values = _known(name, costs[name].to_numpy() if name in costs else None)
            fits &= values <= bound
        return fits

    def __str__(self) -> str:
        formats = {"latency_ms": "latency<={:g}ms", "memory_mb": "memory<={:g}MB", "params": "params<={:.15g}"}
        formats["generation_s"] = "generation<={:g}s"
        return ", ".join(formats[name].format(bound) for name, bound in self.bounds().items()) or "no bounds"


def _known(name: str, value: Any) -> Any:
    """The number or array `value`, if there is one and it has no NaN."""
    if value is None or np.isnan(value).any():
        raise BudgetError(f"budget: {name} is bounded but not known; CostModel.resolve_budget raises what is missing")
    return value


def _percent(upper_bounds: Cost | Budget | None, field: str, name: str) -> float:
    bound = getattr(upper_bounds, field, None)
    if bound is None or np.isnan(bound):
        raise BudgetError(
            f"budget: a bound on {name} in % needs the largest {name} of the space, which is not known; give a unit"
        )
    return float(bound) / 100


def _factor(name: str, unit: str, units: Mapping[str, float]) -> float:
    by_case = {known.lower(): factor for known, factor in units.items()}
    if unit.lower() not in by_case:
        known = ", ".join(filter(None, units))
        raise BudgetError(f"budget: the unit of {name} must be one of {known}, not {shown(unit or 'no unit')}")
    return by_case[unit.lower()]
