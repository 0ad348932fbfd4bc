"""The costs of one search space on several devices: a cost model for each, which a search keeps within budget together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from nas.costs.budget import DEVICE_NAME, QUANTITIES, Budget
from nas.costs.cost import Cost
from nas.costs.model import CostModel
from nas.errors import BudgetError, ConfigError, shown
from nas.spaces import Architecture, SearchSpace


class DeviceCosts:
    """Cost models of one search space by device.

    A cost without a device is the largest over the devices, so that a bound on it holds on all of them.

    Args:
        models: by the names that budgets use (`latency@pixel<=80ms`).

    Attributes:
        models: by name.
        space: the search space of all.
        steps, guidance: of the generation of a clip, the same on all.

    Raises:
        ConfigError: no device, a name that a budget cannot hold, or models of different spaces or clips.
    """

    def __init__(self, models: Mapping[str, CostModel]) -> None:
        if not models:
            raise ConfigError("devices: needs at least one cost model: {'pixel': CostModel(space, table)}")
        for name, model in models.items():
            if not isinstance(name, str) or not DEVICE_NAME.fullmatch(name):
                raise ConfigError(
                    f"devices: {shown(name)} is no device's name; use letters, digits, '_', '.' and '-', a letter first"
                )
            if not isinstance(model, CostModel):
                raise ConfigError(f"devices: {name}: must be a CostModel, not {type(model).__name__}")
        self.models = dict(models)
        first_name, first = next(iter(models.items()))
        self.space: SearchSpace = first.space
        self.steps, self.guidance = first.steps, first.guidance
        for name, model in models.items():
            if model.space.hash != self.space.hash:
                raise ConfigError(f"devices: {name} and {first_name} have different search spaces; use one for all")
            if (model.steps, model.guidance) != (self.steps, self.guidance):
                raise ConfigError(f"devices: {name} and {first_name} differ in steps or guidance; use the same for all")

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of all rows that are used."""
        return tuple(sorted({source for model in self.models.values() for source in model.sources}))

    def predict(self, arch: Architecture) -> Cost:
        """The cost of one architecture on the device where it is largest; `devices` has it for each.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        costs = {name: model.predict(arch) for name, model in self.models.items()}
        breakdown = next(iter(costs.values())).breakdown[["slot", "choice"]].copy()
        for name, cost in costs.items():
            breakdown[f"latency_ms@{name}"] = cost.breakdown["latency_ms"]
        return _largest(costs, breakdown)

    def predict_many(self, codes: np.ndarray | Sequence[Sequence[int]]) -> pd.DataFrame:
        """The costs of N architectures given as codes `(N, slots)`.

        Columns as of `CostModel.predict_many`, the largest over the devices, then `latency_ms@NAME` and so on for each.

        Raises:
            SpaceError: the wrong number of columns, or a code out of range.
        """
        frames = {name: model.predict_many(codes) for name, model in self.models.items()}
        shared = [c for c in QUANTITIES.values() if all(c in frame for frame in frames.values())]
        largest = {c: np.maximum.reduce([frame[c].to_numpy() for frame in frames.values()]) for c in shared}
        own = {f"{column}@{name}": frame[column] for name, frame in frames.items() for column in frame}
        return pd.DataFrame({**largest, **own})

    def limits(self, budget: Budget) -> dict[str, Budget]:
        """The bounds that hold on each device, those on generation time replaced by ones on latency.

        Raises:
            TableError: as `CostModel.resolve_budget`.
            BudgetError: likewise, with the device; or a bound names an unknown one.
        """
        budget.check_devices(self.models)
        found = {}
        for name, model in self.models.items():
            try:
                found[name] = model.resolve_budget(budget.on(name))
            except BudgetError as error:
                raise BudgetError(f"{error} ({name})") from None
        return found

    def resolve_budget(self, budget: Budget) -> Budget:
        """The budget with each bound on generation time replaced by one on the latency of each device it holds on.

        Raises:
            TableError, BudgetError: as `limits`.
        """
        bounds = {key: bound for key, bound in budget.bounds().items() if not key.startswith("generation_s")}
        for name, own in self.limits(budget).items():
            if budget.on(name).generation_s is not None and own.latency_ms is not None:
                bounds[f"latency_ms@{name}"] = own.latency_ms
        return Budget.of(bounds)

    def check_memory(self) -> None:
        """
        Raises:
            TableError: the memory of a workload is unknown on a device.
        """
        for model in self.models.values():
            model.check_memory()

    def upper_bounds(self) -> Cost:
        """As `CostModel.upper_bounds`: the largest over the devices, and `devices` for each."""
        return _largest({name: model.upper_bounds() for name, model in self.models.items()}, pd.DataFrame())


Costs: TypeAlias = CostModel | DeviceCosts
"""The cost model of one device, or those of several."""


def as_costs(cost: Costs | Mapping[str, CostModel]) -> Costs:
    """`cost` itself, or the `DeviceCosts` of a dict of cost models.

    Raises:
        ConfigError: as `DeviceCosts`.
    """
    return DeviceCosts(cost) if isinstance(cost, Mapping) else cost


def _largest(costs: Mapping[str, Cost], breakdown: pd.DataFrame) -> Cost:
    clips = [cost.generation_s for cost in costs.values()]
    return Cost(
        _max(cost.latency_ms for cost in costs.values()),
        _max(cost.memory_mb for cost in costs.values()),
        max(cost.params for cost in costs.values()),
        breakdown,
        None if any(clip is None for clip in clips) else _max(clip for clip in clips if clip is not None),
        costs,
    )


def _max(values: Iterable[float]) -> float:
    return float(np.maximum.reduce(list(values)))  # NaN if any is
