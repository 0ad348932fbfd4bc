"""Into the budget: the feasible architecture nearest to one that a sampler without a notion of budgets proposed."""

from __future__ import annotations

import numpy as np

from nas.search.exact import infeasible, solve
from nas.search.problem import Problem


def repair(problem: Problem, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The feasible codes `(slots,)` that keep as many of the given choices as can be kept.

    Which ones, where there is a choice, and what the others become, is random: each kept choice is worth about 1, each
    other choice a random amount up to 1 / slots.

    Raises:
        BudgetError: no architecture meets the budget.
    """
    codes = np.asarray(codes, dtype=np.intp)
    if problem.feasible(codes[None])[0]:
        return codes
    utilities = rng.uniform(0.0, 1.0 / problem.slots, len(problem.slot))
    utilities[problem.columns(codes)] += rng.uniform(1.0, 1.5, problem.slots)
    nearest = solve(problem, utilities)
    if nearest is None:
        raise infeasible(problem)
    return problem.codes(nearest.columns)
