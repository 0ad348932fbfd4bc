"""Samplers by name: those of this library and of Optuna, each optionally repaired into the budget."""

from __future__ import annotations

from optuna.samplers import BaseSampler

from nas.errors import ConfigError, suggestion
from nas.search.problem import Problem
from nas.search.samplers.budget import BudgetSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.optuna_samplers import OPTUNA_SAMPLERS, MakeSampler
from nas.search.samplers.repair import REPAIR, RepairedSampler

SAMPLERS: dict[str, MakeSampler] = {
    "budget": lambda problem, seed: BudgetSampler(problem.space, problem.cost, problem.budget, seed=seed),
    "evolution": lambda problem, seed: EvolutionSampler(problem.space, problem.cost, problem.budget, seed=seed),
    **OPTUNA_SAMPLERS,
}
"""Name -> `(problem, seed) -> sampler`."""


def make_sampler(name: str | BaseSampler, problem: Problem, seed: int | None) -> BaseSampler:
    """The sampler of a name such as `budget`, `tpe` or `tpe+repair`; a sampler object is returned unchanged.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: it needs a package that is not installed.
    """
    if isinstance(name, BaseSampler):
        return name
    bare = name.removesuffix(REPAIR)
    if bare not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{name}'{suggestion(bare, SAMPLERS)}; any name may be followed by {REPAIR}")
    sampler = SAMPLERS[bare](problem, seed)
    return RepairedSampler(sampler, problem, seed) if name.endswith(REPAIR) else sampler
