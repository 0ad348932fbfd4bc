"""The enumeration of the exact solver against HiGHS, which it replaces where scores add up."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from nas.costs import Budget, DeviceCosts
from nas.search import Constraints, optimum
from nas.search.exact import solve
from nas.search.problem import Problem
from nas.search.solver import enumeration
from nas.search.solver.program import Program
from nas.testing.samplers import random_search_instance


def both(problem, utilities):
    """The best scores by the enumeration and by HiGHS, and whether the enumeration proved its own."""
    columns, done = enumeration.Enumeration(Program.of(problem, utilities)).maximize(60.0)
    values, _, finished = Program.of(problem, utilities).maximize(60.0)
    assert finished
    found = -np.inf if columns is None else utilities[columns].sum()
    if columns is not None:
        assert problem.feasible(problem.codes(columns)[None])[0]
    return found, -np.inf if values is None else values[: len(utilities)] @ utilities, done


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("constraints", [None, Constraints(("s0=o1",), ("s3:o0",), ("count(o2)<=2", "count(*)>=4"))])
def test_it_agrees_with_highs(seed, constraints):
    instance = random_search_instance(seed, 10, 5, 0.4, devices=2)
    problem = Problem.build(instance.space, instance.cost, instance.budget, constraints)
    found, expected, done = both(problem, problem.utilities(instance.scores.scores))
    assert done and found == pytest.approx(expected, abs=1e-6)


def test_negative_scores_ties_and_budgets_that_nothing_meets():
    instance = random_search_instance(5, 8, 4, 0.4, devices=2)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    for utilities in (np.zeros(len(problem.slot)), np.ones(len(problem.slot)), (problem.latency_ms > 0) * 1.0):
        found, expected, done = both(problem, utilities)
        assert done and found == pytest.approx(expected, abs=1e-6)
    rng = np.random.default_rng(0)
    found, expected, _ = both(problem, rng.normal(size=len(problem.slot)) - 2.0)
    assert found == pytest.approx(expected, abs=1e-6)
    impossible = Constraints(count=("count(*)=8",))
    none = Problem.build(instance.space, instance.cost, Budget(latency_ms=0.5), impossible)
    assert solve(none, np.ones(len(none.slot))) is None


SPLITS_AT_PEAKS = {"EXCESS": 0.0, "FEW": 1.0}
SPLITS_AT_SLOTS = {"WIDTH": 1, "NARROW": 1}


@pytest.mark.parametrize("limits", [SPLITS_AT_PEAKS, SPLITS_AT_SLOTS, SPLITS_AT_PEAKS | SPLITS_AT_SLOTS])
@pytest.mark.parametrize("seed", range(3))
def test_the_boxes_hold_every_architecture(monkeypatch, seed, limits):
    """However far a problem is split, the best one is that of trying every architecture."""
    for name, limit in limits.items():
        monkeypatch.setattr(enumeration, name, limit)
    instance = random_search_instance(seed, 6, 4, 0.4, devices=2)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    utilities = problem.utilities(instance.scores.scores)
    every = np.array(list(itertools.product(range(4), repeat=6)))
    expected = utilities[problem.columns(every[problem.feasible(every)])].sum(axis=1).max()
    columns, done = enumeration.Enumeration(Program.of(problem, utilities)).maximize(60.0)
    assert done and utilities[columns].sum() == pytest.approx(expected)


def test_relaxations_that_fail_cost_time_only(monkeypatch):
    """Bounds hold with any multipliers, so that a proof does not depend on the linear relaxation being solved."""
    instance = random_search_instance(1, 8, 4, 0.4, devices=2)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    utilities = problem.utilities(instance.scores.scores)
    expected = both(problem, utilities)[1]
    failed = SimpleNamespace(status=4, x=None)
    monkeypatch.setattr("scipy.optimize.linprog", lambda *arguments, **options: failed)
    columns, done = enumeration.Enumeration(Program.of(problem, utilities)).maximize(60.0)
    assert done and utilities[columns].sum() == pytest.approx(expected)


@pytest.mark.parametrize("limits", [{"WIDTH": 1, "NARROW": 1, "BOXES": 0}, {"ROWS": 0}])
def test_what_it_gives_up_is_left_to_highs(monkeypatch, limits):
    instance = random_search_instance(3, 8, 5, 0.4, devices=2)
    expected = optimum(instance.space, instance.cost, instance.scores.scores, instance.budget)
    for name, limit in limits.items():
        monkeypatch.setattr(enumeration, name, limit)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    program = Program.of(problem, problem.utilities(instance.scores.scores))
    assert not enumeration.Enumeration(program).maximize(60.0)[1]
    found = optimum(instance.space, instance.cost, instance.scores.scores, instance.budget)
    assert found.proved and found.score == pytest.approx(expected.score, abs=1e-6)


def test_bounds_that_others_imply_are_left_out():
    instance = random_search_instance(0, 4, 3, devices=2)
    model = instance.cost.models["d0"]
    same = DeviceCosts({"a": model, "b": model, "c": model})
    bounds = {"latency_ms@a": 5.0, "latency_ms@b": 6.0, "latency_ms@c": 5.0, "memory_mb": 60.0, "params": 9e6}
    problem = Problem.build(instance.space, same, Budget.of({**bounds, "params@b": 8e6}))
    assert [bound.limit for bound in problem.bounds] == [5.0, 8e6, 60.0]
    apart = Problem.build(instance.space, instance.cost, instance.budget)
    assert len(apart.bounds) == 6
