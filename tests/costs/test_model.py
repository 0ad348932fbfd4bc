"""The cost model against a slow, independent implementation of its formula."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.costs import Calibration, CostModel, LookupTable, Provenance, Row
from nas.errors import SpaceError, TableError


def table_for(space, seed=0, **changes) -> LookupTable:
    rng = np.random.default_rng(seed)
    rows = [
        Row(str(w), *rng.uniform(0.1, 9, 3), int(rng.integers(10**6)), source="measured") for w in space.workloads()
    ]
    return LookupTable.from_frame(pd.DataFrame([dataclasses.asdict(dataclasses.replace(r, **changes)) for r in rows]))


def slow_cost(space, table, arch):
    """Design, section 3: latency and params add up; memory is the weights plus the largest moment."""
    rows, latent, calibration = table.rows(), space.latent, table.calibration or Calibration()
    base = rows[str(space.backbone_workload())]
    latency, weights, params, peak = base.latency_ms, base.weights_mb, base.params, base.memory_mb
    for slot, choice in arch.choices.items():
        if choice == "none":
            continue
        row, site = rows[str(space.workload(slot, choice))], space.sites[slot.split("/")[0]]
        latency, weights, params = latency + row.latency_ms, weights + row.weights_mb, params + row.params
        alive = (site.skip_elements + site.channels * site.height * site.width) * latent.frames * 4 / 1e6
        peak = max(peak, alive + row.memory_mb)
    return calibration.scale * latency + calibration.offset_ms, weights + peak, params


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), calibrated=st.booleans())
def test_against_the_formula(seed, calibrated):
    space = nas.SearchSpace.load("snapgen_v")
    table = table_for(space, seed)
    table.calibration = Calibration(0.93, 1.5) if calibrated else None
    cost, archs = CostModel(space, table), [space.random(seed + i) for i in range(5)]
    many = cost.predict_many([space.encode(a) for a in archs])
    for arch, (_, predicted) in zip(archs, many.iterrows()):
        expected = slow_cost(space, table, arch)
        assert predicted[["latency_ms", "memory_mb", "params"]].tolist() == pytest.approx(expected)
        one = cost.predict(arch)
        assert (one.latency_ms, one.memory_mb, one.params) == pytest.approx(expected)
        assert one.breakdown["latency_ms"].sum() == pytest.approx(expected[0])
        assert one.breakdown["params"].sum() == expected[2]


def test_buffers_that_the_backbone_keeps_are_there_beside_every_layer():
    space = nas.SearchSpace.load("snapgen_v")
    table = table_for(space)
    kept = CostModel(space, dataclasses.replace(table, provenance=Provenance(buffers="kept")))
    rows, arch = table.rows(), space.random(3)
    used = [rows[str(space.workload(slot, choice))] for slot, choice in arch.choices.items() if choice != "none"]
    base = rows[str(space.backbone_workload())]
    expected = sum(row.weights_mb for row in [base, *used]) + base.memory_mb + max(row.memory_mb for row in used)
    assert kept.predict(arch).memory_mb == pytest.approx(expected)


def test_terms_say_the_same_as_predict_many():
    space = nas.SearchSpace(name="c", slots={f"s{i}": ["none", *"abcdefg"[: 2 + i % 5]] for i in range(9)})
    cost = CostModel(space, table_for(space))
    terms, codes = cost.terms(), np.stack([space.encode(space.random(i)) for i in range(300)])
    costs = cost.predict_many(codes)
    for k, row in enumerate(codes):
        picked = {
            n: [getattr(terms, n)[i][c] for i, c in enumerate(row)] for n in ("latency_ms", "weights_mb", "peak_mb")
        }
        assert costs["latency_ms"][k] == pytest.approx(sum(picked["latency_ms"]))
        assert costs["memory_mb"][k] == pytest.approx(sum(picked["weights_mb"]) + max(picked["peak_mb"]))


def test_what_cannot_run_fits_no_budget():
    space = nas.SearchSpace(name="c", slots={"s": ["none", "a", "b"]})
    table = table_for(space)
    table.frame.loc[0, ["latency_ms", "memory_mb", "status", "reason"]] = [np.nan, np.nan, "infeasible", "killed"]
    cost = CostModel(space, table)
    assert cost.predict(space.architecture({"s": "a"})).latency_ms == np.inf
    assert nas.Budget(latency_ms=1e9).mask(cost.predict_many([[0], [1], [2]])).tolist() == [True, False, True]


def test_missing_rows_are_listed_with_the_command_that_measures_them():
    space = nas.SearchSpace.load("demo")
    table = table_for(space)
    table.frame = table.frame.iloc[:-5]
    with pytest.raises(TableError, match=r"no row for 5 of 13 workloads.*and 2 more.*nas profile --space demo"):
        CostModel(space, table)


def test_estimates_are_never_mixed_in_silently():
    space = nas.SearchSpace.load("demo")
    table = table_for(space)
    table.frame.loc[3, "source"] = "estimated"
    with pytest.raises(TableError, match="mixes estimated and measured"):
        CostModel(space, table)
    mixed = CostModel(space, table, estimates=True)
    assert mixed.sources == ("estimated", "measured")
    assert CostModel(space, table_for(space, source="estimated")).sources == ("estimated",)


@pytest.mark.parametrize("codes", [[[0] * 6], [[0] * 6 + [7]], [[-1] + [0] * 6]])
def test_wrong_codes(codes):
    space = nas.SearchSpace.load("demo")
    with pytest.raises(SpaceError):
        CostModel(space, table_for(space)).predict_many(codes)


def test_upper_bounds_are_the_corner_of_what_can_run():
    space = nas.SearchSpace(name="c", slots={"s0": ["none", "a", "b"], "s1": ["none", "a"]})
    table = table_for(space)
    table.frame.loc[1, "status"] = "infeasible"
    cost = CostModel(space, table)
    every = cost.predict_many([[i, j] for i in range(3) for j in range(2)])
    every = every[np.isfinite(every["latency_ms"])]
    bounds = cost.upper_bounds()
    assert (bounds.latency_ms, bounds.params) == pytest.approx((every["latency_ms"].max(), every["params"].max()))
    assert bounds.memory_mb >= every["memory_mb"].max()
