"""Exact Pareto fronts of a score against one cost, by dynamic programming over the sites."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from nas.costs import Budget, CostModel
from nas.errors import ConfigError, suggestion
from nas.search.exact import infeasible, solve
from nas.search.problem import Pairs, Problem, Scores
from nas.spaces import SearchSpace

AGAINST = {"latency": "latency_ms", "memory": "memory_mb", "params": "params"}


def pareto(
    space: SearchSpace,
    cost: CostModel,
    scores: Scores,
    against: str = "latency",
    budget: Budget | None = None,
    pairs: Pairs | None = None,
    points: int = 20,
) -> pd.DataFrame:
    """The Pareto front of score against one cost.

    With additive scores and no budget it is the complete front: sites are merged one by one, and dominated partial
    architectures dropped (Nemhauser and Ullmann, 1969). With pairs or a budget, `points` of it: the exact optimum under
    bounds on the cost that are spread evenly between the cheapest architecture and the best one.

    Returns:
        Columns score, latency_ms, memory_mb, params, proved and one per slot; sorted by the cost.

    Raises:
        BudgetError: no architecture meets the budget.
        TableError: the table lacks a cost that is bounded or plotted against.
        ConfigError: `against` is none of latency, memory, params.
    """
    if against not in AGAINST:
        raise ConfigError(f"pareto: against '{against}'{suggestion(against, AGAINST)}")
    if against == "memory":
        cost.check_memory()
    problem = Problem.build(space, cost, budget)
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    if interactions is None and not problem.budget.bounds():
        codes, proved = _whole(problem, utilities, against), np.array(True)
    else:
        codes, proved = _some(problem, utilities, interactions, AGAINST[against], points)
    return _frame(problem, codes, utilities, interactions, AGAINST[against], proved)


def _whole(problem: Problem, utilities: np.ndarray, against: str) -> np.ndarray:
    if against == "latency":
        return _merge(problem, utilities, problem.latency_ms, problem.allowed)
    if against == "params":
        return _merge(problem, utilities, problem.params, problem.allowed)
    # memory = weights + the highest peak: one front of weights for each level that the highest peak can have
    lowest = max(problem.least(problem.peak_mb).max(), problem.base[3])
    levels = np.unique(np.maximum(problem.peak_mb[problem.allowed], lowest))
    fronts = [
        _merge(problem, utilities, problem.weights_mb, problem.allowed & (problem.peak_mb <= level)) for level in levels
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


def _some(
    problem: Problem, utilities: np.ndarray, interactions: np.ndarray | None, name: str, points: int
) -> tuple[np.ndarray, np.ndarray]:
    best = solve(problem, utilities, interactions)
    cheapest = _cheapest(problem, name)
    if best is None or cheapest is None:
        raise infeasible(problem)
    ends = problem.cost.predict_many(np.stack([problem.codes(x) for x in (cheapest, best.columns)]))[name].to_numpy()
    codes, proved = [problem.codes(best.columns)], [best.proved]
    for bound in np.linspace(ends[0], ends[1], points)[:-1]:
        tighter = Problem.build(
            problem.space, problem.cost, replace(problem.budget, **{name: float(max(bound, 1e-12))})
        )
        found = solve(tighter, utilities, interactions)
        if found is not None:
            codes.append(problem.codes(found.columns))
            proved.append(found.proved)
    return np.array(codes), np.array(proved)


def _cheapest(problem: Problem, name: str) -> np.ndarray | None:
    if name == "latency_ms":
        found = solve(problem, -problem.latency_ms)
    elif name == "params":
        found = solve(problem, -problem.params)
    else:
        levels = np.unique(np.maximum(problem.peak_mb[problem.allowed], problem.base[3]))
        return _least_memory(problem, levels)
    return None if found is None else found.columns


def _least_memory(problem: Problem, levels: np.ndarray) -> np.ndarray | None:
    """The least weights below each level that the highest peak can have; the least total among them."""
    best, least = None, np.inf
    for level in levels:
        below = replace(problem, allowed=problem.allowed & (problem.peak_mb <= level))
        if not np.logical_or.reduceat(below.allowed, below.start[:-1]).all():
            continue
        found = solve(below, -problem.weights_mb)
        if found is not None and level - found.score < least:
            best, least = found.columns, level - found.score
        if level + problem.least(problem.weights_mb).sum() >= least:
            break
    return best


def _frame(
    problem: Problem,
    codes: np.ndarray,
    utilities: np.ndarray,
    interactions: np.ndarray | None,
    name: str,
    proved: np.ndarray,
) -> pd.DataFrame:
    columns = problem.columns(codes)
    score = utilities[columns].sum(1)
    if interactions is not None:
        score = score + interactions[columns[:, :, None], columns[:, None, :]].sum((1, 2)) / 2
    frame = problem.cost.predict_many(codes).assign(score=score, proved=proved)
    names = {s: np.array(choices)[codes[:, i]] for i, (s, choices) in enumerate(problem.space.slots.items())}
    frame = pd.concat([frame[["score", "latency_ms", "memory_mb", "params", "proved"]], pd.DataFrame(names)], axis=1)
    frame = frame.sort_values([name, "score"], ascending=[True, False], kind="stable")
    ahead = np.concatenate([[-np.inf], np.maximum.accumulate(frame["score"].to_numpy())[:-1]])
    return frame[frame["score"].to_numpy() > ahead].reset_index(drop=True)
