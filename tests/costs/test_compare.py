"""Compare, merge and check lookup tables."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.cli import main
from nas.costs import Calibration, LookupTable, Provenance, Row, compare
from nas.errors import TableError

MID = Path(__file__).parent / "tables" / "mid.csv"


@pytest.fixture
def mid() -> LookupTable:
    return LookupTable.load(MID)


def part(table: LookupTable, rows, **meta) -> LookupTable:
    return replace(
        table,
        frame=table.frame.iloc[rows].reset_index(drop=True),
        provenance=Provenance.from_dict({**table.meta, **meta}),
    )


@settings(max_examples=30, deadline=None)
@given(shares=st.lists(st.sets(st.integers(0, 18)), min_size=1, max_size=4))
def test_a_union_holds_every_row_once(shares):
    mid = LookupTable.load(MID)
    parts = [part(mid, sorted(share), date=str(i)) for i, share in enumerate(shares)]
    union = compare.merge_tables(parts)
    expected = {key: row for p in parts for key, row in p.rows().items()}
    assert {k: str(r) for k, r in union.rows().items()} == {k: str(r) for k, r in expected.items()}  # NaN is not NaN
    assert len(union.frame) == len(expected)
    assert union.meta["chip"] == mid.meta["chip"] and len(union.meta["merged"]) == len(parts)
    if len(parts) > 1:
        assert [m["date"] for m in union.meta["merged"]] == [str(i) for i in range(len(parts))]


@pytest.mark.parametrize("key", ["runtime", "device", "chip", "dtype", "threads"])
def test_what_was_measured_otherwise_is_not_merged(mid, key):
    other = 7 if key == "threads" else "other"
    with pytest.raises(TableError, match=f"was profiled with {key}={other!r}"):
        compare.merge_tables([part(mid, slice(0, 5)), part(mid, slice(5, 9), **{key: other})])


def test_conflicts_are_named_or_settled_by_order(mid):
    other = part(mid, slice(0, 6))
    other.frame.loc[[2, 4], "latency_ms"] *= 2
    key = other.frame["workload"][2]
    with pytest.raises(TableError) as caught:
        compare.merge_tables([mid, other])
    assert key in str(caught.value) and "and 1 more rows differ" in str(caught.value)
    assert compare.merge_tables([other, mid], prefer_first=True).rows()[key] == other.rows()[key]
    assert len(compare.merge_tables([other, mid], prefer_first=True).frame) == 19


def test_two_calibrations_are_not_one(mid):
    first, second = part(mid, slice(0, 5)), part(mid, slice(5, 9))
    first.calibration = Calibration(0.9)
    assert compare.merge_tables([first, second]).calibration == Calibration(0.9)
    second.calibration = Calibration(1.1)
    with pytest.raises(TableError, match="calibrated differently"):
        compare.merge_tables([first, second])


def test_difference_against_a_known_one(mid):
    other = part(mid, slice(1, 19), threads=2)
    other.frame["latency_ms"] *= 3
    other.frame.loc[0, "latency_ms"] *= 2
    other.frame.loc[5, ["latency_ms", "status"]] = [np.inf, "infeasible"]
    found = compare.compare_tables(mid, other)
    assert found.provenance == {"threads": (1, 2)}
    assert found.only_first == [mid.frame["workload"][0]] and found.only_second == []
    assert found.feasibility == [mid.frame["workload"][6]]
    assert found.rows["ratio"].iloc[0] == pytest.approx(6) and found.rows["workload"][0] == mid.frame["workload"][1]
    assert found.geometric_mean == pytest.approx(3 * 2 ** (1 / 17))
    assert found.rank_correlation == pytest.approx(found.rows["first_ms"].rank().corr(found.rows["second_ms"].rank()))


def saved(tmp_path: Path, table: LookupTable) -> Path:
    return table.save(tmp_path / "t.csv")


def spoil(table: LookupTable, how: str) -> None:
    frame = table.frame
    if how == "missing":
        table.frame = frame.iloc[:-2]
    elif how == "foreign":
        table.frame = pd.concat([frame, pd.DataFrame([asdict(Row("a stranger", 1, 1, 1, 1, latency_ci_ms=0))])])
    elif how == "zero":
        frame.loc[3, "latency_ms"] = 0
    elif how == "memory":
        frame.loc[3, "memory_mb"] = np.nan
    elif how == "interval":
        frame.loc[3, "latency_ci_ms"] = 0.5 * frame.loc[3, "latency_ms"]
    elif how == "infeasible":
        frame.loc[3, ["status", "reason"]] = ["infeasible", "out of memory"]
    elif how == "sources":
        frame.loc[3, "source"] = "estimated"
    elif how == "estimates":
        frame["source"] = "estimated"
    elif how == "dtype":
        table.provenance = replace(table.provenance, dtype="float16")
    elif how == "busy":
        table.provenance = replace(table.provenance, repeated=0.6)
    elif how == "nobody":
        table.provenance = Provenance()


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("nothing", 0, "sound, and complete for 'mid'"),
        ("missing", 2, "2 of 19 workloads are missing"),
        ("foreign", 1, "1 rows belong to no workload of 'mid': a stranger"),
        ("zero", 2, "latency 0"),
        ("memory", 1, "no memory"),
        ("interval", 1, "up to 50% of"),
        ("infeasible", 1, "out of memory"),
        ("sources", 2, "mixes sources: 18 measured, 1 estimated"),
        ("estimates", 1, "no row is measured"),
        ("dtype", 2, "was profiled in float16, but the space is in float32"),
        ("busy", 1, "60% of the timed blocks"),
        ("nobody", 1, "t.meta.json is missing"),
    ],
)
def test_check_finds_each_problem_and_no_other(mid, how, status, words, tmp_path, capsys):
    mid.frame["latency_ci_ms"] = 0.01 * mid.frame["latency_ms"]  # of a quiet machine
    spoil(mid, how)
    path = saved(tmp_path, mid)
    assert main(["table", "check", str(path), "--space", "mid"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and words in lines[0] and str(path) in lines[0]


def test_check_finds_an_incomplete_last_line(mid, tmp_path, capsys):
    mid.frame["latency_ci_ms"] = 0.0
    path = saved(tmp_path, mid)
    path.write_text(path.read_text()[:-30])
    assert main(["table", "check", str(path), "--space", "mid"]) == 2  # so one workload is missing
    assert "last line is incomplete" in capsys.readouterr().out


def test_check_names_missing_pipeline_rows(tmp_path):
    space = nas.SearchSpace.load("demo")
    rows = [asdict(Row(str(w), 1, 1, 1, 1, latency_ci_ms=0)) for w in space.workloads()]
    path = saved(tmp_path, LookupTable.from_frame(pd.DataFrame(rows), {"runtime": "eager"}))
    (found,) = compare.check_table(path, space)
    assert not found.is_error and "no generation time" in found.text and "--pipeline" in found.text


def test_show_and_diff_for_people_and_for_scripts(mid, tmp_path, capsys):
    assert main(["table", "show", str(MID)]) == 0
    shown = capsys.readouterr().out
    assert "19 workloads, 19 measured, 0 infeasible" in shown and "16x16" in shown and mid.meta["chip"] in shown
    assert main(["table", "show", str(MID), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workloads"][0]["workload"] == mid.frame["workload"][0]
    infeasible = mid.frame.copy()
    infeasible.loc[0, ["latency_ms", "memory_mb", "status"]] = [np.inf, np.nan, "infeasible"]
    other = replace(mid, frame=infeasible, provenance=replace(mid.provenance, chip="another")).save(
        tmp_path / "other.csv"
    )
    assert main(["table", "diff", str(MID), str(other)]) == 0
    assert "profiled differently: chip" in capsys.readouterr().out
    assert main(["table", "diff", str(MID), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank_correlation"] == pytest.approx(1)


def test_merge_overwrites_no_table_that_is_not_merged(mid, tmp_path, capsys):
    first, second = part(mid, slice(0, 9)).save(tmp_path / "a.csv"), part(mid, slice(9, 19)).save(tmp_path / "b.csv")
    precious = part(mid, slice(0, 3)).save(tmp_path / "c.csv")
    before = precious.read_bytes()
    assert main(["table", "merge", str(first), str(second), "--out", str(precious)]) == 2
    assert "already exists" in capsys.readouterr().err and precious.read_bytes() == before
    assert main(["table", "merge", str(first), str(second), "--out", str(first)]) == 0  # into one of them
    assert len(LookupTable.load(first).frame) == 19 and len(LookupTable.load(second).frame) == 10


def test_cells_of_a_table_are_its_rows(mid):
    cells = compare.pivot_by_operator(mid)
    assert list(cells.columns) == ["16x16", "8x8", "4x4"]
    key = "Conv3D[kernel=3] 1x192x8x8x8 float32"
    assert cells.loc["Conv3D", "8x8"] == mid.rows()[key].latency_ms
