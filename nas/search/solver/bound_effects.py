"""Which device's which bound binds: how much each bound of a budget costs in score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nas.costs import Budget, CostModel, Costs
from nas.costs.devices.usage import usage
from nas.search.constraints import Constraints
from nas.search.exact import infeasible, solve
from nas.search.problem import Pairs, Problem, Scores
from nas.spaces import SearchSpace

TOLERANCE = 1e-7
"""Difference of two optima, relative to the largest score of a choice, above which they count as different."""


def binding(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
    scores: Scores,
    budget: Budget,
    pairs: Pairs | None = None,
    constraints: Constraints | None = None,
    time_limit_s: float = 60.0,
) -> pd.DataFrame:
    """How much each bound of the budget costs in score, on each device that it holds on.

    A bound binds if without it, all others unchanged, a better architecture exists. Of two bounds that bind only
    together neither binds by itself; then both have a loss.

    Returns:
        One row per bound and device, those that cost most first: bound (as text), device (empty if there is only one,
        or for parameters that are the same on all), cost (of the best architecture), limit, used (cost / limit), gain
        (in score, without this bound), loss (in score, if this were the only bound), binds.

    Raises:
        BudgetError, ConfigError, SpaceError: as `optimum`.
    """
    problem = Problem.build(space, cost, budget, constraints)
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    tolerance = TOLERANCE * problem.slots * max(float(np.abs(utilities).max()), 1e-300)

    def best_under(bounds: dict[str, float]) -> float:
        relaxed = Problem.build(space, problem.cost, Budget.of(bounds), constraints)
        found = solve(relaxed, utilities, interactions, time_limit_s=time_limit_s)
        return -np.inf if found is None else found.score

    best = solve(problem, utilities, interactions, time_limit_s=time_limit_s)
    if best is None:
        raise infeasible(problem)
    first, *others = problem.devices
    same_params = all((own.params == first.params).all() and own.base[1] == first.base[1] for own in others)
    frame = usage(problem.cost.predict(space.decode(problem.codes(best.columns))), budget, same_params)
    limits = frame.groupby("key")["limit"].min().to_dict()  # of two bounds on one device the tighter
    unbounded = best_under({})
    frame["gain"], frame["loss"] = 0.0, 0.0
    for row in frame.itertuples():
        if row.limit == limits[row.key]:
            rest = {key: limit for key, limit in limits.items() if key != row.key}
            frame.loc[row.Index, "gain"] = best_under(rest) - best.score
            frame.loc[row.Index, "loss"] = unbounded - best_under({row.key: row.limit})
    amounts = frame[["gain", "loss"]]
    frame[["gain", "loss"]] = amounts.where(amounts > tolerance, 0.0)
    frame["binds"] = frame["gain"] > 0
    frame = frame.drop(columns="key").sort_values(["gain", "loss", "used"], ascending=False, kind="stable")
    return frame.reset_index(drop=True)


def explain_binding(frame: pd.DataFrame) -> str:
    """The result of `binding` in one sentence."""
    names = [
        f"{row.bound} on {row.device}" if row.device and "@" not in row.bound else row.bound
        for row in frame.itertuples()
    ]
    binds = [
        f"{name} ({row.used:.1%} used; without it the score is {row.gain:.4g} higher)"
        for name, row in zip(names, frame.itertuples())
        if row.binds
    ]
    if binds:
        return f"binding: {', '.join(binds)}"
    together = [name for name, loss in zip(names, frame["loss"]) if loss > 0]
    if together:
        return f"binding only together: {', '.join(together)}"
    return "no bound binds: no architecture of the space scores more"
