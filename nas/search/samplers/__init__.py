"""Samplers by name: those of this library and of Optuna, each optionally repaired into the budget."""

from __future__ import annotations

from typing import Any

from optuna.samplers import BaseSampler

from nas.errors import ConfigError, suggestion
from nas.search.problem import Problem
from nas.search.samplers.budget import BudgetSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.optuna_samplers import OPTUNA_SAMPLERS, MakeSampler
from nas.search.samplers.repair import REPAIR, RepairedSampler

SAMPLERS: dict[str, MakeSampler] = {
    "budget": lambda problem, seed: BudgetSampler(**_searched(problem), seed=seed),
    "evolution": lambda problem, seed: EvolutionSampler(**_searched(problem), seed=seed),
    **OPTUNA_SAMPLERS,
}
"""Name -> `(problem, seed) -> sampler`."""


def _searched(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("space", "cost", "budget", "constraints")}


def make_sampler(name: str | BaseSampler, problem: Problem, seed: int | None) -> BaseSampler:
    """The sampler of a name such as `budget`, `tpe` or `tpe+repair`, or a sampler object itself.

    Proposals of Optuna's samplers are repaired into the constraints, if there are any, and with `+repair` into the budget
    as well.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: it needs a package that is not installed.
    """
    if isinstance(name, BaseSampler):
        optunas = type(name).__module__.partition(".")[0] == "optuna"
        return RepairedSampler(name, _without_budget(problem), seed) if optunas and problem.constraints else name
    bare = name.removesuffix(REPAIR)
    if bare not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{name}'{suggestion(bare, SAMPLERS)}; any name may be followed by {REPAIR}")
    sampler = SAMPLERS[bare](problem, seed)
    if name.endswith(REPAIR):
        return RepairedSampler(sampler, problem, seed)
    if bare in OPTUNA_SAMPLERS and problem.constraints:
        return RepairedSampler(sampler, _without_budget(problem), seed)
    return sampler


def _without_budget(problem: Problem) -> Problem:
    return Problem.build(problem.space, problem.cost, None, problem.constraints)
