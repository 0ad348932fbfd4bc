"""Optuna's samplers, made reproducible across interruptions: nothing depends on state that a killed process loses."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.samplers._ga import BaseGASampler
from optuna.trial import FrozenTrial, TrialState

from nas.errors import ConfigError, MissingDependency
from nas.search.problem import Problem
from nas.search.samplers.base import derive_seed, resolve_seed

GRID_LIMIT = 10_000
"""Combinations up to which the sampler `grid` may be used."""

MakeSampler = Callable[[Problem, "int | None"], BaseSampler]


class PerTrialSampler(BaseSampler):
    """Creates an Optuna sampler anew for each trial, with a seed derived from the trial's number.

    Optuna's samplers keep random state from trial to trial, which a killed process loses. Created anew, a proposal
    depends on the seed, the trial's number and the other trials alone.

    Args:
        make: seed -> sampler.
        seed: the base seed; None for a random one.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int | None) -> None:
        self.make, self._seed = make, resolve_seed(seed)
        self._make_for(0)

    def _make_for(self, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._number, self._sampler = number, self.make(derive_seed(self._seed, number))

    def __str__(self) -> str:
        return str(self._sampler)

    def _sampler_for(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._make_for(trial.number)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler_for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler_for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler_for(trial).sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._seed = resolve_seed(None)
        self._make_for(self._number)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._number = -1  # a repeated trial gets a new sampler, too
        self._sampler_for(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler_for(trial).after_trial(study, trial, state, values)


class _ReproducibleParents(BaseGASampler):
    """Mixin: the parents of a generation depend on the finished trials and the seed alone.

    Optuna draws them once, in the first trial of a generation, and stores them in the study in another order.
    """

    _rng: Any

    def __init__(self, seed: int, generation_seed: int, parents: dict[int, list[int]]) -> None:
        super().__init__(seed=seed)  # type: ignore[call-arg]  # Optuna's class is next in the MRO
        self._trial_seed, self._generation_seed, self._parents = seed, generation_seed, parents

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        if generation == 0:
            return []
        if generation not in self._parents:
            earlier = self.get_parent_population(study, generation - 1)  # before this generation's draws begin
            self._parents[generation - 1] = [trial.number for trial in earlier]
            self._rng.rng.seed(derive_seed(self._generation_seed, generation))
            self._parents[generation] = [trial.number for trial in self.select_parent(study, generation)]
            self._rng.rng.seed(self._trial_seed)
        chosen = set(self._parents[generation])
        return [trial for trial in study._get_trials(deepcopy=False, use_cache=True) if trial.number in chosen]


class _NSGAII(_ReproducibleParents, optuna.samplers.NSGAIISampler):
    pass


class _NSGAIII(_ReproducibleParents, optuna.samplers.NSGAIIISampler):
    pass


class _QMC(optuna.samplers.QMCSampler):
    """Proposes the point of the sequence at the trial's number; Optuna counts points by a separate write to the study."""

    def __init__(self, seed: int, trial_seed: int) -> None:
        independent = optuna.samplers.RandomSampler(seed=trial_seed)
        super().__init__(seed=seed, independent_sampler=independent, warn_independent_sampling=False)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._sample_id = trial.number
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._sample_id


def _genetic(kind: type[_ReproducibleParents]) -> MakeSampler:
    def make(problem: Problem, seed: int | None) -> BaseSampler:
        parents: dict[int, list[int]] = {}  # trial numbers by generation, for complete generations
        generation_seed = resolve_seed(seed)
        return PerTrialSampler(lambda trial_seed: kind(trial_seed, generation_seed, parents), seed)

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
            f"sampler 'grid' enumerates all combinations, and '{problem.space.name}' has {problem.space.size:.3g}; "
            f"above {GRID_LIMIT} use another sampler"
        )
    slots, order = {s: list(c) for s, c in problem.space.slots.items()}, resolve_seed(seed) % 2**32

    def make(trial_seed: int) -> BaseSampler:
        sampler = optuna.samplers.GridSampler(slots, seed=order)  # the same order of combinations for all trials
        sampler._rng.rng.seed(trial_seed)
        return sampler

    return PerTrialSampler(make, seed)


OPTUNA_SAMPLERS: dict[str, MakeSampler] = {
    "random": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.RandomSampler(seed=s), seed),
    "tpe": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.TPESampler(seed=s), seed),
    "nsga2": _genetic(_NSGAII),
    "nsga3": _genetic(_NSGAIII),
    "gp": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.GPSampler(seed=s), seed),
    "cmaes": _cmaes,
    "qmc": lambda problem, seed: PerTrialSampler(functools.partial(_QMC, resolve_seed(seed) % 2**32), seed),
    "brute-force": lambda problem, seed: PerTrialSampler(lambda s: optuna.samplers.BruteForceSampler(seed=s), seed),
    "grid": _grid,
}
