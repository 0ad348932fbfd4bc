"""Base class of samplers of whole architectures, the slots as Optuna distributions, and seeds."""

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


def distributions(problem: Problem) -> dict[str, BaseDistribution]:
    """The study's parameters: one categorical distribution per slot."""
    return {slot: CategoricalDistribution(choices) for slot, choices in problem.space.slots.items()}


def resolve_seed(seed: int | None) -> int:
    """The seed itself, or a random one for None."""
    entropy = np.random.SeedSequence(seed).entropy
    assert isinstance(entropy, int)
    return entropy


def derive_seed(seed: int, number: int) -> int:
    """The seed of one trial or one generation."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class BaseArchitectureSampler(BaseSampler):
    """Base class of samplers that propose whole architectures; a subclass implements `propose`.

    Proposals depend on the seed, the trial's number and the other trials alone, so that an interrupted study resumes as
    if it had not been interrupted. Parameters other than slots are sampled independently at random.

    Args:
        problem: the feasible set.
        seed: None for a random one.
    """

    def __init__(self, problem: Problem, seed: int | None) -> None:
        self.problem = problem
        self._seed = resolve_seed(seed)
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
        codes = self.propose(history, np.random.default_rng([self._seed, trial.number]))
        choices = self.problem.space.decode(codes).choices
        return {slot: choices[slot] for slot in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()


def scalarize(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Combine objectives `(N, K)`, higher is better, into one `(N,)` by a random augmented Chebyshev sum (Knowles, 2006)."""
    if values.shape[1] == 1 or len(values) == 0:
        return np.asarray(values[:, 0])
    low, high = values.min(0), values.max(0)
    weighted = (values - low) / np.where(high > low, high - low, 1.0) * rng.dirichlet(np.ones(values.shape[1]))
    combined: np.ndarray = weighted.min(1) + 0.05 * weighted.sum(1)
    return combined
