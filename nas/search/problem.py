"""A search as arrays: choices, costs and constraints, the input of every solver and sampler."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.costs import Budget, CostModel
from nas.errors import ConfigError, SpaceError, suggestion
from nas.spaces import NONE, SearchSpace

Scores = dict[str, dict[str, float]]
Pairs = dict[tuple[str, str], dict[tuple[str, str], float]]


@dataclass(frozen=True, eq=False)
class Problem:
    """Slots, choices, costs and budgets as flat arrays.

    A *column* is one choice of one slot; slot i owns columns `start[i]:start[i + 1]`, in the order of its codes, and an
    architecture is one column per slot.

    Attributes:
        space, cost, budget: the arguments of `build`.
        start: `(slots + 1,)`, the first column of each slot.
        slot: `(D,)`, the slot of each column.
        latency_ms, params, weights_mb, peak_mb: `(D,)`, the cost terms of each column; latency is finite where allowed.
        base: latency_ms, params, weights_mb, peak_mb of the backbone.
        limits: latency_ms, params, memory_mb; infinite where the budget sets no bound.
        allowed: `(D,)` bool; columns outside are in no feasible architecture.
        conflicts: `(D, D)` bool, symmetric: two columns that no canonical architecture holds together.
    """

    space: SearchSpace
    cost: CostModel
    budget: Budget
    start: np.ndarray
    slot: np.ndarray
    latency_ms: np.ndarray
    params: np.ndarray
    weights_mb: np.ndarray
    peak_mb: np.ndarray
    base: np.ndarray
    limits: np.ndarray
    allowed: np.ndarray
    conflicts: np.ndarray

    @classmethod
    def build(cls, space: SearchSpace, cost: CostModel, budget: Budget | None) -> Problem:
        """Gather the arrays and drop the columns that cannot be in any feasible architecture.

        Raises:
            TableError: the budget bounds a cost that the table does not have.
            BudgetError: the text encoder and the decoder alone take longer than a clip may.
        """
        budget = budget or Budget()
        limits = cost.resolve_budget(budget)  # a bound on the time of a clip is one on latency
        terms = cost.terms()
        sizes = np.array([len(choices) for choices in space.slots.values()])
        latency = np.concatenate(terms.latency_ms).astype(float)
        runs = np.isfinite(latency)
        bounds = (limits.latency_ms, limits.params, limits.memory_mb)
        problem = cls(
            space=space,
            cost=cost,
            budget=budget,
            start=np.concatenate([[0], np.cumsum(sizes)]),
            slot=np.repeat(np.arange(len(sizes)), sizes),
            latency_ms=np.where(runs, latency, 0.0),
            params=np.concatenate(terms.params).astype(float),
            weights_mb=np.concatenate(terms.weights_mb).astype(float),
            peak_mb=np.nan_to_num(np.concatenate(terms.peak_mb).astype(float)),  # unknown only where it is not bounded
            base=np.array(
                [terms.base_latency_ms, terms.base_params, terms.base_weights_mb, np.nan_to_num(terms.base_peak_mb)],
                float,
            ),
            limits=np.array([np.inf if bound is None else bound for bound in bounds], float),
            allowed=runs,
            conflicts=_conflicts(space, sizes),
        )
        problem._prune()
        return problem

    @property
    def slots(self) -> int:
        return len(self.start) - 1

    def columns(self, codes: np.ndarray) -> np.ndarray:
        """Codes `(..., slots)` as columns."""
        return np.asarray(codes + self.start[:-1], dtype=np.intp)

    def codes(self, columns: np.ndarray) -> np.ndarray:
        return np.asarray(columns - self.start[:-1], dtype=np.intp)

    def feasible(self, codes: np.ndarray) -> np.ndarray:
        """Which of the codes `(N, slots)` are canonical, run on the device, and are within the budget: bool `(N,)`.

        Costs come from the cost model, so that the result does not differ from it by rounding errors.
        """
        codes = np.atleast_2d(codes)
        costs = self.cost.predict_many(codes)
        fits = self.budget.mask(costs) & np.isfinite(costs["latency_ms"].to_numpy())
        columns = self.columns(codes)
        for i, j in zip(*np.nonzero(self._adjacent)):
            fits &= ~self.conflicts[columns[:, i], columns[:, j]]
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
            for values, base, limit in (
                (self.latency_ms, self.base[0], self.limits[0]),
                (self.params, self.base[1], self.limits[1]),
            ):
                least = self.least(values)
                fits &= base + least.sum() - least[self.slot] + values <= limit * (1 + 1e-9)
            weights, peak = self.least(self.weights_mb), self.least(self.peak_mb)
            highest = np.maximum(max(self.base[3], peak.max()), self.peak_mb)
            total = self.base[2] + weights.sum() - weights[self.slot] + self.weights_mb + highest
            fits &= total <= self.limits[2] * (1 + 1e-9)
            if (fits == self.allowed).all():
                return
            self.allowed[:] = fits


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
    if not np.isfinite(value):
        raise ConfigError(f"{where}: must be a finite number, not {value}")
    return float(value)
