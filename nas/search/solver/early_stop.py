"""When a search may end early: no better architecture exists than the best one so far."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna

from nas.errors import ConfigError, shown
from nas.search.evaluators import ScoreTable
from nas.search.exact import solve
from nas.search.problem import Problem
from nas.search.trial_history import TrialHistory
from nas.search.workers import Evaluator

TOLERANCE = 1e-9
"""Relative difference to the bound at which a score counts as reaching it."""

SMALL = 4096
"""Combinations of the allowed choices up to which it is checked whether all were evaluated."""


def early_stop_rule(study: optuna.Study, problem: Problem, evaluator: Evaluator) -> Callable[[], bool]:
    """Whether the best trial within the budget reaches an upper bound of the score, or all architectures were evaluated.

    The bound is the exact solver's where the evaluator is a score table, otherwise the evaluator's attribute
    `upper_bound`, a number, if it has one.

    Raises:
        ConfigError: `upper_bound` is no finite number.
    """
    bound = _upper_bound(problem, evaluator)
    sizes = np.add.reduceat(problem.allowed.astype(float), problem.start[:-1])
    small = float(np.log(sizes).sum()) <= math.log(SMALL)

    def is_best_possible() -> bool:
        history = TrialHistory.of(study, problem.space)
        if len(history.codes) == 0:
            return False
        within = problem.feasible(history.codes)
        if not within.any():
            return False
        best = float(history.values[within, 0].max())
        if best >= bound - TOLERANCE * max(1.0, abs(bound)):
            return True
        return small and len(history.pending) == 0 and _exhausted(problem, history)

    return is_best_possible


def _upper_bound(problem: Problem, evaluator: Evaluator) -> float:
    if isinstance(evaluator, ScoreTable):
        found = solve(problem, problem.utilities(evaluator.scores), problem.interactions(evaluator.pairs))
        return math.inf if found is None else found.bound
    bound = getattr(evaluator, "upper_bound", math.inf)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound):
        raise ConfigError(f"evaluator: upper_bound: must be a number that no score exceeds, not {shown(bound)}")
    return float(bound)


def _exhausted(problem: Problem, history: TrialHistory) -> bool:
    taken = np.unique(np.concatenate([history.codes, history.failed]), axis=0)
    within = taken[problem.feasible(taken)]
    exclude = [problem.columns(codes) for codes in within]
    return solve(problem, np.zeros(len(problem.slot)), exclude=exclude) is None
