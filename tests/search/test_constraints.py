"""Fixed and excluded choices and counts: in the solver, in every sampler, in studies; and the end of a search by its bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.costs import Budget
from nas.errors import BudgetError, ConfigError, NasError
from nas.search import Constraints, ScoreTable, optimum, pareto, reevaluate_top_k, run, shortlist
from nas.search.problem import Problem
from nas.search.samplers import SAMPLERS
from nas.testing.samplers import random_search_instance
from tests.search.test_exact import with_backbone
from tests.support.instances import everything

SIGNS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "=": lambda a, b: a == b}
NAMES = st.sampled_from(["none", "o0", "o1"])
SLOTS = st.integers(0, 3)
COUNTS = st.tuples(
    st.sampled_from(["none", "o0", "o1", "*"]),
    st.one_of(st.none(), SLOTS),
    st.sampled_from(list(SIGNS)),
    st.integers(0, 4),
)


def holds(choices, fix, exclude, counts):
    """What the constraints mean, written without the library."""
    for slot, choice in fix.items():
        if choices[f"s{slot}"] != choice:
            return False
    if any(choices[f"s{slot}"] == choice for slot, choice in exclude):
        return False
    for choice, slot, sign, number in counts:
        taken = [c for s, c in choices.items() if slot is None or s == f"s{slot}"]
        count = sum(c != "none" if choice == "*" else c == choice for c in taken)
        if not SIGNS[sign](count, number):
            return False
    return True


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.dictionaries(SLOTS, NAMES, max_size=2),
    st.lists(st.tuples(SLOTS, NAMES), max_size=2),
    st.lists(COUNTS, max_size=2),
    st.integers(0, 2),
)
def test_the_optimum_under_constraints_agrees_with_brute_force(seed, fix, exclude, counts, devices):
    instance = random_search_instance(seed, 4, 3, 0.7, pairs=True, devices=devices)
    space, cost, budget, table = instance.space, instance.cost, instance.budget, instance.scores
    constraints = Constraints(
        {f"s{slot}": choice for slot, choice in fix.items()},
        [f"s{slot}:{choice}" for slot, choice in exclude],
        [f"count({c}{'' if s is None else f'@s{s}'}){sign}{n}" for c, s, sign, n in counts],
    )
    archs = [space.decode(codes) for codes in everything(space)]
    satisfied = [arch for arch in archs if holds(arch.choices, fix, exclude, counts)]
    scores = [table(arch) for arch in satisfied if budget.holds(cost.predict(arch))]
    if not scores:
        with pytest.raises(NasError, match="raise" if satisfied else "drop or relax") as caught:
            optimum(space, cost, table.scores, budget, table.pairs, constraints=constraints)
        assert isinstance(caught.value, BudgetError if satisfied else ConfigError) and "\n" not in str(caught.value)
        return
    found = optimum(space, cost, table.scores, budget, table.pairs, constraints=constraints)
    assert found.proved and found.score == pytest.approx(max(scores), abs=1e-6)
    assert holds(found.architecture.choices, fix, exclude, counts)


CONSTRAINTS = Constraints(("s0=o1",), ("s1:o0", "s4|s5:o2"), ("count(o0)<=2", "count(none)=2", "count(*@s2)>=1"))


def satisfied(choices):
    taken = list(choices.values())
    return (
        (taken[0] == "o1" and taken[1] != "o0" and "o2" not in taken[4:] and taken[2] != "none")
        and taken.count("o0") <= 2
        and taken.count("none") == 2
    )


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param("gp", marks=pytest.mark.slow),
        "tpe+repair",
        "brute-force+repair",
        *(s for s in SAMPLERS if s != "gp"),
    ],
)
def test_every_proposal_of_every_sampler_satisfies_them(sampler):
    instance = random_search_instance(2, 6, 4, share=0.7)
    result = run(instance.space, instance.cost, instance.scores, instance.budget, 14, sampler, constraints=CONSTRAINTS)
    assert len(result.study.trials) == 14
    for trial in result.study.trials:
        assert satisfied(instance.space.architecture(trial.params).choices), trial.params
        assert trial.constraints["count(o0)<=2"] <= 0 and trial.constraints["choices"] <= 0


def test_samplers_given_as_objects_satisfy_them():
    optuna = pytest.importorskip("optuna")
    instance = random_search_instance(2, 6, 4, share=0.7)
    sampler = optuna.samplers.RandomSampler(seed=0)
    result = run(instance.space, instance.cost, instance.scores, Budget(), 6, sampler, constraints=CONSTRAINTS)
    assert all(satisfied(instance.space.architecture(trial.params).choices) for trial in result.study.trials)


def test_a_study_under_other_constraints_is_another_one_with_the_known_scores(tmp_path):
    instance = random_search_instance(2, 6, 4, share=0.7)
    arguments = (instance.space, instance.cost, instance.scores, instance.budget)
    storage = tmp_path / "study.journal"
    free = run(*arguments, 8, storage=storage)
    bound = run(*arguments, 5, storage=storage, constraints=CONSTRAINTS)
    assert bound.study.study_name != free.study.study_name and bound.reused == 8
    assert bound.study.user_attrs["constraints"] == str(CONSTRAINTS)
    assert satisfied(bound.best.choices) and satisfied(dict(bound.front.iloc[0][list(instance.space.slots)]))
    assert not bound.frame["feasible"].all()  # the known scores are of architectures that do not satisfy them
    again = reevaluate_top_k(bound, instance.scores, 2)
    assert satisfied(again.best.choices)


def test_kinds_sites_and_patterns():
    space, cost = with_backbone()
    names = list(space.slots)
    kinds = {
        choice: space.operators[choice].kind
        for choices in space.slots.values()
        for choice in choices
        if choice != "none"
    }
    kind = next(iter(kinds.values()))
    problem = Problem.build(
        space, cost, None, Constraints(exclude=(f"mid.0:{kind}", "down.*:*3D"), count=("count(*@down.0.0)>=2",))
    )
    left = {
        slot: {c for j, c in enumerate(choices) if problem.permitted[problem.start[i] + j]}
        for i, (slot, choices) in enumerate(space.slots.items())
    }
    for slot in names:
        for choice in space.slots[slot]:
            gone = (slot.startswith("mid.0") and kinds.get(choice) == kind) or (
                slot.startswith("down") and choice.endswith("3D")
            )
            assert (choice in left[slot]) != gone
    found = optimum(space, cost, {}, None, constraints=Constraints(count=("count(*@down.0.0)>=2",)))
    assert "none" not in [found.architecture.choices[slot] for slot in names if slot.startswith("down.0.0")]


def test_fixed_choices_hold_in_canonical_form():
    """A layer in the second slot of a site needs one in the first: otherwise it would be the first."""
    space, cost = with_backbone()
    choice = space.slots["mid.0/1"][1]
    found = shortlist(space, cost, {}, None, 3, constraints=Constraints({"mid.0/1": choice}))
    assert all(o.architecture.choices["mid.0/1"] == choice for o in found)
    assert all(o.architecture.choices["mid.0/0"] != "none" for o in found)


def test_fronts_under_constraints():
    instance = random_search_instance(5, 4, 3)
    constraints = Constraints(exclude=("s0:o1",), count=("count(*)<=2",))
    front = pareto(instance.space, instance.cost, instance.scores.scores, points=5, constraints=constraints)
    assert len(front) >= 2 and (front[list(instance.space.slots)] != "none").sum(1).max() <= 2
    assert (front["s0"] != "o1").all()


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (dict(fix="s9=o0"), "fix 's9=o0': no slot 's9' in 'test'; known: s0, s1, s2"),
        (dict(fix="s0=oo"), "no choice or kind 'oo' there"),
        (dict(fix="s0"), "fix: cannot read 's0'; write it like mid.0/0=Conv1D"),
        (dict(exclude="s0=o0"), "exclude: cannot read 's0=o0'; write it like up.3"),
        (dict(exclude="t*:o0"), "no slot 't\\*'"),
        (dict(count="count(o0)<3"), r"constraint: cannot read 'count\(o0\)<3'; write it like count\(SelfAttention3D\)<=2"),
        (dict(count="o0<=3"), "constraint: cannot read"),
        (dict(count="count(o9)<=3"), "no choice or kind 'o9' there; known: none, o0, o1"),
        (dict(count="count(o0@s9)<=3"), "no slot 's9'"),
        (dict(fix=[1]), "fix: must be texts"),
        (dict(fix=("s0=o0", "s0=o1")), "satisfies fix s0=o0, fix s0=o1; without 's0=o1' there are some"),
        (dict(count="count(*)>=9"), r"without 'count\(\*\)>=9' there are some"),
    ],
)  # fmt: skip
def test_constraints_that_cannot_be_met_or_read(constraints, message):
    instance = random_search_instance(0, 3, 3)
    with pytest.raises(ConfigError, match=message):
        optimum(instance.space, instance.cost, {}, None, constraints=Constraints(**constraints))


def test_a_search_ends_when_its_bound_is_reached():
    instance = random_search_instance(0, 6, 4, pairs=True)
    arguments = (instance.space, instance.cost, instance.scores, instance.budget)
    best = optimum(instance.space, instance.cost, instance.scores.scores, instance.budget, instance.scores.pairs)
    result = run(*arguments, 200, early_stop=True)
    assert instance.scores(result.best) == pytest.approx(best.score) and len(result.frame) < 100


def test_a_search_ends_when_everything_was_evaluated_or_nothing_can_score_more():
    instance = random_search_instance(1, 3, 2, share=1.0)
    result = run(instance.space, instance.cost, lambda arch: 0.0, instance.budget, 50, early_stop=True)
    within = instance.budget.mask(instance.cost.predict_many(everything(instance.space))).sum()
    assert len(result.frame.drop_duplicates(list(instance.space.slots))) == within and len(result.frame) < 50

    class Accuracy:
        upper_bound = 1.0

        def __call__(self, arch):
            return 1.0

    assert len(run(instance.space, instance.cost, Accuracy(), instance.budget, 50, early_stop=True).frame) == 1
    Accuracy.upper_bound = "high"
    with pytest.raises(ConfigError, match="upper_bound: must be a number"):
        run(instance.space, instance.cost, Accuracy(), instance.budget, 50, early_stop=True)


def test_all_choices_but_one_fixed():
    """The surrogate's terms are then the same for every architecture, and still the best one is found."""
    instance = random_search_instance(3, 5, 4, share=1.0)
    constraints = Constraints({f"s{i}": "o1" for i in range(4)})
    table = ScoreTable({"s4": {"o0": 1.0, "o1": 3.0, "o2": 2.0}})
    result = run(instance.space, instance.cost, table, Budget(), 8, constraints=constraints)
    assert result.best.choices["s4"] == "o1" and np.isfinite(result.frame["score"]).all()
    assert nas.search.explain(result)["value"].notna().all()
