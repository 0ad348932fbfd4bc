"""Budgets on several devices in one search: solver, fronts, samplers, studies, and what explains the result."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.costs import Budget, CostModel, DeviceCosts, LookupTable
from nas.costs.devices.usage import slack, usage
from nas.errors import BudgetError, ConfigError
from nas.search import binding, optimum, pareto, run, shortlist, sweep
from nas.search.solver.bound_effects import explain_binding
from nas.testing.samplers import random_search_instance
from tests.support.instances import everything


def within(instance, codes):
    """Which codes are within the budget, from each device's own cost model."""
    fits = np.ones(len(codes), dtype=bool)
    for name, model in instance.cost.models.items():
        fits &= instance.budget.on(name).mask(model.predict_many(codes))
    return fits


def brute_force(instance, keep=None):
    """(score, architecture) of every architecture within all budgets, best first."""
    space = instance.space
    codes = everything(space)
    codes = codes[within(instance, codes)]
    archs = [space.decode(c) for c in codes]
    scored = [(instance.scores(arch), arch) for arch in archs if keep is None or keep(arch)]
    return sorted(scored, key=lambda pair: -pair[0])


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 4), st.integers(1, 3), st.floats(0.2, 0.9), st.booleans()
)
def test_the_optimum_on_several_devices_agrees_with_brute_force(seed, slots, choices, devices, share, pairs):
    instance = random_search_instance(seed, slots, choices, share, pairs, devices)
    space, cost, budget, table = instance.space, instance.cost, instance.budget, instance.scores
    best = brute_force(instance)
    if not best:
        with pytest.raises(BudgetError, match=r"d0: .* ms"):
            optimum(space, cost, table.scores, budget, table.pairs)
        return
    found = optimum(space, cost.models, table.scores, budget, table.pairs)  # a dict of cost models will do
    assert found.proved and found.score == pytest.approx(best[0][0], abs=1e-6)
    assert within(instance, space.encode(found.architecture)[None])[0]
    assert found.slack == pytest.approx(slack(cost.predict(found.architecture), budget)) and found.slack >= 0


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 0.9), st.sampled_from([0.0, 0.5, 2.0]))
def test_most_slack_among_the_best(seed, share, give):
    instance = random_search_instance(seed, 4, 3, share, devices=2)
    found = brute_force(instance)
    if not found:
        return
    slacks = [
        slack(instance.cost.predict(arch), instance.budget)
        for score, arch in found
        if score >= found[0][0] - give - 1e-9
    ]
    best = optimum(instance.space, instance.cost, instance.scores.scores, instance.budget, objective="slack", give=give)
    assert best.proved and best.score >= found[0][0] - give - 1e-5
    assert best.slack == pytest.approx(max(slacks), abs=1e-5)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_architectures_that_differ_in_some_slots(seed, distance):
    instance = random_search_instance(seed, 4, 3, 0.7, devices=2)
    left = brute_force(instance)
    if not left:
        return
    expected = []
    while left and len(expected) < 4:
        score, arch = left[0]
        expected.append(score)
        left = [
            (s, other)
            for s, other in left
            if sum(a != b for a, b in zip(arch.choices.values(), other.choices.values())) >= distance
        ]
    found = shortlist(instance.space, instance.cost, instance.scores.scores, instance.budget, 4, distance=distance)
    assert [o.score for o in found] == pytest.approx(expected, abs=1e-6)
    assert all(o.proved for o in found)


def test_a_bound_without_a_device_holds_on_all_and_a_percentage_is_of_each():
    instance = random_search_instance(3, 4, 3, devices=2)
    cost = instance.cost
    arch = instance.space.random(0)
    each = [model.predict(arch) for model in cost.models.values()]
    assert cost.predict(arch).latency_ms == max(c.latency_ms for c in each)
    assert not Budget(latency_ms=np.mean([c.latency_ms for c in each])).holds(cost.predict(arch))
    half = Budget.parse("latency<=50%, memory@d1<=40MB", cost.upper_bounds())
    assert half.bounds() == pytest.approx(
        {
            "latency_ms@d0": cost.models["d0"].upper_bounds().latency_ms / 2,
            "latency_ms@d1": cost.models["d1"].upper_bounds().latency_ms / 2,
            "memory_mb@d1": 40.0,
        }
    )
    tighter = Budget.parse("latency<=5ms, latency@d1<=3ms, latency@d0<=8ms")
    assert (tighter.on("d0").latency_ms, tighter.on("d1").latency_ms) == (5, 3)
    assert Budget.parse(str(tighter)) == tighter


def test_a_device_that_cannot_run_an_operator_excludes_it():
    instance = random_search_instance(4, 3, 3, 1.0, devices=2)
    frame = instance.cost.models["d1"].table.frame.copy()
    frame.loc[frame["workload"] == "s0/o0", ["latency_ms", "status"]] = [float("inf"), "infeasible"]
    cost = {**instance.cost.models, "d1": CostModel(instance.space, LookupTable.from_frame(frame))}
    found = optimum(instance.space, cost, {"s0": {"o0": 100.0, "o1": 1.0}})
    assert found.architecture.choices["s0"] == "o1"


@pytest.mark.parametrize("against", ["latency", "latency@d1", "memory@d0", "memory", "params@d0"])
def test_fronts_against_one_device_or_the_worst(against):
    instance = random_search_instance(5, 4, 3, devices=2)
    space, cost, table = instance.space, instance.cost, instance.scores
    codes = everything(space)
    column = against.replace("latency", "latency_ms").replace("memory", "memory_mb")
    points = np.column_stack([cost.predict_many(codes)[column], [table(space.decode(c)) for c in codes]])
    front = pareto(space, cost, table.scores, against, points=6)
    assert front["proved"].all() and len(front) >= 3
    for row in front.to_dict("records"):
        assert not ((points[:, 0] <= row[column]) & (points[:, 1] > row["score"] + 1e-6)).any()
    assert front["score"].iloc[-1] == pytest.approx(points[:, 1].max())


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sweep_is_the_optimum_under_each_bound(pairs):
    instance = random_search_instance(6, 4, 3, pairs=pairs, devices=2)
    space, cost, table = instance.space, instance.cost, instance.scores
    beside = Budget.parse("latency@d0<=7ms")
    bounds = [0.01, 3.0, 4.0, 6.0, 9.0, 30.0]
    frame = sweep(space, cost, table.scores, "latency@d1", bounds, budget=beside, pairs=table.pairs)
    assert list(frame["limit"]) == bounds and frame["proved"].all()
    codes = everything(space)
    costs, scores = cost.predict_many(codes), np.array([table(space.decode(c)) for c in codes])
    for limit, score in zip(bounds, frame["score"]):
        fits = (costs["latency_ms@d1"] <= limit) & (costs["latency_ms@d0"] <= 7)
        assert (np.isnan(score) and not fits.any()) or score == pytest.approx(scores[fits].max())
    assert len(sweep(space, cost, table.scores, "latency", points=5)) == 5
    with pytest.raises(BudgetError, match="the loosest of the bounds"):
        sweep(space, cost, {**table.scores}, "latency@d1", [0.001], constraints=nas.search.Constraints(("s0=o0",)))


def test_which_bound_of_which_device_binds():
    """Two devices on which everything costs 1 and 2: one bound at a time binds, or two only together."""
    space = nas.SearchSpace(name="two", slots={s: ["none", "a"] for s in ("s0", "s1", "s2", "s3")})

    def model(factor):
        rows = [(w, factor, 1.0, 1.0, 10) for w in space.workloads()]
        columns = ["workload", "latency_ms", "memory_mb", "weights_mb", "params"]
        return CostModel(space, LookupTable.from_frame(pd.DataFrame(rows, columns=columns)))

    cost = {"fast": model(1.0), "slow": model(2.0)}
    scores = {slot: {"a": 1.0} for slot in space.slots}
    frame = binding(space, cost, scores, Budget.parse("latency<=6ms, latency@fast<=3.5ms, params<=100"))
    assert list(frame["bound"][:2]) == ["latency<=6ms", "latency@fast<=3.5ms"] and not frame["binds"][2:].any()
    assert not frame["binds"].any() and "only together" in explain_binding(frame)
    frame = binding(space, cost, scores, Budget.parse("latency<=5ms, params<=100"))
    first = frame.iloc[0]
    assert (first["device"], first["gain"], first["used"], bool(first["binds"])) == ("slow", 2.0, 0.8, True)
    assert frame["binds"].sum() == 1 and "latency<=5ms on slow" in explain_binding(frame)
    assert "no bound binds" in explain_binding(binding(space, cost, scores, Budget(latency_ms=8)))


@pytest.mark.parametrize("sampler", ["budget", "evolution", "random+repair", "tpe+repair"])
def test_nothing_over_any_budget_is_proposed_and_trials_carry_each_cost(sampler):
    instance = random_search_instance(7, 5, 4, 0.4, pairs=True, devices=3)
    result = run(instance.space, instance.cost, instance.scores, instance.budget, 20, sampler)
    codes = np.array([instance.space.encode(instance.space.architecture(t.params)) for t in result.study.trials])
    assert len(codes) == 20 and within(instance, codes).all() and result.frame["feasible"].all()
    trial, costs = (
        result.study.trials[0],
        instance.cost.predict(instance.space.architecture(result.study.trials[0].params)),
    )
    for name, own in costs.devices.items():
        assert trial.user_attrs[f"latency_ms@{name}"] == own.latency_ms
    assert set(result.front) >= {"latency_ms", "latency_ms@d0", "memory_mb@d2"}
    assert set(nas.search.explain(result)) >= {"latency_ms", "latency_ms@d0"}


def test_a_study_of_other_devices_is_another_study_with_the_known_scores(tmp_path):
    instance = random_search_instance(8, 4, 3, 0.6, devices=2)
    space, cost, scores = instance.space, instance.cost, instance.scores
    storage, budget = tmp_path / "study.journal", Budget(latency_ms=instance.budget.bounds()["latency_ms@d0"])
    first = run(space, cost, scores, budget, 6, storage=storage)
    again = run(space, cost, scores, budget, 6, storage=storage)
    assert again.study.study_name == first.study.study_name and len(again.study.trials) == 6
    assert first.study.user_attrs["devices"] == "d0, d1"
    one = run(space, {"d0": cost.models["d0"]}, scores, budget, 3, storage=storage)
    assert one.study.study_name != first.study.study_name and one.reused == 6
    swapped = run(space, {"d0": cost.models["d1"], "d1": cost.models["d0"]}, scores, budget, 3, storage=storage)
    assert swapped.study.study_name not in (first.study.study_name, one.study.study_name)


def test_usage_names_every_device_of_a_bound():
    instance = random_search_instance(9, 3, 3, devices=2)
    cost = instance.cost.predict(instance.space.random(1))
    frame = usage(cost, Budget.parse("latency<=9ms, params@d1<=10M"))
    assert sorted(zip(frame["bound"], frame["device"])) == [
        ("latency<=9ms", "d0"), ("latency<=9ms", "d1"), ("params@d1<=10000000", "d1"),
    ]  # fmt: skip
    assert frame["used"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: Budget.parse("latency@d9<=5ms"), "unknown device 'd9'; known: d0, d1"),
        (lambda i: Budget.parse("latency@d9<=50%", i.cost.upper_bounds()), "latency@d9: unknown device 'd9'"),
        (lambda i: Budget(devices={"d0": Budget(devices={"d1": Budget()})}), "without devices"),
        (lambda i: Budget.parse("latency@d0<=5ms, latency@d0<=6ms"), "latency@d0 is bounded twice"),
        (lambda i: Budget.parse("latency@<=5ms"), "latency@pixel<=80ms for one device"),
        (lambda i: Budget.of({"latency": 3.0}), "did you mean 'latency_ms'"),
    ],
)  # fmt: skip
def test_budgets_that_name_devices_wrongly(make, message):
    instance = random_search_instance(0, 2, 2, devices=2)
    with pytest.raises(BudgetError, match=message):
        optimum(instance.space, instance.cost, {}, make(instance))


def test_devices_that_do_not_belong_together():
    one, other = random_search_instance(0, 2, 2, devices=1), random_search_instance(0, 3, 2, devices=1)
    model, foreign = one.cost.models["d0"], other.cost.models["d0"]
    with pytest.raises(BudgetError, match="unknown device 'pixel'; name its table"):
        optimum(one.space, model, {}, Budget.parse("latency@pixel<=5ms"))
    for models, message in [({}, "at least one"), ({"a b": model}, "no device's name"), ({"a": model, "b": foreign}, "different search spaces"), ({"a": 1}, "must be a CostModel")]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            DeviceCosts(models)
    guided = CostModel(one.space, model.table, guidance=True)
    with pytest.raises(ConfigError, match="differ in steps or guidance"):
        DeviceCosts({"a": model, "b": guided})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: nas.search.sweep(i.space, i.cost, {}, "latency@d0", [2.0, float("nan")]), "one or more positive"),
        (lambda i: nas.search.sweep(i.space, i.cost, {}, "latency@d0", []), "sweep: bounds: must be one or more"),
        (lambda i: run(i.space, i.cost, i.scores, i.budget, workers=0), "workers: must be 1 or more, not 0"),
        (lambda i: run(i.space, i.cost, i.scores, i.budget, batch=0), "batch: must be 1 or more, not 0"),
        (lambda i: run(i.space, i.cost, i.scores, i.budget, trials=-1), "trials: must be 0 or more, not -1"),
        (lambda i: optimum(i.space, i.cost, {}, constraints="s0=o1"), "must be nas.search.Constraints, not str"),
        (lambda i: optimum(random_search_instance(0, 3, 2).space, i.cost, {}), "'test' with other slots than 'test'"),
        (lambda i: optimum(i.space, i.cost, {"s0": {"o0": "x"}}), "s0: o0: must be a finite number, not 'x'"),
        (lambda i: shortlist(i.space, i.cost, {}, None, 0), "k: must be 1 or more, not 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call(random_search_instance(0, 2, 2, devices=2))
