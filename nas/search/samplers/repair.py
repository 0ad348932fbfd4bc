"""Repair: the nearest architecture within the budget to one that a sampler without constraints proposed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.exact import infeasible, solve
from nas.search.problem import Problem
from nas.search.samplers.base import distributions, resolve_seed
from nas.search.trial_history import TrialHistory

REPAIR = "+repair"
"""Suffix of a sampler's name."""


def repair(
    problem: Problem, codes: np.ndarray, rng: np.random.Generator, exclude: np.ndarray | None = None
) -> np.ndarray:
    """The feasible codes `(slots,)` that keep as many of the given choices as possible.

    Ties are broken at random: a kept choice is worth 1 to 1.5, any other choice a random amount up to 1 / slots.

    Args:
        exclude: codes `(K, slots)` that are not the answer while there is another one.

    Raises:
        BudgetError: no architecture meets the budget.
        ConfigError: no architecture satisfies the constraints.
    """
    codes = np.asarray(codes, dtype=np.intp)
    exclude = np.empty((0, problem.slots), dtype=np.intp) if exclude is None else exclude
    if not (exclude == codes).all(axis=1).any() and problem.feasible(codes[None])[0]:
        return codes
    utilities = rng.uniform(0.0, 1.0 / problem.slots, len(problem.slot))
    utilities[problem.columns(codes)] += rng.uniform(1.0, 1.5, problem.slots)
    nearest = solve(problem, utilities, exclude=list(problem.columns(exclude)))
    if nearest is None and len(exclude):
        nearest = solve(problem, utilities)
    if nearest is None:
        raise infeasible(problem)
    return problem.codes(nearest.columns)


class RepairedSampler(BaseSampler):
    """Replaces each proposal of another sampler by the nearest architecture within the budget and the constraints."""

    def __init__(self, base: BaseSampler, problem: Problem, seed: int | None = None) -> None:
        self.base, self.problem = base, problem
        self._seed = resolve_seed(seed)

    def __str__(self) -> str:
        return f"{self.base}{REPAIR}"

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(distributions(self.problem))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The base sampler's proposal, completed slot by slot as Optuna would, then repaired."""
        if set(search_space) != set(self.problem.space.slots) or "fixed_params" in trial.system_attrs:
            return {}
        params = self.base.sample_relative(study, trial, self.base.infer_relative_search_space(study, trial))
        begun = copy.copy(trial)  # with the slots so far, by which Optuna's brute force knows where it is
        begun.params, begun.distributions = dict(params), {slot: search_space[slot] for slot in params}
        for slot, distribution in search_space.items():
            if slot not in params:
                params[slot] = self.base.sample_independent(study, begun, slot, distribution)
                begun.params[slot], begun.distributions[slot] = params[slot], distribution
        space = self.problem.space
        codes = space.encode(space.architecture({slot: params[slot] for slot in space.slots}))
        rng = np.random.default_rng([self._seed, trial.number])
        failed = TrialHistory.of(study, space, but=trial.number).failed
        return space.decode(repair(self.problem, codes, rng, exclude=failed)).choices

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self.base.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.base.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.base.after_trial(study, trial, state, values)
