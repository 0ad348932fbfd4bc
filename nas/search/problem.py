"""A search as arrays: choices, costs and constraints, the input of every solver and sampler."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from nas.costs import Budget, CostModel, Costs, as_costs
from nas.errors import ConfigError, SpaceError, shown, suggestion
from nas.search.constraints import Constraints, Count
from nas.spaces import NONE, SearchSpace

Scores = dict[str, dict[str, float]]
Pairs = dict[tuple[str, str], dict[tuple[str, str], float]]


@dataclass(frozen=True, eq=False)
class SumBound:
    """A bound on a cost that adds up: `base + values[columns].sum() <= limit`; values `(D,)`."""

    values: np.ndarray
    base: float
    limit: float


@dataclass(frozen=True, eq=False)
class PeakBound:
    """A bound on memory: `base_weights + weights[columns].sum() + max(base_peak, peak[columns].max()) <= limit`."""

    weights: np.ndarray
    peak: np.ndarray
    base_weights: float
    base_peak: float
    limit: float


_Bound = TypeVar("_Bound", SumBound, PeakBound)


@dataclass(frozen=True, eq=False)
class DeviceTerms:
    """The costs of every column on one device, and the bounds that hold there.

    Attributes:
        name: "" if there is only one device, without a name.
        latency_ms, params, weights_mb, peak_mb: `(D,)`; latency is 0 where `runs` is False.
        runs: `(D,)` bool: the device can run it.
        base: latency_ms, params, weights_mb, peak_mb of the backbone.
        limits: latency_ms, params, memory_mb; infinite where the budget sets no bound.
    """

    name: str
    latency_ms: np.ndarray
    params: np.ndarray
    weights_mb: np.ndarray
    peak_mb: np.ndarray
    runs: np.ndarray
    base: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, name: str, model: CostModel, budget: Budget) -> DeviceTerms:
        """
        Args:
            budget: the bounds on this device, without one on generation time.
        """
        terms = model.terms()
        latency = np.concatenate(terms.latency_ms).astype(float)
        base_peak = np.nan_to_num(terms.base_peak_mb)  # memory is unknown only where it is not bounded
        bounds = (budget.latency_ms, budget.params, budget.memory_mb)
        return cls(
            name,
            np.where(np.isfinite(latency), latency, 0.0),
            np.concatenate(terms.params).astype(float),
            np.concatenate(terms.weights_mb).astype(float),
            np.nan_to_num(np.concatenate(terms.peak_mb).astype(float)),
            np.isfinite(latency),
            np.array([terms.base_latency_ms, terms.base_params, terms.base_weights_mb, base_peak], float),
            np.array([np.inf if bound is None else bound for bound in bounds], float),
        )

    def bound(self, column: str, limit: float) -> SumBound | PeakBound:
        """A bound on `latency_ms`, `params` or `memory_mb`."""
        if column == "memory_mb":
            return PeakBound(self.weights_mb, self.peak_mb, self.base[2], self.base[3], limit)
        values, base = (self.latency_ms, self.base[0]) if column == "latency_ms" else (self.params, self.base[1])
        return SumBound(values, base, limit)


@dataclass(frozen=True, eq=False)
class Problem:
    """Slots, choices, costs, budgets and constraints as flat arrays.

    A *column* is one choice of one slot; slot i owns columns `start[i]:start[i + 1]`, in the order of its codes, and an
    architecture is one column per slot.

    Attributes:
        space, cost, budget, constraints: the arguments of `build`.
        start: `(slots + 1,)`, the first column of each slot.
        slot: `(D,)`, the slot of each column.
        devices: the costs of the columns on each device, and its limits.
        counts: the constraints on counts.
        permitted: `(D,)` bool: what fixed and excluded choices leave, and every device can run.
        allowed: `(D,)` bool; columns outside are in no feasible architecture.
        conflicts: `(D, D)` bool, symmetric: two columns that no canonical architecture holds together.
    """

    space: SearchSpace
    cost: Costs
    budget: Budget
    constraints: Constraints
    start: np.ndarray
    slot: np.ndarray
    devices: tuple[DeviceTerms, ...]
    counts: tuple[Count, ...]
    permitted: np.ndarray
    allowed: np.ndarray
    conflicts: np.ndarray

    @classmethod
    def build(
        cls,
        space: SearchSpace,
        cost: Costs | Mapping[str, CostModel],
        budget: Budget | None,
        constraints: Constraints | None = None,
    ) -> Problem:
        """Gather the arrays and drop the columns that cannot be in any feasible architecture.

        Args:
            cost: a cost model, or one by each device's name.

        Raises:
            TableError: the budget bounds a cost that the table does not have.
            BudgetError: the text encoder and the decoder alone take longer than a clip may, or a bound names an unknown
                device.
            ConfigError: a constraint that cannot be read, or that names an unknown slot, choice or kind.
        """
        budget, cost, constraints = budget or Budget(), as_costs(cost), constraints or Constraints()
        if not isinstance(constraints, Constraints):
            raise ConfigError(f"constraints: must be nas.search.Constraints, not {type(constraints).__name__}")
        if cost.space.slots != space.slots:
            raise ConfigError(
                f"cost: is of the space '{cost.space.name}' with other slots than '{space.name}'; use one for both"
            )
        limits = cost.limits(budget)  # a bound on the time of a clip is one on latency
        sizes = np.array([len(choices) for choices in space.slots.values()])
        devices = tuple(DeviceTerms.of(name, model, limits[name]) for name, model in cost.models.items())
        permitted = constraints.permitted(space) & np.logical_and.reduce([device.runs for device in devices])
        problem = cls(
            space=space,
            cost=cost,
            budget=budget,
            constraints=constraints,
            start=np.concatenate([[0], np.cumsum(sizes)]),
            slot=np.repeat(np.arange(len(sizes)), sizes),
            devices=devices,
            counts=constraints.counts(space),
            permitted=permitted,
            allowed=permitted.copy(),
            conflicts=_conflicts(space, sizes),
        )
        problem._prune()
        return problem

    @property
    def slots(self) -> int:
        return len(self.start) - 1

    @property
    def latency_ms(self) -> np.ndarray:
        """`(D,)`: on the first device, which stands for all where costs only describe a choice."""
        return self.devices[0].latency_ms

    @property
    def params(self) -> np.ndarray:
        """`(D,)`: on the first device."""
        return self.devices[0].params

    @property
    def peak_mb(self) -> np.ndarray:
        """`(D,)`: on the first device."""
        return self.devices[0].peak_mb

    @cached_property
    def sums(self) -> list[SumBound]:
        """The bounds on latency and parameters, without those that others imply, such as one on parameters of each device."""
        bounds = [
            device.bound(column, limit)
            for device in self.devices
            for column, limit in zip(("latency_ms", "params"), device.limits)
        ]
        found = [bound for bound in bounds if isinstance(bound, SumBound) and np.isfinite(bound.limit)]
        return _not_implied(found, [np.append(b.values * self.permitted, b.base) for b in found])

    @cached_property
    def peaks(self) -> list[PeakBound]:
        """The bounds on memory, without those that others imply."""
        bounds = [device.bound("memory_mb", device.limits[2]) for device in self.devices]
        found = [bound for bound in bounds if isinstance(bound, PeakBound) and np.isfinite(bound.limit)]
        amounts = [
            np.concatenate([b.weights * self.permitted, b.peak * self.permitted, [b.base_weights, b.base_peak]])
            for b in found
        ]
        return _not_implied(found, amounts)

    @property
    def bounds(self) -> list[SumBound | PeakBound]:
        """All bounds of the budget."""
        return [*self.sums, *self.peaks]

    def bounds_on(self, key: str, limit: float) -> list[SumBound | PeakBound]:
        """A limit on `latency_ms`, `params` or `memory_mb`: on every device, or on that of `latency_ms@pixel`."""
        column, _, name = key.partition("@")
        return [device.bound(column, limit) for device in self.devices if name in ("", device.name)]

    def columns(self, codes: np.ndarray) -> np.ndarray:
        """Codes `(..., slots)` as columns."""
        return np.asarray(codes + self.start[:-1], dtype=np.intp)

    def codes(self, columns: np.ndarray) -> np.ndarray:
        return np.asarray(columns - self.start[:-1], dtype=np.intp)

    def feasible(self, codes: np.ndarray) -> np.ndarray:
        """Which of the codes `(N, slots)` are canonical, run on every device, are within the budget and satisfy the
        constraints: bool `(N,)`.

        Costs come from the cost model, so that the result does not differ from it by rounding errors.
        """
        codes = np.atleast_2d(codes)
        costs = self.cost.predict_many(codes)
        columns = self.columns(codes)
        fits = self.budget.mask(costs) & self.satisfies(columns)
        for i, j in zip(*np.nonzero(self._adjacent)):
            fits &= ~self.conflicts[columns[:, i], columns[:, j]]
        return np.asarray(fits)

    def satisfies(self, columns: np.ndarray) -> np.ndarray:
        """Which of the columns `(N, slots)` run on every device and satisfy the constraints: bool `(N,)`."""
        fits = self.permitted[columns].all(-1)
        for count in self.counts:
            fits &= count.holds(columns)
        return np.asarray(fits)

    @cached_property
    def _adjacent(self) -> np.ndarray:
        """`(slots, slots)` bool: the pairs i < j of slots that have conflicting columns."""
        pairs = np.zeros((self.slots, self.slots), dtype=bool)
        rows, columns = np.nonzero(self.conflicts)
        pairs[self.slot[rows], self.slot[columns]] = True
        return np.triu(pairs)

    def utilities(self, scores: Scores) -> np.ndarray:
        """Scores by slot and choice as `(D,)`; what is not named scores 0.

        Raises:
            SpaceError: an unknown slot or choice.
        """
        values = np.zeros(len(self.slot))
        for slot, choices in scores.items():
            for choice, value in choices.items():
                values[self._column(slot, choice, "scores")] = _finite(value, f"scores: {slot}: {choice}")
        return values

    def interactions(self, pairs: Pairs) -> np.ndarray | None:
        """Pair scores as a symmetric `(D, D)` matrix (each pair counts once in a score), or None without any."""
        if not pairs:
            return None
        values = np.zeros((len(self.slot), len(self.slot)))
        for (first, second), table in pairs.items():
            for (a, b), value in table.items():
                d, e = self._column(first, a, "pairs"), self._column(second, b, "pairs")
                if self.slot[d] == self.slot[e]:
                    raise ConfigError(f"pairs: ({first}, {second}): a pair needs two different slots")
                values[d, e] += _finite(value, f"pairs: ({first}, {second}): ({a}, {b})")
                values[e, d] = values[d, e]
        return values

    def _column(self, slot: str, choice: str, where: str) -> int:
        if slot not in self.space.slots:
            raise SpaceError(f"{where}: unknown slot '{slot}'{suggestion(slot, self.space.slots)}")
        choices = self.space.slots[slot]
        if choice not in choices:
            raise SpaceError(f"{where}: slot '{slot}' has no choice '{choice}'{suggestion(choice, choices)}")
        return int(self.start[list(self.space.slots).index(slot)]) + choices.index(choice)

    def least(self, values: np.ndarray) -> np.ndarray:
        """`(slots,)`: the minimum of `values (D,)` over the allowed columns of each slot; infinite without any."""
        return np.minimum.reduceat(np.where(self.allowed, values, np.inf), self.start[:-1])

    def _prune(self) -> None:
        """Remove columns that exceed a bound even if all other slots take their minimum, until none is left."""
        while np.logical_or.reduceat(self.allowed, self.start[:-1]).all():
            fits = self.allowed.copy()
            for bound in self.sums:
                least = self.least(bound.values)
                fits &= bound.base + least.sum() - least[self.slot] + bound.values <= bound.limit * (1 + 1e-9)
            for memory in self.peaks:
                weights, peak = self.least(memory.weights), self.least(memory.peak)
                highest = np.maximum(max(memory.base_peak, peak.max()), memory.peak)
                total = memory.base_weights + weights.sum() - weights[self.slot] + memory.weights + highest
                fits &= total <= memory.limit * (1 + 1e-9)
            if (fits == self.allowed).all():
                return
            self.allowed[:] = fits


def _not_implied(bounds: list[_Bound], amounts: list[np.ndarray]) -> list[_Bound]:
    """The bounds without those that another one implies: every amount is at least as large a share of the other's limit."""
    shares = [amount / bound.limit for bound, amount in zip(bounds, amounts)]

    def implies(i: int, j: int) -> bool:
        return bool((shares[j] <= shares[i]).all()) and (i < j or bool((shares[j] < shares[i]).any()))

    indices = range(len(bounds))
    return [bounds[j] for j in indices if not any(implies(i, j) for i in indices if i != j)]


def _conflicts(space: SearchSpace, sizes: np.ndarray) -> np.ndarray:
    """Pairs excluded by the canonical form: `none` before a layer at one site, if the two could be swapped."""
    start = np.concatenate([[0], np.cumsum(sizes)])
    index = {slot: i for i, slot in enumerate(space.slots)}
    conflicts = np.zeros((start[-1], start[-1]), dtype=bool)
    for group in space.slot_groups:
        for first, second in itertools.pairwise(group):
            if NONE not in space.slots[first] or NONE not in space.slots[second]:
                continue
            none = start[index[first]] + space.slots[first].index(NONE)
            for code, choice in enumerate(space.slots[second]):
                if choice != NONE and choice in space.slots[first]:
                    column = start[index[second]] + code
                    conflicts[none, column] = conflicts[column, none] = True
    return conflicts


def _finite(value: float, where: str) -> float:
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise ConfigError(f"{where}: must be a finite number, not {shown(value)}")
    return float(value)
