"""What this library's samplers share: the slots as an Optuna search space, and what to do with anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from nas.search.problem import Problem
from nas.search.trial_history import TrialHistory


def distributions(problem: Problem) -> dict[str, CategoricalDistribution]:
    """The study's parameters: one categorical per slot."""
    return {slot: CategoricalDistribution(choices) for slot, choices in problem.space.slots.items()}


class BaseArchitectureSampler(BaseSampler):
    """Proposes whole architectures of one space; parameters that are no slots are sampled independently at random.

    A subclass implements `propose`. Proposals depend on the seed, the trial's number and the other trials alone, so that
    a study that was interrupted goes on as it would have.

    Args:
        problem: the feasible set.
        seed: of the random numbers; None for other ones each time.
    """

    def __init__(self, problem: Problem, seed: int | None) -> None:
        self.problem = problem
        self._entropy = np.random.SeedSequence(seed).entropy
        self._independent = RandomSampler(seed=seed)
        self._seen = IntersectionSearchSpace()

    def propose(self, history: TrialHistory, rng: np.random.Generator) -> np.ndarray:
        """Codes `(slots,)` of an architecture within the budget, given the other trials."""
        raise NotImplementedError

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The slots, unless the study's finished trials have other parameters."""
        slots, seen = distributions(self.problem), self._seen.calculate(study)
        return dict(slots) if not seen or all(seen.get(s) == d for s, d in slots.items()) else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        slots = distributions(self.problem)
        if any(slots.get(name) != distribution for name, distribution in search_space.items()):
            return {n: self.sample_independent(study, trial, n, d) for n, d in search_space.items()}
        if not search_space or set(trial.system_attrs.get("fixed_params", ())) >= set(slots):
            return {}
        history = TrialHistory.of(study, self.problem.space, but=trial.number)
        codes = self.propose(history, np.random.default_rng([self._entropy, trial.number]))
        choices = self.problem.space.decode(codes).choices
        return {slot: choices[slot] for slot in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()


def scalarize(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Several objectives `(N, K)`, higher is better, as one `(N,)`: a random augmented Chebyshev sum (Knowles, 2006)."""
    if values.shape[1] == 1 or len(values) == 0:
        return values[:, 0]
    low, high = values.min(0), values.max(0)
    weighted = (values - low) / np.where(high > low, high - low, 1.0) * rng.dirichlet(np.ones(values.shape[1]))
    return weighted.min(1) + 0.05 * weighted.sum(1)
