"""Architecture search: exact solver, samplers, studies and evaluators; Optuna and SciPy are imported at first use."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "BudgetSampler": "samplers.budget",
    "CommandEvaluator": "evaluators",
    "Constraints": "constraints",
    "EvaluatorError": "evaluators",
    "EvolutionSampler": "samplers.evolution",
    "GradNorm": "evaluators.proxies",
    "ImportedEvaluator": "evaluators",
    "Optimum": "exact",
    "Result": "result",
    "ScoreTable": "evaluators",
    "VBench": "evaluators.vbench",
    "binding": "solver.bound_effects",
    "explain": "explanation",
    "reevaluate_top_k": "study",
    "open_storage": "storage",
    "optimum": "exact",
    "pareto": "solver.pareto_front",
    "parse_evaluator": "evaluators",
    "run": "study",
    "shortlist": "exact",
    "sweep": "solver.pareto_front",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"nas.search.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'nas.search' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
