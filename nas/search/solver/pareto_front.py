"""Exact Pareto fronts of a score against one cost: whole, by dynamic programming over the sites, or bound by bound."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.costs import Budget, CostModel, Costs
from nas.costs.budget import QUANTITIES, bound_text, key_name
from nas.errors import BudgetError, ConfigError, suggestion
from nas.search.constraints import Constraints
from nas.search.exact import Solution, TimeLimitError, infeasible, solve
from nas.search.problem import Pairs, Problem, Scores, SumBound
from nas.search.solver.program import Program
from nas.spaces import SearchSpace

AGAINST = {name: column for name, column in QUANTITIES.items() if name != "generation"}


def pareto(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
    scores: Scores,
    against: str = "latency",
    budget: Budget | None = None,
    pairs: Pairs | None = None,
    points: int = 20,
    constraints: Constraints | None = None,
) -> pd.DataFrame:
    """The Pareto front of score against one cost.

    With additive scores, no budget and no counts it is the complete front: sites are merged one by one, and dominated
    partial architectures dropped (Nemhauser and Ullmann, 1969). Otherwise `points` of it: the exact optimum under bounds
    on the cost that are spread evenly between the cheapest architecture and the best one.

    Args:
        cost: a cost model, or one by each device's name.
        against: latency, memory or params; with several devices the largest, or `latency@pixel` for one of them.

    Returns:
        Columns score, latency_ms, memory_mb, params (and those of each device, if there are several), proved and one per
        slot; sorted by the cost.

    Raises:
        BudgetError: no architecture meets the budget.
        TableError: the table lacks a cost that is bounded or plotted against.
        ConfigError: `against` is none of latency, memory, params; or as `optimum`.
    """
    problem = Problem.build(space, cost, budget, constraints)
    key = _cost_key(problem, against, "pareto: against")
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    one_device = len(problem.devices) == 1 or "@" in key
    if interactions is None and not problem.budget.bounds() and not problem.counts and one_device:
        codes, proved = _whole(problem, utilities, key), np.array(True)
    else:
        found = [row.found for row in _sweep(problem, utilities, interactions, key, None, points) if row.found]
        codes = np.array([problem.codes(solution.columns) for solution in found])
        proved = np.array([solution.proved for solution in found])
    return _front(_frame(problem, codes, utilities, interactions).assign(proved=proved), key, space)


def sweep(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
    scores: Scores,
    over: str = "latency",
    bounds: Sequence[float] | None = None,
    points: int = 9,
    budget: Budget | None = None,
    pairs: Pairs | None = None,
    constraints: Constraints | None = None,
    time_limit_s: float = 60.0,
) -> pd.DataFrame:
    """The exact optimum under each of several bounds on one cost, from tight to loose, with a proof.

    Args:
        over: the bounded cost, as `against` of `pareto`.
        bounds: in ms, MB or parameters; by default `points` of them, spread evenly between the cheapest architecture
            and the one that is best without the bound.
        budget: what holds beside it.
        time_limit_s: of each bound, after which the best one so far is returned unproved.

    Returns:
        One row per bound: limit, score, upper_bound (no architecture within the bound scores more), proved, the costs and
        one column per slot. Where no architecture is within the bound, the score is NaN and `proved` True.

    Raises:
        As `pareto`; BudgetError only if no architecture is within any of the bounds.
    """
    if bounds is not None and not (len(bounds) and all(0 < bound < np.inf for bound in bounds)):
        raise ConfigError(f"sweep: bounds: must be one or more positive numbers, not {list(bounds)}")
    problem = Problem.build(space, cost, budget, constraints)
    key = _cost_key(problem, over, "sweep: over")
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    rows = _sweep(problem, utilities, interactions, key, bounds, points, time_limit_s)
    found = [row.found for row in rows if row.found]
    if not found:
        loosest = max(row.limit for row in rows)
        raise BudgetError(
            f"sweep: no architecture meets {bound_text(key, loosest)}, the loosest of the bounds; the cheapest one needs "
            f"{bound_text(key, _least_cost(problem, key))}: raise the bounds"
        )
    frame = _frame(problem, np.array([problem.codes(s.columns) for s in found]), utilities, interactions)
    frame.index = pd.Index([i for i, row in enumerate(rows) if row.found])
    head = pd.DataFrame(
        {
            "limit": [row.limit for row in rows],
            "upper_bound": [row.found.bound if row.found else np.nan for row in rows],
            "proved": [row.found.proved if row.found else True for row in rows],
        }
    )
    frame = frame.reindex(head.index)
    return pd.concat(
        [head[["limit"]], frame[["score"]], head[["upper_bound", "proved"]], frame.drop(columns="score")], axis=1
    )


@dataclass(frozen=True)
class _Row:
    """The solution under one bound; None if there is none."""

    limit: float
    found: Solution | None


def _sweep(
    problem: Problem,
    utilities: np.ndarray,
    interactions: np.ndarray | None,
    key: str,
    bounds: Sequence[float] | None,
    points: int,
    time_limit_s: float = 60.0,
) -> list[_Row]:
    """From tight to loose. A solution that is within the next tighter bound too is the best one there, with its proof."""
    if bounds is None:
        best = solve(problem, utilities, interactions, time_limit_s=time_limit_s)
        if best is None:
            raise infeasible(problem)
        bounds = _spread(problem, key, best, points)
    rows: list[_Row] = []
    looser: Solution | None = None
    for limit in sorted(bounds, reverse=True):
        if looser is None or _cost(problem, key, looser) > limit:
            budget = problem.budget.with_bound(key, min(limit, problem.budget.bounds().get(key, limit)))
            tighter = Problem.build(problem.space, problem.cost, budget, problem.constraints)
            looser = solve(tighter, utilities, interactions, time_limit_s=time_limit_s)
        rows.append(_Row(limit, looser))
        if looser is None:
            rows += [_Row(tight, None) for tight in sorted(bounds, reverse=True)[len(rows) :]]
            break
    return rows[::-1]


def _spread(problem: Problem, key: str, best: Solution, points: int) -> list[float]:
    """Bounds between the least cost of any architecture and that of the best one."""
    if points < 2:
        raise ConfigError(f"points: must be at least 2, not {points}")
    low, high = _least_cost(problem, key), _cost(problem, key, best)
    return [float(bound) for bound in np.linspace(max(min(low, high), 1e-12), max(high, 1e-12), points)]


def _cost(problem: Problem, key: str, found: Solution) -> float:
    return float(problem.cost.predict_many(problem.codes(found.columns)[None])[key].iloc[0])


def _least_cost(problem: Problem, key: str) -> float:
    """Of the architectures within the budget."""
    bounds = problem.bounds_on(key, 1.0)
    scale = max(
        1e-9, *(float(np.abs(b.values if isinstance(b, SumBound) else b.weights + b.peak).max()) for b in bounds)
    )
    program = Program.of(problem, np.zeros(len(problem.slot)))
    program.bound(problem.bounds_on(key, scale), program.variables(1, -1.0, 0.0, np.inf)[0])
    while True:
        values, _, done = program.maximize(60.0)
        if values is None:
            raise (
                infeasible(problem)
                if done
                else TimeLimitError(f"the least {key_name(key)} was not found in time; give the bounds")
            )
        columns = program.columns(values)
        if problem.feasible(problem.codes(columns)[None])[0]:
            return _cost(problem, key, Solution(columns, 0.0, 0.0, True))
        program.cut(columns)  # exceeds a bound by less than HiGHS' tolerance


def _cost_key(problem: Problem, text: str, where: str) -> str:
    """`latency_ms@pixel` for `latency@pixel`.

    Raises:
        ConfigError: an unknown cost or device.
        TableError: the table does not have it.
    """
    name, _, device = text.partition("@")
    if name not in AGAINST:
        raise ConfigError(f"{where} '{name}'{suggestion(name, AGAINST)}")
    known = [own.name for own in problem.devices if own.name]
    if device and device not in known:
        raise ConfigError(f"{where} '{text}': unknown device '{device}'{suggestion(device, known) if known else ''}")
    if name == "memory":
        for model_name, model in problem.cost.models.items():
            if device in ("", model_name):
                model.check_memory()
    return f"{AGAINST[name]}@{device}" if device else AGAINST[name]


def _whole(problem: Problem, utilities: np.ndarray, key: str) -> np.ndarray:
    column, _, name = key.partition("@")
    device = next(own for own in problem.devices if name in ("", own.name))
    if column == "latency_ms":
        return _merge(problem, utilities, device.latency_ms, problem.allowed)
    if column == "params":
        return _merge(problem, utilities, device.params, problem.allowed)
    # memory = weights + the highest peak: one front of weights for each level that the highest peak can have
    lowest = max(problem.least(device.peak_mb).max(), device.base[3])
    levels = np.unique(np.maximum(device.peak_mb[problem.allowed], lowest))
    fronts = [
        _merge(problem, utilities, device.weights_mb, problem.allowed & (device.peak_mb <= level)) for level in levels
    ]
    return np.concatenate(fronts)


def _merge(problem: Problem, utilities: np.ndarray, costs: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Codes of the front of summed utilities against summed costs: `(N, slots)`."""
    index = {slot: i for i, slot in enumerate(problem.space.slots)}
    total_cost, total_score, codes = np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.int8)
    order: list[int] = []
    for group in problem.space.slot_groups:
        slots = [index[slot] for slot in group]
        order += slots
        joint = _canonical_choices(problem, slots, allowed)
        cost = (total_cost[:, None] + costs[joint].sum(1)).ravel()
        score = (total_score[:, None] + utilities[joint].sum(1)).ravel()
        ranked = np.lexsort((-score, cost))
        ahead = np.concatenate([[-np.inf], np.maximum.accumulate(score[ranked])[:-1]])
        kept = ranked[score[ranked] > ahead]
        parent, choice = np.divmod(kept, len(joint))
        total_cost, total_score = cost[kept], score[kept]
        codes = np.concatenate([codes[parent], (joint - problem.start[slots])[choice].astype(codes.dtype)], axis=1)
    return np.asarray(codes[:, np.argsort(order)])


def _canonical_choices(problem: Problem, slots: list[int], allowed: np.ndarray) -> np.ndarray:
    """Every canonical combination of columns at one site: `(combinations, its slots)`."""
    options = [np.flatnonzero(allowed[problem.start[i] : problem.start[i + 1]]) + problem.start[i] for i in slots]
    joint = np.array(list(itertools.product(*options)), dtype=np.intp).reshape(-1, len(slots))
    fits = np.ones(len(joint), dtype=bool)
    for a, b in itertools.combinations(range(len(slots)), 2):
        fits &= ~problem.conflicts[joint[:, a], joint[:, b]]
    return np.asarray(joint[fits])


def _frame(problem: Problem, codes: np.ndarray, utilities: np.ndarray, interactions: np.ndarray | None) -> pd.DataFrame:
    """Score, costs and choices of codes `(N, slots)`."""
    columns = problem.columns(codes)
    score = utilities[columns].sum(1)
    if interactions is not None:
        score = score + interactions[columns[:, :, None], columns[:, None, :]].sum((1, 2)) / 2
    frame = problem.cost.predict_many(codes)
    frame = frame[[column for column in frame if not column.startswith("generation_s")]]
    frame.insert(0, "score", score)
    names = {s: np.array(choices)[codes[:, i]] for i, (s, choices) in enumerate(problem.space.slots.items())}
    return pd.concat([frame, pd.DataFrame(names)], axis=1)


def _front(frame: pd.DataFrame, key: str, space: SearchSpace) -> pd.DataFrame:
    """The rows that none with a lower cost beats, sorted by cost."""
    frame = frame[[*(column for column in frame if column not in space.slots), *space.slots]]
    frame = frame.sort_values([key, "score"], ascending=[True, False], kind="stable")
    ahead = np.concatenate([[-np.inf], np.maximum.accumulate(frame["score"].to_numpy())[:-1]])
    return frame[frame["score"].to_numpy() > ahead].reset_index(drop=True)
