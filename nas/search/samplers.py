"""Samplers by name: this library's own, and every one of Optuna's, each optionally with repair into the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from nas.errors import ConfigError, MissingDependency, suggestion
from nas.search.evolution import EvolutionSampler
from nas.search.placement import distributions
from nas.search.problem import Problem
from nas.search.repair import repair
from nas.search.sampler import BudgetSampler

REPAIR = "+repair"
GRID_LIMIT = 10_000


def _cmaes(problem: Problem, seed: int | None) -> BaseSampler:
    try:
        import cmaes  # noqa: F401
    except ImportError:
        raise MissingDependency("sampler 'cmaes' needs the package cmaes: pip install cmaes") from None
    return optuna.samplers.CmaEsSampler(seed=seed)


def _grid(problem: Problem, seed: int | None) -> BaseSampler:
    if problem.space.size > GRID_LIMIT:
        raise ConfigError(
            f"sampler 'grid' lists every combination, and '{problem.space.name}' has {problem.space.size:.3g}; "
            f"above {GRID_LIMIT} take another sampler"
        )
    return optuna.samplers.GridSampler({s: list(c) for s, c in problem.space.slots.items()}, seed=seed)


SAMPLERS: dict[str, Callable[[Problem, int | None], BaseSampler]] = {
    "budget": lambda problem, seed: BudgetSampler(problem.space, problem.cost, problem.budget, seed=seed),
    "evolution": lambda problem, seed: EvolutionSampler(problem.space, problem.cost, problem.budget, seed=seed),
    "random": lambda problem, seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda problem, seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda problem, seed: optuna.samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda problem, seed: optuna.samplers.NSGAIIISampler(seed=seed),
    "gp": lambda problem, seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": _cmaes,
    "qmc": lambda problem, seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
    "brute-force": lambda problem, seed: optuna.samplers.BruteForceSampler(seed=seed),
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


class RepairedSampler(BaseSampler):
    """Another sampler, each of whose proposals is replaced by the nearest architecture within the budget."""

    def __init__(self, base: BaseSampler, problem: Problem, seed: int | None = None) -> None:
        self.base, self.problem = base, problem
        self._rng = np.random.default_rng(seed)

    def __str__(self) -> str:
        return f"{self.base}{REPAIR}"

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(distributions(self.problem))

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
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
        return space.decode(repair(self.problem, codes, self._rng)).choices

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self.base.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self.base.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        state: optuna.trial.TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.base.after_trial(study, trial, state, values)
