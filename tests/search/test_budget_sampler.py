"""BudgetSampler at full size, on instances of the benchmark's families with seeds that the benchmark does not use."""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from nas.costs import Budget, CostModel, LookupTable
from nas.search import BudgetSampler, shortlist
from nas.search.exact import solve
from nas.search.problem import Problem
from nas.search.samplers.local_search import LocalSearch
from nas.search.samplers.repair import repair
from nas.search.samplers.surrogate import Prior
from nas.spaces import SearchSpace

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


def test_linked_slots_are_expected_to_interact_as_neighbors_are():
    """In draws of the prior, pairs of linked slots vary more than those of other slots as far apart."""
    slots = {f"s{i}": ["none", "a", "b"] for i in range(12)}
    linked = SearchSpace(name="x", slots=slots, links=[("s11", "s0"), ("s4", "s5")])
    problem = Problem.build(linked, unit_costs(linked), None)
    sample = problem.columns(np.random.default_rng(0).integers(3, size=(16, 12)))
    rng, prior = np.random.default_rng(1), Prior(problem, sample)
    draws = np.stack([prior.draw(rng)[1] for _ in range(200)])
    spread = draws.std(0).reshape(12, 3, 12, 3).mean((1, 3))
    assert spread[0, 11] == pytest.approx(spread[11, 0])
    assert spread[0, 11] > 1.3 * max(spread[0, 10], spread[1, 11], spread[0, 6])
    assert 0.6 * spread[0, 1] < spread[0, 11] < 1.2 * spread[0, 1]  # near ones have a term more
    assert len(prior.terms) == len(Prior(problem, sample, links=()).terms) + 2
    assert len(Prior(problem, sample, links=[("s4", "s5")]).terms) == len(Prior(problem, sample, links=()).terms)


def test_without_links_nothing_changes():
    slots = {f"s{i}": ["none", "a", "b"] for i in range(6)}
    plain, linked = SearchSpace(name="x", slots=slots), SearchSpace(name="x", slots=slots, links=[("s0", "s5")])
    worth = np.random.default_rng(0).normal(size=(6, 3))
    proposals = []
    for space, links in ((plain, None), (linked, ()), (linked, None)):
        sampler = BudgetSampler(space, unit_costs(space), Budget(latency_ms=4), seed=0, links=links)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(12):
            trial = study.ask(
                {slot: optuna.distributions.CategoricalDistribution(c) for slot, c in space.slots.items()}
            )
            study.tell(trial, worth[range(6), space.encode(space.architecture(trial.params))].sum())
        proposals.append([trial.params for trial in study.trials])
    assert proposals[0] == proposals[1] != proposals[2]


def test_layers_that_cost_the_same():
    """All typical architectures then have as many layers as fit; the term for their number must not swamp the others."""
    space = SearchSpace(name="x", slots={f"s{i}": ["none", "a", "b", "c"] for i in range(7)})
    sampler = BudgetSampler(space, unit_costs(space), Budget(latency_ms=3), seed=0)
    assert max(Prior.kernel_of(term, sampler._typical).max() for term in sampler._prior.terms) < 1e5
    worth = np.random.default_rng(0).gamma(2.0, size=(7, 4)) * (np.arange(4) > 0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(30):
        trial = study.ask({slot: optuna.distributions.CategoricalDistribution(c) for slot, c in space.slots.items()})
        study.tell(trial, worth[range(7), space.encode(space.architecture(trial.params))].sum())
    assert study.best_value == pytest.approx(np.sort(worth.max(1))[-3:].sum())


def unit_costs(space):
    frame = pd.DataFrame({"workload": space.workloads(), "latency_ms": 1.0, "memory_mb": 0.0, "weights_mb": 0.0})
    return CostModel(space, LookupTable.from_frame(frame.assign(params=0)))


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
