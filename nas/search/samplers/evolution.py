"""The evolutionary search of SnapGen-V (arXiv 2412.10494, section 3.2): add, remove, replace or move a temporal layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.costs import Budget, CostModel, Costs
from nas.search.constraints import Constraints
from nas.search.problem import Problem
from nas.search.samplers.base import BaseArchitectureSampler, scalarize
from nas.search.samplers.repair import repair
from nas.search.trial_history import TrialHistory
from nas.spaces import NONE, SearchSpace

MOVES = ("add", "remove", "replace", "move")


class EvolutionSampler(BaseArchitectureSampler):
    """Mutates the best architectures so far; every proposal is within the budget and satisfies the constraints.

    The first `population` proposals are random, repaired into the budget. Then the parent is the best of `tournament`
    draws from the `population` best trials, and the child differs by one or more mutations. Children over the budget
    are redrawn, as the paper does with operators that run out of memory.

    Args:
        population: number of potential parents.
        tournament: tournament size.
        seed: see `BaseArchitectureSampler`.
    """

    TRIES = 200

    def __init__(
        self,
        space: SearchSpace,
        cost: Costs | Mapping[str, CostModel],
        budget: Budget | None = None,
        population: int = 20,
        tournament: int = 3,
        seed: int | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        super().__init__(Problem.build(space, cost, budget, constraints), seed)
        self.population, self.tournament = population, tournament

    def propose(self, history: TrialHistory, rng: np.random.Generator) -> np.ndarray:
        space = self.problem.space
        feasible = self.problem.feasible(history.codes) if len(history.codes) else np.zeros(0, dtype=bool)
        if feasible.sum() < self.population:
            return repair(self.problem, space.encode(space.random(rng)), rng, exclude=history.failed)
        score = scalarize(history.values[feasible], rng)
        parents = history.codes[feasible][np.argsort(-score, kind="stable")[: self.population]]
        return self._child(parents, history, rng)

    def _child(self, parents: np.ndarray, history: TrialHistory, rng: np.random.Generator) -> np.ndarray:
        """A feasible child that is not a trial yet, if `TRIES` mutations find one; otherwise a repaired one.

        Args:
            parents: codes `(N, slots)`, the best first.
        """
        space, taken = self.problem.space, history.taken()
        for _ in range(self.TRIES):
            parent = parents[rng.integers(len(parents), size=self.tournament).min()]
            child = parent.copy()
            for _ in range(rng.geometric(0.5)):
                child = mutate(space, child, str(rng.choice(MOVES)), rng)
            child = np.where(self.problem.permitted[self.problem.columns(child)], child, parent)
            child = space.encode(space.decode(child))
            if child.tobytes() not in taken and self.problem.feasible(child[None])[0]:
                return child
        return repair(self.problem, child, rng, exclude=history.failed)


def mutate(space: SearchSpace, codes: np.ndarray, move: str, rng: np.random.Generator) -> np.ndarray:
    """One mutation; unchanged codes where none is possible."""
    codes, offered = codes.copy(), list(space.slots.values())
    filled = np.array([choices[code] != NONE for choices, code in zip(offered, codes)])
    pool = np.flatnonzero(~filled if move == "add" else filled)
    if len(pool) == 0:
        return codes
    slot = int(rng.choice(pool))
    layers = [code for code, choice in enumerate(offered[slot]) if choice != NONE]
    if move in ("add", "replace"):
        codes[slot] = rng.choice(layers) if layers else codes[slot]
    elif NONE in offered[slot]:
        layer = offered[slot][codes[slot]]
        if move == "move":
            targets = [i for i in np.flatnonzero(~filled) if layer in offered[i]]
            if not targets:
                return codes
            target = int(rng.choice(targets))
            codes[target] = offered[target].index(layer)
        codes[slot] = offered[slot].index(NONE)
    return codes
