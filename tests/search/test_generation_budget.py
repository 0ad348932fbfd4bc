"""A budget on the time of a whole clip holds wherever one on latency does."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.costs import Budget, CostModel, LookupTable, Row
from nas.errors import BudgetError


def instance(seed: int) -> tuple[nas.SearchSpace, CostModel, dict]:
    """Four slots of the demo space with random costs, its text encoder and decoder included, and random scores."""
    demo, rng = nas.SearchSpace.load("demo"), np.random.default_rng(seed)
    slots = {slot: list(demo.slots[slot])[:4] for slot in list(demo.slots)[:4]}
    space = dataclasses.replace(demo, name="four", slots=slots)
    workloads = [*space.workloads(), *space.pipeline_workloads()]
    rows = [dataclasses.asdict(Row(str(w), *rng.uniform(1, 9, 3), int(rng.integers(10**6)))) for w in workloads]
    cost = CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)), steps=int(rng.integers(1, 9)))
    scores = {slot: {choice: float(rng.normal()) for choice in choices} for slot, choices in slots.items()}
    return space, cost, scores


def every(space: nas.SearchSpace, cost: CostModel, scores: dict) -> pd.DataFrame:
    codes = list(itertools.product(*(range(len(choices)) for choices in space.slots.values())))
    named = [space.decode(code).choices for code in codes]
    return cost.predict_many(codes).assign(score=[sum(scores[s][c] for s, c in choices.items()) for choices in named])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
def test_optimum_and_pareto_agree_with_brute_force(seed, share):
    space, cost, scores = instance(seed)
    frame = every(space, cost, scores)
    budget = Budget(generation_s=float(frame["generation_s"].quantile(share)))
    within = frame[frame["generation_s"] <= budget.generation_s]
    best = nas.search.optimum(space, cost, scores, budget)
    assert best.proved and best.score == pytest.approx(within["score"].max())
    assert cost.generation_s(best.architecture) <= budget.generation_s
    front = nas.search.pareto(space, cost, scores, "params", budget, points=4)
    archs = [space.architecture(choices) for choices in front[list(space.slots)].to_dict("records")]
    assert archs and all(cost.generation_s(arch) <= budget.generation_s for arch in archs)


@pytest.mark.parametrize("sampler", ["budget", "random+repair", "evolution"])
def test_searches_propose_nothing_that_takes_longer(sampler):
    space, cost, scores = instance(3)
    budget = Budget(generation_s=float(every(space, cost, scores)["generation_s"].quantile(0.1)), memory_mb=60)
    result = nas.search.run(space, cost, lambda a: sum(scores[s][c] for s, c in a.choices.items()), budget, 25, sampler)
    assert len(result.frame) == 25 and result.frame["feasible"].all()
    assert (result.frame["generation_s"] <= budget.generation_s).all()
    front = result.front
    worse = [
        ((front.loc[j, ["generation_s", "memory_mb"]] <= front.loc[i, ["generation_s", "memory_mb"]]).all())
        and front.loc[j, "score"] > front.loc[i, "score"]
        for i, j in itertools.permutations(front.index, 2)
    ]
    assert len(front) and not any(worse)


def test_a_clip_that_no_placement_makes_in_time_names_the_cheapest():
    space, cost, scores = instance(5)
    fastest = every(space, cost, scores)["generation_s"].min()
    with pytest.raises(BudgetError, match=rf"no architecture meets generation<=.*{fastest:.4g} s a clip"):
        nas.search.optimum(space, cost, scores, Budget(generation_s=0.99 * fastest))


def test_a_study_of_other_steps_is_another_study_with_the_known_scores(tmp_path):
    """With other steps the same bound on a clip admits other architectures; without such a bound steps do not matter."""
    space, cost, scores = instance(3)
    other = CostModel(space, cost.table, steps=cost.steps + 1)
    guided = CostModel(space, cost.table, steps=cost.steps, guidance=not cost.guidance)

    def search(cost: CostModel, budget: Budget, name: str) -> nas.search.Result:
        score = lambda arch: sum(scores[slot][choice] for slot, choice in arch.choices.items())  # noqa: E731
        return nas.search.run(space, cost, score, budget, 2, "random", tmp_path / "study.journal", name=name)

    clip = Budget(generation_s=2 * float(every(space, cost, scores)["generation_s"].max()))
    results = [search(changed, clip, "clip") for changed in (cost, other, guided)]
    assert len({result.study.study_name for result in results}) == 3
    assert [result.reused > 0 for result in results] == [False, True, True]
    for changed, result in zip((cost, other, guided), results):
        clips_s = changed.predict_many(np.stack([space.encode(arch) for arch in result.top(2)]))["generation_s"]
        assert (clips_s <= clip.generation_s).all()
    assert search(cost, clip, "clip").study.study_name == "clip"
    without = search(cost, Budget(params=10**9), "params")
    assert search(other, Budget(params=10**9), "params").study.study_name == without.study.study_name
