"""A budget: hard upper bounds on what an architecture may cost on one device or on several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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

QUANTITIES = {name: column for name, (column, _) in _QUANTITIES.items()}
"""The costs that a budget bounds, by their names in text: `latency` -> `latency_ms`."""

DEVICE_NAME = re.compile(r"[A-Za-z][\w.-]*")
"""What a device may be called in a budget and in `--table NAME=T.csv`."""


@dataclass(frozen=True)
class Budget:
    """Hard upper bounds; None leaves a cost unbounded.

    Attributes:
        latency_ms: one denoising step.
        memory_mb: peak memory of a denoising step, weights included, in 10^6 bytes.
        params: parameters of the denoiser.
        generation_s: a whole clip (text encoder + steps x denoiser + decoder).
        devices: further bounds by device, each a budget without `devices`. The bounds above hold on every device.
    """

    latency_ms: float | None = None
    memory_mb: float | None = None
    params: float | None = None
    generation_s: float | None = None
    devices: Mapping[str, Budget] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, bound in self._own_bounds().items():
            if isinstance(bound, bool) or not isinstance(bound, int | float | np.number):
                raise BudgetError(f"budget: {name} must be a number, not {shown(bound)}")
            if violation := Range(above=0, high=_LARGEST).violation(float(bound)):
                raise BudgetError(f"budget: {name}: {violation}")
        for device, budget in self.devices.items():
            if not isinstance(budget, Budget) or budget.devices:
                raise BudgetError(f"budget: devices: {shown(device)}: must be a Budget without devices")

    @classmethod
    def parse(cls, text: str, upper_bounds: Cost | Budget | None = None) -> Budget:
        """Read `"latency<=80ms, memory<=1.2GB, params<=600M"`, or `"latency@pixel<=120ms"` for one device of several.

        Units: us, ms, s; B, KB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024); K, M, B for parameters; and %,
        of `upper_bounds` (`CostModel.upper_bounds()`), for a budget that is as tight on any device. With several devices
        a bound in % that names none is one for each device, of the largest cost there.

        Raises:
            BudgetError: a part that is not `name<=number unit`, an unknown name, unit or device, a cost bounded twice, or
                a bound in % of a cost that `upper_bounds` lacks.
        """
        given: set[str] = set()
        bounds: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in re.split(r"[,;]", text))):
            match = re.fullmatch(
                r"(\w+)\s*(?:@\s*([A-Za-z][\w.-]*))?\s*<=?\s*"
                r"([0-9]+(?:_[0-9]+)*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*|%)",
                part,
            )
            if not match:
                raise BudgetError(
                    f"budget: cannot read {shown(part)}; write it like latency<=80ms, or latency@pixel<=80ms for one device"
                )
            name, device, number, unit = match.groups()
            if name not in _QUANTITIES:
                raise BudgetError(f"budget: unknown cost {shown(name)}{suggestion(name, _QUANTITIES)}")
            column, units = _QUANTITIES[name]
            if _key(name, device) in given:
                raise BudgetError(f"budget: {_key(name, device)} is bounded twice")
            given.add(_key(name, device))
            if unit == "%":
                factors = {on: _percent(of, column, name) for on, of in _largest(upper_bounds, name, device).items()}
            else:
                factors = {device: _factor(name, unit, units)}
            for on, factor in factors.items():
                key = _key(column, on)
                bounds[key] = min(float(number) * factor, bounds.get(key, np.inf))
        return cls.of(bounds)

    @classmethod
    def of(cls, bounds: Mapping[str, float]) -> Budget:
        """The budget with the given `bounds()`, such as `{"latency_ms": 80.0, "latency_ms@pixel": 60.0}`.

        Raises:
            BudgetError: an unknown name, or a bound that is no positive number.
        """
        by_device: dict[str, dict[str, float]] = {"": {}}
        for key, bound in bounds.items():
            column, _, device = key.partition("@")
            if column not in QUANTITIES.values():
                raise BudgetError(f"budget: unknown cost {shown(column)}{suggestion(column, QUANTITIES.values())}")
            by_device.setdefault(device, {})[column] = bound
        return _budget(by_device.pop(""), {device: _budget(own) for device, own in by_device.items()})

    def bounds(self) -> dict[str, float]:
        """The bounds that are set: by field name, and `latency_ms@pixel` for one device of several."""
        found = self._own_bounds()
        for device, budget in self.devices.items():
            found |= {_key(name, device): bound for name, bound in budget._own_bounds().items()}
        return found

    def _own_bounds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in QUANTITIES.values() if getattr(self, name) is not None}

    def on(self, device: str) -> Budget:
        """The bounds that hold on one device: those of every device, and its own where they are tighter."""
        own = self.devices.get(device, Budget())
        bounds = self._own_bounds()
        for name, bound in own._own_bounds().items():
            bounds[name] = min(bound, bounds.get(name, bound))
        return _budget(bounds)

    def with_bound(self, key: str, bound: float | None) -> Budget:
        """This budget with one bound, named as in `bounds()`, replaced, or without it."""
        bounds = {name: value for name, value in self.bounds().items() if name != key}
        return Budget.of(bounds if bound is None else {**bounds, key: bound})

    def check_devices(self, known: Iterable[str]) -> None:
        """
        Raises:
            BudgetError: a bound names a device that is not known.
        """
        known = list(known)
        for key in self.bounds():
            device = key.partition("@")[2]
            if device and device not in known:
                raise _unknown_device(key_name(key), device, known)

    def holds(self, cost: object) -> bool:
        """Whether `cost` (an object with the budget's field names) is within every bound.

        Raises:
            BudgetError: a bounded cost is not known.
        """
        known = {name: _known(name, cost_of(cost, name)) for name in self.bounds()}
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
        return ", ".join(bound_text(key, bound) for key, bound in self.bounds().items()) or "no bounds"


def cost_of(cost: object, key: str) -> Any:
    """The cost that a bound of `Budget.bounds()` is on: `key` is a field's name, or `latency_ms@pixel`; None if unknown."""
    name, _, device = key.partition("@")
    return getattr(getattr(cost, "devices", {}).get(device) if device else cost, name, None)


def key_name(key: str) -> str:
    """`latency@pixel` for `latency_ms@pixel`: a bound as it is written in a budget."""
    column, _, device = key.partition("@")
    return _key(next(name for name, known in QUANTITIES.items() if known == column), device)


def bound_text(key: str, bound: float) -> str:
    """`latency@pixel<=80ms`, which `Budget.parse` reads."""
    formats = {"latency_ms": "{:g}ms", "memory_mb": "{:g}MB", "params": "{:.15g}", "generation_s": "{:g}s"}
    return f"{key_name(key)}<={formats[key.partition('@')[0]].format(bound)}"


def _budget(bounds: Mapping[str, float], devices: Mapping[str, Budget] | None = None) -> Budget:
    """The budget with bounds by field name."""
    latency_ms, memory_mb, params, generation_s = (bounds.get(column) for column in QUANTITIES.values())
    return Budget(latency_ms, memory_mb, params, generation_s, devices or {})


def _key(name: str, device: str | None) -> str:
    return f"{name}@{device}" if device else name


def _largest(
    upper_bounds: Cost | Budget | None, name: str, device: str | None
) -> dict[str | None, Cost | Budget | None]:
    """The largest costs that a bound in % is of, by device: of the one that it names, or of each."""
    known: Mapping[str, Cost | Budget] = getattr(upper_bounds, "devices", {})
    found: dict[str | None, Cost | Budget | None] = {}
    if device is None and known:
        found.update(known)
    elif device is None:
        found[None] = upper_bounds
    elif upper_bounds is not None and device not in known:
        raise _unknown_device(_key(name, device), device, list(known))
    else:
        found[device] = known.get(device)
    return found


def _unknown_device(bound: str, device: str, known: list[str]) -> BudgetError:
    fix = (
        suggestion(device, known)
        if known
        else f"; name its table: --table {device}=T.csv, or in a job tables: {{{device}: T.csv}}"
    )
    return BudgetError(f"budget: {bound}: unknown device {shown(device)}{fix}")


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
