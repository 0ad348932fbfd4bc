"""Tables carried over to made-up devices: intervals hold, chosen rows tell more than random ones, measured rows stay."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.cli import main
from nas.costs import CostModel, LookupTable
from nas.costs.compare import check_table, compare_tables, merge_tables
from nas.costs.transfer import Transfer
from nas.errors import ConfigError, TableError
from nas.profiling import profile, transfer
from tests.support.devices import QUICK, TableRuntime, made_up

MEASURED = 8


@pytest.fixture(scope="module")
def space():
    return nas.SearchSpace.load("mid")


@pytest.fixture(scope="module")
def pairs(space):
    """For several pairs of devices: the problem, the second device's table, and the table transferred to it."""
    found = []
    for seed in range(30):
        problem, target = Transfer(space, [made_up(space, 2 * seed)]), made_up(space, 2 * seed + 1)
        chosen = [str(workload) for workload in problem.plan({}, MEASURED)]
        found.append((problem, target, problem.fill(only(target, chosen)).table))
    return found


def only(table: LookupTable, keys) -> LookupTable:
    return replace(table, frame=table.frame[table.frame["workload"].isin(keys)].reset_index(drop=True))


def error(space, table: LookupTable, truth: LookupTable) -> float:
    """Mean relative error of architectures' latencies."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(len(choices), size=100) for choices in space.slots.values()], axis=1)
    predicted, true = (CostModel(space, t).predict_many(codes)["latency_ms"] for t in (table, truth))
    return float((predicted / true - 1).abs().mean())


def test_intervals_hold_in_nine_of_ten_cases(pairs):
    inside, widths = [], []
    for _, target, table in pairs:
        for key, row in table.rows().items():
            if row.source == "transferred":
                inside.append(abs(row.latency_ms - target.rows()[key].latency_ms) <= row.latency_ci_ms)
                widths.append(row.latency_ci_ms / row.latency_ms)
    assert len(inside) == len(pairs) * 11
    assert 0.85 <= np.mean(inside) <= 0.95
    assert np.median(widths) < 0.8  # an interval that says nothing would cover as well


def test_chosen_rows_tell_more_than_random_ones(space, pairs):
    rng, chosen, drawn = np.random.default_rng(0), [], []
    for problem, target, table in pairs:
        chosen.append(error(space, table, target))
        subset = rng.choice(target.frame["workload"], MEASURED, replace=False)
        drawn.append(error(space, problem.fill(only(target, subset)).table, target))
    assert np.mean(chosen) < 0.6 * np.mean(drawn)


@settings(max_examples=15, deadline=None)
@given(seeds=st.tuples(st.integers(0, 999), st.integers(1000, 1999)), count=st.integers(3, 19), data=st.data())
def test_any_devices_and_any_measured_rows(space, seeds, count, data):
    source, target = (made_up(space, seed) for seed in seeds)
    problem, needed = Transfer(space, [source]), [str(w) for w in space.workloads()]
    order = [str(workload) for workload in problem.plan({}, count)]
    assert len(set(order)) == count and [str(w) for w in problem.plan({}, 19)][:count] == order
    done = data.draw(st.sets(st.sampled_from(order), max_size=count))
    rest = [str(workload) for workload in problem.plan(only(target, done).rows(), count)]
    assert rest == [key for key in order if key not in done], "an interrupted run measures the rest of its plan"
    found, truth = problem.fill(only(target, order)).table.rows(), target.rows()
    assert sorted(found) == sorted(needed)
    for key, row in found.items():
        assert row.source == ("measured" if key in order else "transferred")
        assert str(row) == str(truth[key]) if key in order else row.params == truth[key].params
        assert 0 < row.latency_ms < np.inf and row.latency_ci_ms > 0 and row.memory_mb > 0 and row.weights_mb > 0


def test_a_device_that_is_twice_as_fast_is_known_from_three_rows(space):
    source = made_up(space, 0, noise=0.0)
    target = replace(source, frame=source.frame.assign(latency_ms=source.frame["latency_ms"] / 2))
    problem = Transfer(space, [source])
    found = problem.fill(only(target, map(str, problem.plan({}, 3)))).table.rows()
    for key, row in target.rows().items():
        assert found[key].latency_ms == pytest.approx(row.latency_ms, rel=0.02)
        assert found[key].memory_mb == pytest.approx(row.memory_mb, rel=0.01)
        assert found[key].weights_mb == pytest.approx(row.weights_mb, rel=0.01)


def test_two_sources_are_better_than_the_worse_one(space):
    """One of the sources is like the device, the other is not."""
    like, other = made_up(space, 0), made_up(space, 1)
    rng = np.random.default_rng(0)
    noise = np.exp(0.03 * rng.standard_normal(len(like.frame)))
    target = replace(like, frame=like.frame.assign(latency_ms=3 * like.frame["latency_ms"] * noise))
    errors = {}
    for name, sources in {"like": [like], "other": [other], "both": [other, like]}.items():
        problem = Transfer(space, sources)
        errors[name] = error(space, problem.fill(only(target, map(str, problem.plan({}, 8)))).table, target)
    assert errors["both"] < errors["other"] and errors["both"] < 0.03


def test_memory_follows_a_runtime_that_stores_attention_scores(space):
    """From a runtime with fused attention to one without, whose convolutions take half as much again."""
    from nas.costs.workload_counts import count_ops

    source = made_up(space, 0)
    stored = {
        str(w): 4 * count_ops(w).unfused().peak / 1e6 * (1.5 if "Conv" in w.kind else 1) for w in space.workloads()
    }
    target = made_up(space, 1)
    target = replace(target, frame=target.frame.assign(memory_mb=target.frame["workload"].map(stored)))
    problem = Transfer(space, [source])
    found = problem.fill(only(target, map(str, problem.plan({}, 10)))).table.rows()
    assert np.mean([abs(found[key].memory_mb / mb - 1) for key, mb in stored.items()]) < 0.1


def test_memory_that_the_device_does_not_report_stays_unknown(space):
    target = made_up(space, 1)
    target = replace(target, frame=target.frame.assign(memory_mb=np.nan))
    problem = Transfer(space, [made_up(space, 0)])
    assert problem.fill(only(target, map(str, problem.plan({}, 8)))).table.frame["memory_mb"].isna().all()


def test_a_row_that_the_source_lacks_is_predicted_from_its_others(space):
    source, target = made_up(space, 0), made_up(space, 1)
    lost = str(space.workload("down.1.0/0", "Conv3D"))
    problem = Transfer(space, [only(source, set(source.frame["workload"]) - {lost})])
    chosen = [str(w) for w in problem.plan({}, 10) if str(w) != lost]
    row = problem.fill(only(target, chosen)).table.rows()[lost]
    assert row.source == "transferred" and row.params == target.rows()[lost].params
    assert abs(np.log(row.latency_ms / target.rows()[lost].latency_ms)) < 1


def infeasible(table: LookupTable, key: str) -> LookupTable:
    frame = table.frame.copy()
    frame.loc[frame["workload"] == key, ["status", "reason", "latency_ms"]] = ["infeasible", "killed", np.inf]
    return replace(table, frame=frame)


def test_what_cannot_run(space):
    large, middle = (str(space.workload(slot, "SelfAttention3D")) for slot in ("down.0.0/0", "down.1.0/0"))
    source, target = made_up(space, 0), made_up(space, 1)
    problem = Transfer(space, [infeasible(source, large)])
    assert large in map(str, problem.plan({}, 3, "another")), "it may run with another runtime"
    chosen = [str(w) for w in problem.plan({}, 10, "made-up-0")]
    assert large not in chosen, "no architecture with it runs, by the source"
    row = problem.fill(only(target, chosen)).table.rows()[large]
    assert (row.status, row.source) == ("infeasible", "transferred") and "killed" in row.reason
    problem, failed = Transfer(space, [source]), infeasible(target, middle)
    keys = [key for key in target.frame["workload"] if key != large][:10]
    row = problem.fill(only(failed, {*keys, middle})).table.rows()[large]
    assert row.status == "infeasible" and f"smaller {middle} cannot run: killed" in row.reason
    assert large not in map(str, problem.plan(only(failed, [middle]).rows(), 19))


# -- measuring on the device -------------------------------------------------------------------------------------------


@pytest.fixture
def files(space, tmp_path):
    """The first device's table, and that of the second, which a run has yet to find out."""
    made_up(space, 0).save(tmp_path / "known.csv")
    return tmp_path / "known.csv", made_up(space, 1)


def carry_over(space, known, runtime, out, measure=8):
    return transfer(space, [known], runtime, out=out, measure=measure, protocol=QUICK, progress=False)


def test_more_measurements_refine_and_measured_rows_stay(space, files, tmp_path):
    (known, target), out = files, tmp_path / "new.csv"
    carry_over(space, known, TableRuntime(target), out)
    first = LookupTable.load(out)
    assert first.frame["source"].value_counts().to_dict() == {"transferred": 11, "measured": 8}
    assert first.meta["transfer"]["from"][0]["table"] == str(known) and first.meta["transfer"]["measured"] == 8
    nothing = TableRuntime(target)
    carry_over(space, known, nothing, out)
    assert nothing.opened == [] and LookupTable.load(out).frame.equals(first.frame)
    more = TableRuntime(target)
    carry_over(space, known, more, out, 12)
    second = LookupTable.load(out)
    assert len(more.opened) == 4 and not set(more.opened) & set(first.frame.query("source == 'measured'")["workload"])
    kept = {key: row for key, row in first.rows().items() if row.source == "measured"}
    assert str({key: second.rows()[key] for key in kept}) == str(kept)
    rest = TableRuntime(target)
    profile(space, rest, out=out, protocol=QUICK, progress=False)
    assert len(rest.opened) == 7, "nas profile measures what is not measured"
    assert set(LookupTable.load(out).frame["source"]) == {"measured"}


@pytest.mark.parametrize("finished", [0, 1, 5])
def test_a_run_that_is_stopped_resumes(space, files, tmp_path, finished):
    """Rows are written as they are finished; here the run stops while the workload after them is opened."""
    (known, target), out, alone = files, tmp_path / "new.csv", tmp_path / "alone.csv"
    carry_over(space, known, TableRuntime(target), alone)
    order = Transfer(space, [LookupTable.load(known)]).plan({}, 8)
    if finished:
        profile(space, TableRuntime(target), out=out, protocol=QUICK, progress=False, only=order[-finished:])
    with pytest.raises(KeyboardInterrupt):
        carry_over(space, known, TableRuntime(target, stop_after=2), out)
    resumed = TableRuntime(target)
    carry_over(space, known, resumed, out)
    assert len(resumed.opened) == 8 - finished and not set(resumed.opened) & set(map(str, order[8 - finished :]))
    expected, found = (LookupTable.load(path).frame.sort_values("workload", ignore_index=True) for path in (alone, out))
    columns = ["workload", "latency_ms", "latency_ci_ms", "memory_mb", "weights_mb", "params", "source"]
    assert expected[columns].equals(found[columns])


def test_large_attention_is_tried_alone_and_the_smallest_first(tmp_path):
    """What does not run costs one measurement, not one for each size of its kind."""
    space = nas.SearchSpace.load("snapgen_v")
    large, small = (str(space.workload(slot, "SelfAttention3D")) for slot in ("down.0.0/0", "down.1.0/0"))
    source, target = made_up(space, 0), made_up(space, 1)
    problem = Transfer(space, [source])
    plan = [str(workload) for workload in problem.plan({}, 10)]
    assert {large, small} < set(plan)
    source.save(tmp_path / "known.csv")
    everything = TableRuntime(target)
    carry_over(space, tmp_path / "known.csv", everything, tmp_path / "all.csv", 10)
    assert set(everything.opened) == set(plan), "rounds do not change what is measured where all runs"
    assert everything.opened.index(small) < everything.opened.index(large)
    without = TableRuntime(infeasible(infeasible(target, large), small))
    found = carry_over(space, tmp_path / "known.csv", without, tmp_path / "new.csv", 10).table.rows()
    assert len(without.opened) == 10 and small in without.opened and large not in without.opened
    assert f"smaller {small} cannot run" in found[large].reason
    after = without.opened.index(small) + 1
    done = LookupTable.load(tmp_path / "new.csv")
    rest = problem.plan(only(done, without.opened[:after]).rows(), 10, without.name)
    assert set(without.opened[after:]) == set(map(str, rest)), "the others are chosen for architectures that run"


def test_costs_say_how_much_is_transferred(space, files, tmp_path, capsys):
    (known, target), out = files, tmp_path / "new.csv"
    table = carry_over(space, known, TableRuntime(target), out).table
    cost = CostModel(space, LookupTable.load(out))
    assert cost.sources == ("measured", "transferred")
    moved = {w for w, row in table.rows().items() if row.source == "transferred"}
    arch = next(a for a in map(space.random, range(99)) if {str(space.workload(s, c)) for s, c in a.items} & moved)
    found = cost.predict(arch)
    expected = sum(table.rows()[key].latency_ms for s, c in arch.items if (key := str(space.workload(s, c))) in moved)
    assert found.transferred_ms == pytest.approx(expected) and 0 < expected < found.latency_ms
    arch.save(tmp_path / "arch.json")
    call = ["cost", "--space", "mid", "--table", str(out), "--arch", str(tmp_path / "arch.json")]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert (
        f"of which {expected:.3f} ms ({expected / found.latency_ms:.1%}) is transferred from other devices, +-" in told
    )
    assert main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transferred_ms"] == pytest.approx(expected)


def test_a_search_on_such_a_table_says_so(space, files, tmp_path, capsys):
    (known, target), out = files, tmp_path / "new.csv"
    table = carry_over(space, known, TableRuntime(target), out).table
    slot, choice = next(
        (s, c)
        for s, cs in space.slots.items()
        for c in cs
        if (w := space.workload(s, c)) and table.rows()[str(w)].source == "transferred"
    )
    scores = {s: {c: float((s, c) == (slot, choice)) for c in cs if c != "none"} for s, cs in space.slots.items()}
    (tmp_path / "scores.json").write_text(json.dumps({"scores": scores}))
    words = f"search --space mid --table {out} --budget latency<=100% --evaluator {tmp_path / 'scores.json'} --trials 3"
    assert main([*words.split(), "--out", str(tmp_path / "best.json")]) == 0
    assert "is transferred from other devices" in capsys.readouterr().out


def test_tables_tell_transferred_rows_apart(space, files, tmp_path, capsys):
    (known, target), out = files, tmp_path / "new.csv"
    carry_over(space, known, TableRuntime(target), out)
    issues = check_table(out, space)
    assert not any(issue.is_error for issue in issues)
    assert any("11 rows" in issue.text and "transferred from other devices" in issue.text for issue in issues)
    assert main(["table", "show", str(out)]) == 0
    assert capsys.readouterr().out.count("\ntransferred: ") == 11
    compared = compare_tables(LookupTable.load(known), LookupTable.load(out))
    assert len(compared.rows) == 8 and len(compared.transferred) == 11, (
        "a prediction from a table says nothing about it"
    )
    whole = replace(target, provenance=LookupTable.load(out).provenance)
    merged = merge_tables([LookupTable.load(out), whole], prefer_first=True)
    assert set(merged.frame["source"]) == {"measured"} and len(merged.frame) == 19
    with pytest.raises(TableError, match="runtime"):
        merge_tables([LookupTable.load(known), LookupTable.load(out)])
    with pytest.raises(TableError, match="only a measured table can be calibrated"):
        nas.profiling.calibrate(space, LookupTable.load(out))


def test_transferred_rows_are_no_source(space, files, tmp_path):
    (known, target), out = files, tmp_path / "new.csv"
    carry_over(space, known, TableRuntime(target), out, 3)
    frame = LookupTable.load(out).frame.query("source == 'transferred'")
    LookupTable.from_frame(frame).save(tmp_path / "predicted.csv")
    with pytest.raises(TableError, match=r"predicted.csv: has measured rows of 0 of the 19 workloads of 'mid'"):
        carry_over(space, tmp_path / "predicted.csv", TableRuntime(target), tmp_path / "next.csv")


def test_too_few_rows_that_run(space, files, tmp_path):
    known, target = files
    for key in target.frame["workload"][:17]:
        target = infeasible(target, key)
    with pytest.raises(TableError, match=r"new.csv: . measured workloads ran on the device.*--measure"):
        carry_over(space, known, TableRuntime(target), tmp_path / "new.csv", 3)


def test_another_runtime_is_refused(space, files, tmp_path):
    (known, target), out = files, tmp_path / "new.csv"
    carry_over(space, known, TableRuntime(target), out)
    with pytest.raises(TableError, match=r"new.csv: was profiled with runtime='looked-up', now it is 'eager'"):
        transfer(space, [known], "eager", out=out)
    with pytest.raises(ConfigError, match=r"known.csv: .*another --out"):
        transfer(space, [known], TableRuntime(target), out=known)
