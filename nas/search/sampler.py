"""The sampler of this library: Bayesian linear surrogate, Thompson draws, each maximised within the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from nas.costs import Budget, CostModel
from nas.search.climb import Climber
from nas.search.exact import infeasible, solve
from nas.search.history import History
from nas.search.problem import Problem
from nas.search.repair import repair
from nas.search.surrogate import Prior, Surrogate, fit
from nas.spaces import SearchSpace

STARTS = 6


class BudgetSampler(BaseSampler):
    """Proposes only architectures within the budget, and finds the best one in few evaluations.

    Args:
        space, cost, budget: what is searched. The study's parameters are the slots, categorical over their choices.
        startup: proposals before the surrogate is asked: maximisers of random scores, as different as can be.
        seed: proposals depend on it, on the trial's number and on the finished trials alone, so that a study that was
            interrupted goes on as it would have.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: CostModel,
        budget: Budget | None = None,
        startup: int = 10,
        seed: int | None = None,
        temper: float = 0.5,
    ) -> None:
        self.problem = Problem.build(space, cost, budget)
        self.startup = startup
        self.temper = temper
        self._seed = np.random.SeedSequence(seed).entropy
        self._independent = RandomSampler(seed=seed)
        self._seen = IntersectionSearchSpace()
        self._typical = self._some_feasible(np.random.default_rng(self._seed))
        self._prior = Prior(self.problem, self._typical)
        self._fits: dict[tuple[int, int], np.ndarray] = {}

    def _some_feasible(self, rng: np.random.Generator) -> np.ndarray:
        """Columns `(16, slots)` of different feasible architectures: maximisers of random scores."""
        found = []
        for _ in range(16):
            best = solve(self.problem, rng.normal(size=len(self.problem.slot)))
            if best is None:
                raise infeasible(self.problem)
            found.append(best.columns)
        return np.array(found)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The slots, unless the study's trials so far have other parameters."""
        slots = {slot: CategoricalDistribution(choices) for slot, choices in self.problem.space.slots.items()}
        seen = self._seen.calculate(study)
        return slots if not seen or all(seen.get(s) == d for s, d in slots.items()) else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not self._ours(search_space):
            return {n: self._independent.sample_independent(study, trial, n, d) for n, d in search_space.items()}
        if set(trial.system_attrs.get("fixed_params", ())) >= set(self.problem.space.slots):
            return {}
        history = History.of(study, self.problem.space, but=trial.number)
        rng = np.random.default_rng([self._seed, trial.number])
        choices = self.problem.space.decode(self._propose(history, rng)).choices
        return {slot: choices[slot] for slot in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()

    def _ours(self, search_space: dict[str, BaseDistribution]) -> bool:
        slots = self.problem.space.slots
        return bool(search_space) and all(
            name in slots and getattr(distribution, "choices", None) == slots[name]
            for name, distribution in search_space.items()
        )

    def _propose(self, history: History, rng: np.random.Generator) -> np.ndarray:
        problem = self.problem
        taken = {codes.tobytes() for codes in (*history.codes, *history.pending)}
        if len(history.codes) < 2 or len(taken) < self.startup:
            utilities, interactions = self._startup_scores(history, rng)
        else:
            utilities, interactions = self._draw(history, rng)
        starts = self._starts(history, rng)
        best = Climber(problem, utilities, interactions).best(starts, taken)
        if best is None:
            return repair(problem, problem.codes(self._typical[0]), rng)
        return problem.codes(best)

    def _startup_scores(self, history: History, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A draw from the prior in which layers are worth something."""
        size = len(self.problem.slot)
        x = self._typical[:2]
        surrogate = Surrogate(self._prior, x, np.zeros(2))
        u, q = surrogate._prior_draw(rng)
        u = u + self._prior.layer * np.abs(u).mean()
        return u, np.zeros((size, size))

    def _draw(self, history: History, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = self.problem.columns(history.codes)
        y = history.values[:, 0]
        n = len(x)
        at = max(k for k in (4, *(int(8 * 1.3**i) for i in range(40))) if k <= n) if n >= 4 else 0
        if at and (at, 0) not in self._fits:
            self._fits[at, 0] = fit(self._prior, x[:at], y[:at])
        surrogate = Surrogate(self._prior, x, y, self._fits.get((at, 0)))
        surrogate.condition(self.problem.columns(history.pending))
        u, q = surrogate.draw(rng)
        mu, mq = surrogate.expected()
        t = self.temper
        return mu + t * (u - mu), mq + t * (q - mq)

    def _starts(self, history: History, rng: np.random.Generator) -> list[np.ndarray]:
        starts = []
        if len(history.codes):
            order = np.argsort(-history.values[:, 0], kind="stable")
            feasible = [i for i in order[:20] if self.problem.feasible(history.codes[i][None])[0]]
            starts = [self.problem.columns(history.codes[i]) for i in feasible[: STARTS // 2]]
        while len(starts) < STARTS:
            starts.append(self._typical[rng.integers(len(self._typical))])
        return starts
