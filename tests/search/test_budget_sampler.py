"""BudgetSampler at full size, on instances of the benchmark's families with seeds that the benchmark does not use."""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.search import shortlist
from nas.search.exact import solve
from nas.search.problem import Problem
from nas.search.samplers.local_search import LocalSearch
from nas.search.samplers.repair import repair

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

spec = importlib.util.spec_from_file_location("search_benchmark", Path(sys.path[0]) / "search.py")
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


@pytest.mark.slow
def test_quality_at_full_size():
    """Looser than the benchmark's means, because a single run varies; nothing is over budget."""
    percent, feasible, _ = zip(*benchmark.play(benchmark.make_instance("noisy", 100), "budget", 100, seed=100))
    assert all(feasible)
    assert percent[-1] >= 88


def test_climbing_comes_near_the_exact_optimum():
    instance = benchmark.make_instance("pairwise", 101)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    rng = np.random.default_rng(0)
    starts = [
        problem.columns(repair(problem, instance.space.encode(instance.space.random(rng)), rng)) for _ in range(6)
    ]
    local_search = LocalSearch(problem, problem.utilities(instance.scores), problem.interactions(instance.pairs))
    best = local_search.best(starts, set())
    assert problem.feasible(problem.codes(best)[None])[0]
    assert local_search.score(best) >= 0.99 * instance.best
    assert local_search.score(best) <= instance.best * (1 + 1e-9)


def test_repair_keeps_feasible_architectures_and_as_much_as_it_can_of_others():
    instance = benchmark.make_instance("additive", 102)
    problem = Problem.build(instance.space, instance.cost, instance.budget)
    rng = np.random.default_rng(0)
    best = instance.space.encode(
        shortlist(instance.space, instance.cost, instance.scores, instance.budget, 1)[0].architecture
    )
    assert (repair(problem, best, rng) == best).all()
    one_more = best.copy()
    changed = next(i for i, c in enumerate(best) if c == 0)
    one_more[changed] = 6
    if not problem.feasible(one_more[None])[0]:
        assert (repair(problem, one_more, rng) != one_more).sum() <= 3
    assert solve(problem, np.zeros(len(problem.slot))) is not None


def test_the_solver_prints_nothing(capfd):
    """HiGHS prints a developer's line on this instance, past every option."""
    instance = benchmark.make_instance("plain", 1000)
    ctypes.CDLL(None).fflush(None)
    assert instance.proved
    assert capfd.readouterr().out == ""
