"""The exact solver and the front against brute force over every architecture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.costs import Budget, CostModel, LookupTable
from nas.errors import BudgetError, SpaceError
from nas.search import optimum, pareto, shortlist
from tests.support.instances import everything, make


def brute_force(space, cost, budget, score):
    """Scores of every architecture within the budget, highest first."""
    codes = np.unique([space.encode(space.decode(c)) for c in everything(space)], axis=0)
    codes = codes[budget.mask(cost.predict_many(codes))]
    return sorted((score(space.decode(c)) for c in codes), reverse=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 4), st.floats(0.1, 0.9), st.booleans())
def test_optimum_agrees_with_brute_force(seed, slots, choices, share, pairs):
    space, cost, budget, table = make(seed, slots, choices, share, pairs)
    scores = brute_force(space, cost, budget, table)
    if not scores:
        with pytest.raises(BudgetError):
            optimum(space, cost, table.scores, budget, table.pairs)
        return
    found = optimum(space, cost, table.scores, budget, table.pairs)
    assert found.proved
    assert budget.holds(cost.predict(found.architecture))
    assert found.score == pytest.approx(scores[0], abs=1e-6)
    assert found.score == pytest.approx(table(found.architecture), abs=1e-9)
    assert found.score <= found.bound


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_budgets_met_exactly_are_met(seed):
    """Whole numbers add up without rounding: an architecture that costs exactly the bound is within it."""
    space, cost, _, table = make(seed, 3, 3)
    frame = cost.table.frame.assign(latency_ms=lambda f: np.ceil(f["latency_ms"]))
    cost = CostModel(space, LookupTable.from_frame(frame))
    for bound in (2.0, 4.0):
        budget = Budget(latency_ms=bound)
        best = brute_force(space, cost, budget, table)[0]
        assert optimum(space, cost, table.scores, budget).score == pytest.approx(best, abs=1e-6)


def test_shortlist_is_the_k_best():
    space, cost, budget, table = make(3, 4, 3, pairs=True)
    found = shortlist(space, cost, table.scores, budget, 6, table.pairs)
    assert [o.score for o in found] == pytest.approx(brute_force(space, cost, budget, table)[:6], abs=1e-6)
    assert len({o.architecture for o in found}) == 6


def with_backbone():
    space = nas.SearchSpace.load("snapgen_v")
    space = nas.SearchSpace(
        space.name,
        {s: space.slots[s][:4] for s in ("down.0.0/0", "down.0.0/1", "mid.0/0", "mid.0/1")},
        space.operators,
        space.backbone,
        space.latent,
        space.text,
    )
    rng = np.random.default_rng(0)
    import pandas as pd

    rows = [(str(w), *rng.gamma(2.0, size=3), int(1e6 * rng.gamma(2.0))) for w in space.workloads()]
    frame = pd.DataFrame(rows, columns=["workload", "latency_ms", "memory_mb", "weights_mb", "params"])
    return space, CostModel(space, LookupTable.from_frame(frame))


def test_only_canonical_architectures_exist_at_a_site():
    """A score for `none` before a layer tempts the solver into a form that canonical architectures do not have."""
    space, cost = with_backbone()
    rng = np.random.default_rng(1)
    scores = {s: {c: float(rng.normal()) for c in choices} for s, choices in space.slots.items()}
    scores["mid.0/0"]["none"] = 5.0
    budget = Budget(latency_ms=8.0)

    def score(arch):
        return sum(scores[slot][choice] for slot, choice in arch.choices.items())

    found = optimum(space, cost, scores, budget)
    assert found.score == pytest.approx(score(found.architecture))
    assert found.score == pytest.approx(brute_force(space, cost, budget, score)[0])
    front = pareto(space, cost, scores)
    assert front["score"].iloc[-1] == pytest.approx(brute_force(space, cost, Budget(), score)[0])


@pytest.mark.parametrize("against", ["latency", "memory", "params"])
def test_pareto_is_the_whole_front(against):
    space, cost, _, table = make(5, 4, 4)
    front = pareto(space, cost, table.scores, against)
    name = {"latency": "latency_ms", "memory": "memory_mb", "params": "params"}[against]
    codes = everything(space)
    points = np.column_stack([cost.predict_many(codes)[name], [table(space.decode(c)) for c in codes]])
    expected = [p for p in points if not ((points[:, 0] <= p[0]) & (points[:, 1] >= p[1]) & (points != p).any(1)).any()]
    expected = np.unique(np.round(expected, 6), axis=0)
    assert np.round(front[[name, "score"]].to_numpy(), 6) == pytest.approx(expected)


@pytest.mark.parametrize("against", ["latency", "memory"])
def test_pareto_under_a_budget_is_on_the_front(against):
    space, cost, budget, table = make(6, 4, 4, pairs=True)
    front = pareto(space, cost, table.scores, against, budget, table.pairs, points=8)
    assert front["proved"].all() and len(front) >= 2
    assert budget.mask(front).all()
    assert front["score"].iloc[-1] == pytest.approx(brute_force(space, cost, budget, table)[0])


def test_infeasible_budget_names_the_cheapest_and_its_costs():
    space, cost, _, table = make(0, 3, 3)
    space = nas.SearchSpace(name="full", slots={s: ["o0", "o1"] for s in space.slots})
    cost = CostModel(space, cost.table)
    costs = cost.predict_many(everything(space))
    with pytest.raises(BudgetError, match=r"the cheapest, full\(.*\), costs") as caught:
        optimum(space, cost, table.scores, Budget(latency_ms=costs["latency_ms"].min() / 2))
    assert f"{costs['latency_ms'].min():.4g} ms" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_operators_that_cannot_run_are_never_chosen():
    space, cost, _, table = make(1, 3, 3)
    frame = cost.table.frame.copy()
    frame.loc[frame["workload"] == "s0/o0", ["latency_ms", "status"]] = [float("inf"), "infeasible"]
    cost = CostModel(space, LookupTable.from_frame(frame))
    scores = {**table.scores, "s0": {"o0": 100.0, "o1": 1.0}}
    assert optimum(space, cost, scores, None).architecture.choices["s0"] == "o1"


def test_scores_of_unknown_slots_are_refused():
    space, cost, budget, _ = make(0, 2, 2)
    with pytest.raises(SpaceError, match="did you mean 's0'"):
        optimum(space, cost, {"s00": {"o0": 1.0}}, budget)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [24, 60])
def test_large_additive_searches_are_proved(slots):
    space, cost, budget, table = make(0, slots, 7, share=0.35)
    assert optimum(space, cost, table.scores, budget, time_limit_s=600).proved
