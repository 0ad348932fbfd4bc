"""Samplers by name: this library's own, and every one of Optuna's, each optionally with repair into the budget."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.errors import ConfigError, MissingDependency, suggestion
from nas.search.problem import Problem
from nas.search.samplers.base import distributions
from nas.search.samplers.budget import BudgetSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.repair import repair

REPAIR = "+repair"
GRID_LIMIT = 10_000


class _RepeatableParents:
    """A genetic sampler of Optuna whose parents are a function of the finished trials and the seed.

    Optuna's draws them once, in the first trial of a generation, and stores them in the study in another order.
    """

    def __init__(self, seed: int, generation_seed: int, parents: dict[int, list[int]]) -> None:
        super().__init__(seed=seed)
        self._of_trial, self._of_generation, self._parents = seed, generation_seed, parents

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        if generation == 0:
            return []
        if generation not in self._parents:
            earlier = self.get_parent_population(study, generation - 1)  # before this generation's draws begin
            self._parents[generation - 1] = [trial.number for trial in earlier]
            self._rng.rng.seed(derived(self._of_generation, generation))
            self._parents[generation] = [trial.number for trial in self.select_parent(study, generation)]
            self._rng.rng.seed(self._of_trial)
        chosen = set(self._parents[generation])
        return [trial for trial in study._get_trials(deepcopy=False, use_cache=True) if trial.number in chosen]


class _NSGAII(_RepeatableParents, optuna.samplers.NSGAIISampler):
    pass


class _NSGAIII(_RepeatableParents, optuna.samplers.NSGAIIISampler):
    pass


class _QMC(optuna.samplers.QMCSampler):
    """Takes the point of the sequence that has the trial's number; Optuna's counts in the study, one write earlier."""

    def __init__(self, seed: int, of_trial: int) -> None:
        independent = optuna.samplers.RandomSampler(seed=of_trial)
        super().__init__(seed=seed, independent_sampler=independent, warn_independent_sampling=False)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._sample_id = trial.number
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._sample_id


def _genetic(kind: type[_RepeatableParents]) -> Callable[[Problem, int | None], BaseSampler]:
    def make(problem: Problem, seed: int | None) -> BaseSampler:
        parents: dict[int, list[int]] = {}  # of a generation that is whole, by trial number
        of_generation = entropy(seed)
        return PerTrialSampler(lambda of_trial: kind(of_trial, of_generation, parents), seed)

    return make


def _cmaes(problem: Problem, seed: int | None) -> BaseSampler:
    try:
        import cmaes  # noqa: F401
    except ImportError:
        raise MissingDependency("sampler 'cmaes' needs the package cmaes: pip install cmaes") from None
    return PerTrialSampler(lambda s: optuna.samplers.CmaEsSampler(seed=s, warn_independent_sampling=False), seed)


def _grid(problem: Problem, seed: int | None) -> BaseSampler:
    if problem.space.size > GRID_LIMIT:
        raise ConfigError(
            f"sampler 'grid' lists every combination, and '{problem.space.name}' has {problem.space.size:.3g}; "
            f"above {GRID_LIMIT} take another sampler"
        )
    slots, order = {s: list(c) for s, c in problem.space.slots.items()}, entropy(seed) % 2**32

    def make(of_trial: int) -> BaseSampler:
        sampler = optuna.samplers.GridSampler(slots, seed=order)  # all trials walk one list
        sampler._rng.rng.seed(of_trial)
        return sampler

    return PerTrialSampler(make, seed)


SAMPLERS: dict[str, Callable[[Problem, int | None], BaseSampler]] = {
    "budget": lambda problem, seed: BudgetSampler(problem.space, problem.cost, problem.budget, seed=seed),
    "evolution": lambda problem, seed: EvolutionSampler(problem.space, problem.cost, problem.budget, seed=seed),
    "random": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.RandomSampler(seed=s), seed),
    "tpe": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.TPESampler(seed=s), seed),
    "nsga2": _genetic(_NSGAII),
    "nsga3": _genetic(_NSGAIII),
    "gp": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.GPSampler(seed=s), seed),
    "cmaes": _cmaes,
    "qmc": lambda problem, seed: PerTrialSampler(functools.partial(_QMC, entropy(seed) % 2**32), seed),
    "brute-force": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.BruteForceSampler(seed=s), seed),
    "grid": _grid,
}


def make_sampler(name: str | BaseSampler, problem: Problem, seed: int | None) -> BaseSampler:
    """The sampler called `name`, such as `budget`, `tpe` or `tpe+repair`; an Optuna sampler is returned as it is.

    Raises:
        ConfigError: no such sampler.
        MissingDependency: it needs a package that is not installed.
    """
    if isinstance(name, BaseSampler):
        return name
    bare = name.removesuffix(REPAIR)
    if bare not in SAMPLERS:
        raise ConfigError(f"no sampler '{name}'{suggestion(bare, SAMPLERS)}; each may be followed by {REPAIR}")
    sampler = SAMPLERS[bare](problem, seed)
    return RepairedSampler(sampler, problem, seed) if name.endswith(REPAIR) else sampler


def entropy(seed: int | None) -> int:
    """What all random numbers of a sampler are derived from; other ones each time for None."""
    return np.random.SeedSequence(seed).entropy


def derived(seed: int, number: int) -> int:
    """The seed of one trial, or of one generation."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class PerTrialSampler(BaseSampler):
    """A sampler of Optuna that is made anew for each trial, with a seed of its own.

    Optuna's carry random numbers, and what they fitted, from trial to trial, and a process that is killed loses both. Made
    anew, a proposal depends on the seed, the trial's number and the other trials alone.

    Args:
        make: the sampler, from a seed.
        seed: of all of them; None for other ones each time.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int | None) -> None:
        self.make, self.entropy = make, entropy(seed)
        self._make_for(0)

    def _make_for(self, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._number, self._sampler = number, self.make(derived(self.entropy, number))

    def __str__(self) -> str:
        return str(self._sampler)

    def of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._make_for(trial.number)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.of(trial).sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self.entropy = entropy(None)
        self._make_for(self._number)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._number = -1  # a trial that is asked for again begins anew
        self.of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.of(trial).after_trial(study, trial, state, values)


class RepairedSampler(BaseSampler):
    """Another sampler, each of whose proposals is replaced by the nearest architecture within the budget."""

    def __init__(self, base: BaseSampler, problem: Problem, seed: int | None = None) -> None:
        self.base, self.problem = base, problem
        self._entropy = entropy(seed)

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
        for slot, distribution in search_space.items():
            if slot not in params:
                params[slot] = self.base.sample_independent(study, trial, slot, distribution)
        space = self.problem.space
        codes = space.encode(space.architecture({slot: params[slot] for slot in space.slots}))
        rng = np.random.default_rng([self._entropy, trial.number])
        return space.decode(repair(self.problem, codes, rng)).choices

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
