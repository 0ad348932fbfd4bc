"""Interpolation: rows of a measured table are hidden, and their latency must be within the interval."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.cli import main
from nas.costs import CostModel, LookupTable
from nas.costs.interpolate import interpolate_missing
from nas.costs.workload_counts import count_ops
from nas.errors import TableError

MID = Path(__file__).parent / "tables" / "mid.csv"


@pytest.fixture(scope="module")
def space():
    return nas.SearchSpace.load("mid")


@pytest.fixture(scope="module")
def table():
    return LookupTable.load(MID)


def hide(table: LookupTable, *keys: str) -> LookupTable:
    return replace(table, frame=table.frame[~table.frame["workload"].isin(keys)])


def test_intervals_hold_the_measured_latency(space, table):
    rng, rows = np.random.default_rng(0), table.rows()
    operators = [str(w) for w in space.workloads()[1:]]
    inside, errors, widths = [], [], []
    for _ in range(60):
        hidden = rng.choice(operators, 2, replace=False)
        found = interpolate_missing(space, hide(table, *hidden)).rows()
        for key in hidden:
            row, truth = found[key], rows[key]
            assert row.source == "interpolated" and row.params == truth.params
            assert row.weights_mb == pytest.approx(truth.weights_mb)
            inside.append(abs(row.latency_ms - truth.latency_ms) <= row.latency_ci_ms)
            errors.append(abs(row.latency_ms / truth.latency_ms - 1))
            widths.append(row.latency_ci_ms / row.latency_ms)
    assert np.mean(inside) >= 0.9
    assert np.mean(errors) < 0.2 and np.median(widths) < 0.6  # an interval that says nothing would cover as well


def test_measured_rows_stay_and_the_source_is_told(space, table):
    hidden = str(space.workload("down.0.0/0", "Conv3D"))
    with pytest.raises(TableError, match=r"no row for 1 of 19 workloads.*--interpolate"):
        CostModel(space, hide(table, hidden))
    cost = CostModel(space, hide(table, hidden), interpolate=True)
    assert cost.sources == ("interpolated", "measured")
    found = cost.predict(space.architecture({"down.0.0/0": "Conv3D", "mid.0/0": "Conv1D"})).breakdown.set_index("slot")
    assert list(found.loc[["down.0.0/0", "mid.0/0"], "source"]) == ["interpolated", "measured"]
    assert found.loc["down.0.0/0", "latency_ci_ms"] > 0.1 * found.loc["down.0.0/0", "latency_ms"]
    kept = cost.table.rows()
    assert all(kept[key] == row for key, row in table.rows().items() if key != hidden)


def test_what_a_smaller_workload_could_not_do_a_larger_cannot(space, table):
    large, middle = (str(space.workload(slot, "SelfAttention3D")) for slot in ("down.0.0/0", "down.1.0/0"))
    failed = table.frame.copy()
    failed.loc[failed["workload"] == middle, ["status", "reason", "latency_ms"]] = ["infeasible", "killed", np.inf]
    row = interpolate_missing(space, hide(replace(table, frame=failed), large)).rows()[large]
    assert row.status == "infeasible" and row.latency_ms == np.inf and f"smaller {middle} cannot run" in row.reason


def test_what_cannot_be_interpolated_is_refused(space, table):
    convolutions = [str(w) for w in space.workloads() if w.kind == "Conv3D"]
    with pytest.raises(TableError, match="no Conv3D is measured at any shape"):
        CostModel(space, hide(table, *convolutions), interpolate=True)
    others = [str(w) for w in space.workloads() if w.kind not in ("Conv3D", "Conv1D", "Backbone")]
    with pytest.raises(TableError, match="6 measured operators are too few"):
        CostModel(space, hide(table, *others), interpolate=True)
    backbone = str(space.backbone_workload())
    with pytest.raises(TableError, match="no row for 1 of 19 workloads of 'mid': Backbone"):
        CostModel(space, hide(table, backbone), interpolate=True)


def test_attention_is_part_of_the_arithmetic(space):
    for workload in space.workloads():
        counted = count_ops(workload)
        assert 0 <= counted.attention_flops < counted.flops
        assert (counted.attention_flops > 0) == (not workload.kind.startswith("Conv"))


def test_the_command_line_shows_the_interval(space, table, tmp_path, capsys):
    arch = space.architecture({"down.0.0/0": "Conv3D"}).save(tmp_path / "a.json")
    holes = hide(table, str(space.workload("down.0.0/0", "Conv3D"))).save(tmp_path / "holes.csv")
    call = ["cost", "--space", "mid", "--table", str(holes), "--arch", str(arch)]
    assert main(call) == 2 and "--interpolate" in capsys.readouterr().err
    assert main([*call, "--interpolate"]) == 0
    shown = capsys.readouterr().out
    assert "interpolated" in shown and "in 90% of cases" in shown
    assert main([*call, "--interpolate", "--json"]) == 0
    slots = {row["slot"]: row for row in json.loads(capsys.readouterr().out)["slots"]}
    assert slots["down.0.0/0"]["source"] == "interpolated" and slots["down.0.0/0"]["latency_ci_ms"] > 0
