"""Exact solver: the best architectures under a budget and constraints, with a proof, as 0-1 programs (`nas.search.solver.program`)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nas.costs import Budget, Cost, CostModel, Costs
from nas.costs.devices.usage import slack, usage
from nas.errors import BudgetError, ConfigError, NasError, suggestion
from nas.progress import progress
from nas.search.constraints import Constraints
from nas.search.problem import Pairs, Problem, Scores
from nas.search.solver.enumeration import Enumeration
from nas.search.solver.program import Program
from nas.spaces import Architecture, SearchSpace

GAP = 1e-7
"""Relative optimality gap, per slot, up to which a solution counts as proved."""

OBJECTIVES = ("score", "slack")


class TimeLimitError(NasError, TimeoutError):
    """The solver found no feasible architecture within its time limit."""


@dataclass(frozen=True)
class Optimum:
    """A solution of the exact solver.

    Attributes:
        architecture: the best architecture found within the budget.
        score: its score.
        bound: upper bound on the score of any architecture within the budget.
        proved: whether the score equals the bound, up to `GAP` (with the objective `slack`, less the score given up, and
            whether none of these scores has more slack).
        slack: the share of its limit that the tightest bound of any device has left; 1 without a budget.
    """

    architecture: Architecture
    score: float
    bound: float
    proved: bool
    slack: float = 1.0

    @property
    def gap(self) -> float:
        """Upper bound minus score."""
        return max(self.bound - self.score, 0.0)


def optimum(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
    scores: Scores,
    budget: Budget | None = None,
    pairs: Pairs | None = None,
    time_limit_s: float = 60.0,
    constraints: Constraints | None = None,
    objective: Literal["score", "slack"] = "score",
    give: float = 0.0,
) -> Optimum:
    """The architecture with the greatest score within the budget, on every device.

    The score of an architecture is the sum of `scores[slot][choice]` over its slots and of
    `pairs[slot, other][choice, other_choice]` over pairs of slots; anything else scores 0.

    Args:
        cost: a cost model, or one by each device's name.
        objective: `slack` takes, of the architectures with the greatest score, the one farthest from its tightest bound.
        give: how much less than the greatest score an architecture may score for more slack.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one and its costs.
        ConfigError: no architecture satisfies the constraints, or one cannot be read.
        SpaceError: a slot or choice that the space does not have.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective '{objective}'{suggestion(objective, OBJECTIVES)}")
    if not 0 <= give < np.inf:
        raise ConfigError(f"give: must be 0 or more, not {give}")
    if give and objective != "slack":
        raise ConfigError("give: is for the objective 'slack'")
    problem = Problem.build(space, cost, budget, constraints)
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    best = solve(problem, utilities, interactions, time_limit_s=time_limit_s)
    if best is None:
        raise infeasible(problem)
    if objective == "slack":
        best = _most_slack(problem, utilities, interactions, best, give, time_limit_s)
    return _optimum(problem, best)


def shortlist(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
    scores: Scores,
    budget: Budget | None,
    k: int,
    pairs: Pairs | None = None,
    time_limit_s: float = 60.0,
    constraints: Constraints | None = None,
    distance: int = 1,
) -> list[Optimum]:
    """The `k` best architectures, best first; fewer when fewer are within the budget, or found within the time limit.

    Each is the best of those that differ from all before it in at least `distance` slots. Additive scores are an
    approximation: evaluate the best few before choosing one.

    Raises:
        BudgetError, SpaceError, ConfigError: as `optimum`.
    """
    if k < 1:
        raise ConfigError(f"k: must be 1 or more, not {k}")
    problem = Problem.build(space, cost, budget, constraints)
    if not 1 <= distance <= problem.slots:
        raise ConfigError(f"distance: must be 1 to {problem.slots}, the number of slots, not {distance}")
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    found: list[Solution] = []
    with progress(None, "shortlist", k, unit="architecture", delay_s=1) as bar:
        while len(found) < k:
            taken = [solution.columns for solution in found]
            try:
                best = solve(problem, utilities, interactions, taken, time_limit_s, distance)
            except TimeLimitError:
                if not found:
                    raise
                break
            if best is None:
                break
            found.append(best)
            bar.update()
    if not found:
        raise infeasible(problem)
    return [_optimum(problem, solution) for solution in found]


def _optimum(problem: Problem, found: Solution) -> Optimum:
    architecture = problem.space.decode(problem.codes(found.columns))
    left = slack(problem.cost.predict(architecture), problem.budget) if problem.budget.bounds() else 1.0
    return Optimum(architecture, found.score, found.bound, found.proved, left)


@dataclass(frozen=True)
class Solution:
    """A result of `solve`: columns `(slots,)`, their score, an upper bound on all scores, and whether the two are equal."""

    columns: np.ndarray
    score: float
    bound: float
    proved: bool


def solve(
    problem: Problem,
    utilities: np.ndarray,
    interactions: np.ndarray | None = None,
    exclude: Iterable[np.ndarray] = (),
    time_limit_s: float = 60.0,
    distance: int = 1,
) -> Solution | None:
    """Maximize the sum of utilities `(D,)` and interactions `(D, D)` of the chosen columns within the budget.

    Args:
        exclude: architectures, as columns, from which the answer differs in at least `distance` slots.
        time_limit_s: after which the best one so far is returned unproved.

    Returns:
        None if no architecture is feasible.

    Raises:
        TimeLimitError: no feasible architecture was found within the time limit.
    """
    deadline = time.monotonic() + time_limit_s
    scale = _scale(utilities, interactions)
    program = Program.of(problem, utilities / scale, None if interactions is None else interactions / scale)
    for columns in exclude:
        program.cut(columns, distance)
    if interactions is None:
        best, done = Enumeration(program).maximize(time_limit_s)
        if done and best is None:
            return None
        if done and best is not None:
            score = score_of(best, utilities, None)
            return Solution(best, score, score, True)
    while True:
        values, bound, done = program.maximize(max(deadline - time.monotonic(), 0.01))
        if values is None and done:
            return None
        if values is None:
            raise TimeLimitError(f"no feasible architecture found within {time_limit_s:g} s; raise the time limit")
        columns = program.columns(values)
        if problem.feasible(problem.codes(columns)[None])[0]:
            break
        program.cut(columns)  # exceeds a bound by less than HiGHS' tolerance
    score = score_of(columns, utilities, interactions)
    bound = max(bound * scale, score)
    return Solution(columns, score, bound, bool(done and bound - score <= GAP * scale * problem.slots))


def _most_slack(
    problem: Problem,
    utilities: np.ndarray,
    interactions: np.ndarray | None,
    best: Solution,
    give: float,
    time_limit_s: float,
) -> Solution:
    """Of the architectures that score at most `give` less than the best, the one whose tightest bound is least used."""
    if not problem.bounds:
        return best
    deadline = time.monotonic() + time_limit_s
    scale = _scale(utilities, interactions)
    least = best.score - give - GAP * scale * problem.slots
    program = Program.of(
        problem, utilities / scale, None if interactions is None else interactions / scale, budget=False
    )
    program.require(least / scale)
    program.bound(problem.bounds, program.variables(1, -1.0, 0.0, 1.0)[0])
    while True:
        values, _, done = program.maximize(max(deadline - time.monotonic(), 0.01))
        if values is None:  # out of time
            return replace(best, proved=False)
        columns = program.columns(values)
        score = score_of(columns, utilities, interactions)
        if score >= least and problem.feasible(problem.codes(columns)[None])[0]:
            return Solution(columns, score, max(best.bound, score), best.proved and done)
        program.cut(columns)  # is outside by less than HiGHS' tolerance


def _scale(utilities: np.ndarray, interactions: np.ndarray | None) -> float:
    largest = 0.0 if interactions is None else np.abs(interactions).max()
    return float(max(np.abs(utilities).max(), largest, 1e-300))


def score_of(columns: np.ndarray, utilities: np.ndarray, interactions: np.ndarray | None) -> float:
    score = utilities[columns].sum()
    if interactions is not None:
        score += interactions[np.ix_(columns, columns)].sum() / 2
    return float(score)


def infeasible(problem: Problem) -> NasError:
    """The error for a budget and constraints that no architecture meets.

    It names the cheapest architecture, its costs and the bounds that it breaks; or a constraint that no architecture
    satisfies with the others.
    """
    name = problem.space.name
    runs = np.logical_and.reduce([device.runs for device in problem.devices])
    if not np.logical_or.reduceat(runs, problem.start[:-1]).all():
        where = "the device" if len(problem.devices) == 1 else "all devices"
        return BudgetError(
            f"budget: no architecture of '{name}' runs on {where} at all; "
            "every choice of some slot is infeasible in the table: offer it 'none'"
        )
    nearest = _cheapest(problem)
    if nearest is None:
        return _unsatisfiable(problem, runs)
    costs = problem.cost.predict(nearest)
    broken = [text for text in dict.fromkeys(usage(costs, problem.budget).query("used > 1")["bound"])]
    among = f" with {problem.constraints}" if problem.constraints else ""
    return BudgetError(
        f"budget: no architecture meets {problem.budget}{among}; the cheapest, {nearest}, costs "
        f"{costs_text(costs, problem.budget)}; raise {' and '.join(broken) or 'the bound it breaks'}"
    )


def _cheapest(problem: Problem) -> Architecture | None:
    """The architecture whose most exceeded bound is exceeded least; None if none satisfies the constraints."""
    program = Program.of(replace(problem, allowed=problem.permitted), np.zeros(len(problem.slot)), budget=False)
    program.bound(problem.bounds, program.variables(1, -1.0, 0.0, np.inf)[0])
    values, _, _ = program.maximize(60.0)
    return None if values is None else problem.space.decode(problem.codes(program.columns(values)))


def costs_text(costs: Cost, budget: Budget) -> str:
    """Latency, memory, parameters and, if it is bounded, the time of a clip; of each device if there are several."""
    if costs.devices:
        return "; ".join(f"{name}: {costs_text(own, budget.on(name))}" for name, own in costs.devices.items())
    clip = "" if budget.generation_s is None else f", {costs.generation_s:.4g} s a clip"
    return f"{costs.latency_ms:.4g} ms, {costs.memory_mb:.4g} MB, {costs.params} params{clip}"


def _unsatisfiable(problem: Problem, runs: np.ndarray) -> ConfigError:
    """The error for constraints that no architecture satisfies; it names one without which some do, if there is one."""
    constraints, space = problem.constraints, problem.space
    culprit = None
    for text in reversed(constraints.texts()):
        rest = constraints.without(text)
        permitted = rest.permitted(space) & runs
        relaxed = replace(problem, constraints=rest, counts=rest.counts(space), permitted=permitted, allowed=permitted)
        if Program.of(relaxed, np.zeros(len(problem.slot)), budget=False).maximize(60.0)[0] is not None:
            culprit = text
            break
    fix = f"without '{culprit}' there are some: drop or relax it" if culprit else "drop or relax some of them"
    return ConfigError(f"constraints: no architecture of '{space.name}' satisfies {constraints}; {fix}")
