"""Generation time: the sum of its parts, and errors if a part is unknown."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import nas
from nas.costs import Calibration, CostModel, LookupTable, Provenance, Row
from nas.costs.clip_summary import clip_summary
from nas.errors import BudgetError, TableError
from nas.spaces import Decoder


def table_for(space, **changes) -> LookupTable:
    rng = np.random.default_rng(0)
    workloads = [*space.workloads(), *space.pipeline_workloads()]
    rows = [Row(str(w), *rng.uniform(1, 9, 3), int(rng.integers(10**6))) for w in workloads]
    return LookupTable.from_frame(pd.DataFrame([dataclasses.asdict(row) for row in rows]))


def without(table: LookupTable, kind: str) -> LookupTable:
    return LookupTable(table.frame[~table.frame["workload"].str.startswith(kind)])


@pytest.fixture
def space():
    demo = nas.SearchSpace.load("demo")
    return dataclasses.replace(
        demo, decoder=Decoder(demo.decoder.vae, frames=2)
    )  # four runs for a clip of eight frames


def test_seconds_are_the_sum_of_what_runs(space):
    table, arch = table_for(space), space.random(0)
    table.calibration = Calibration(0.9, 0.5)  # of denoisers alone
    cost = CostModel(space, table, steps=6, guidance=True)
    rows, step_ms = table.rows(), cost.predict(arch).latency_ms
    around_ms = rows[str(space.text_workload())].latency_ms + 4 * rows[str(space.decoder_workload())].latency_ms
    assert cost.predict(arch).generation_s == pytest.approx((around_ms + 12 * step_ms) / 1e3)
    assert cost.generation_s(arch) == cost.predict(arch).generation_s
    assert cost.generation_s(arch, steps=3, guidance=False) == pytest.approx((around_ms + 3 * step_ms) / 1e3)
    codes = np.stack([space.encode(space.random(seed)) for seed in range(50)])
    frame = cost.predict_many(codes)
    assert frame["generation_s"].to_numpy() == pytest.approx((around_ms + 12 * frame["latency_ms"]) / 1e3)
    assert cost.upper_bounds().generation_s >= frame["generation_s"].max()
    parts = cost.generation().parts(step_ms, "measured")
    assert parts["seconds"].sum() == pytest.approx(cost.generation_s(arch)) and list(parts["runs"]) == [1, 12, 4]


def test_a_table_without_the_parts_still_gives_the_rest(space):
    old = without(without(table_for(space), "TextEncoder"), "Decoder")
    old.provenance = Provenance(runtime="eager+compile", device="cuda")
    cost, arch = CostModel(space, old), space.random(0)
    assert cost.predict(arch).latency_ms > 0 and cost.predict(arch).generation_s is None
    assert list(cost.predict_many([space.encode(arch)])) == ["latency_ms", "memory_mb", "params"]
    measure = "nas profile --space demo --runtime eager --device cuda --pipeline --out"
    for ask in (
        lambda: cost.generation_s(arch),
        lambda: cost.resolve_budget(nas.Budget(generation_s=1)),
        lambda: nas.search.optimum(space, cost, {}, nas.Budget(generation_s=1)),
    ):
        with pytest.raises(TableError, match=measure):
            ask()
    with pytest.raises(BudgetError, match="generation_s is bounded but not known"):
        nas.Budget(generation_s=1).holds(cost.predict(arch))
    with pytest.raises(BudgetError, match="generation in % needs"):
        nas.Budget.parse("generation<=50%", cost.upper_bounds())


def test_a_space_that_declares_no_decoder_says_where_to(space):
    bare = dataclasses.replace(space, decoder=None)
    with pytest.raises(TableError, match=r"has no 'decoder'.*demo\.yaml"):
        CostModel(bare, table_for(space)).generation()
    cost_only = nas.SearchSpace(name="c", slots={"s": ["none", "a"]})
    with pytest.raises(TableError, match="'c' has no 'text_encoder'"):
        CostModel(cost_only, table_for(cost_only)).generation()


def test_an_estimated_decoder_does_not_mix_silently(space):
    table = table_for(space)
    table.frame.loc[table.frame["workload"].str.startswith("Decoder"), "source"] = "estimated"
    cost = CostModel(space, table)
    assert cost.sources == ("measured",) and cost.predict(space.random(0)).generation_s is None
    with pytest.raises(TableError, match="mixes estimated and measured"):
        cost.generation()
    parts = CostModel(space, table, estimates=True).generation().parts(1.0, "measured")
    assert list(parts["source"]) == ["measured", "measured", "estimated"]


def test_the_bound_on_a_clip_is_a_bound_on_a_step(space):
    cost = CostModel(space, table_for(space), steps=4)
    overhead_s = cost.generation().overhead_s
    bound = cost.resolve_budget(nas.Budget(generation_s=overhead_s + 0.2, params=1e6))
    assert bound.bounds() == pytest.approx({"latency_ms": 50, "params": 1e6})
    assert cost.resolve_budget(nas.Budget(latency_ms=10, generation_s=overhead_s + 0.2)).latency_ms == 10
    with pytest.raises(BudgetError, match=rf"text encoder and the decoder alone take {overhead_s:.4g} s"):
        cost.resolve_budget(nas.Budget(generation_s=overhead_s))


def test_a_decoder_that_cannot_run_makes_no_clip(space):
    table = table_for(space)
    table.frame.loc[table.frame["workload"].str.startswith("Decoder"), ["status", "reason"]] = ["infeasible", "killed"]
    cost = CostModel(space, table)
    assert cost.predict(space.random(0)).generation_s == np.inf
    with pytest.raises(BudgetError, match="the decoder cannot run on the device: killed"):
        cost.resolve_budget(nas.Budget(generation_s=1e9))


FIVE_SECONDS = """
name: five
clip: {seconds: 5, fps: 16, height: 512, width: 512}
autoencoder: {channels: [16, 32, 64, 128], norm_groups: 16, temporal_compression: 4}
decoder: {frames: 3}
text: {tokens: 77, dim: 768}
text_encoder: {kind: clip, layers: 12, heads: 12, vocabulary: 49408}
backbone: {channels: [160, 320, 832, 1216], attention_levels: [2], heads: 8, norm_groups: 32}
operators: {none: , Conv1D: , SelfAttention1D: }
"""


def test_a_clip_of_five_seconds_is_searched_within_five_seconds(tmp_path):
    """The whole clip counts: 81 frames, decoded in seven runs of three latent frames."""
    (tmp_path / "five.yaml").write_text(FIVE_SECONDS)
    space = nas.SearchSpace.load(tmp_path / "five.yaml")
    table = nas.profile(space, "roofline", "iphone_16_pro_max", tmp_path / "t.csv", pipeline=True, progress=False)
    cost = CostModel(space, table, estimates=True, steps=4)
    scores = {slot: {"none": 0.0, "Conv1D": 1.0, "SelfAttention1D": 2.0} for slot in space.slots}
    best_s = cost.generation_s(nas.search.optimum(space, cost, scores).architecture)
    least_s = cost.generation_s(space.architecture({}))
    bound = nas.Budget.parse(f"generation<={(best_s + least_s) / 2}s")
    found = nas.search.optimum(space, cost, scores, bound)
    assert found.proved and least_s < cost.generation_s(found.architecture) <= bound.generation_s < best_s < 5
    rows = table.rows()
    decoder_s, text_s = (rows[str(w)].latency_ms / 1e3 for w in (space.decoder_workload(), space.text_workload()))
    step_s = cost.predict(found.architecture).latency_ms / 1e3
    assert cost.generation_s(found.architecture) == pytest.approx(text_s + 4 * step_s + 7 * decoder_s)
    sentence = clip_summary(cost, found.architecture)
    assert sentence.startswith("A 5.06 s clip (81 frames at 16 fps, 512x512) in ")
    assert "7 x decoder" in sentence and "(estimated)" in sentence
