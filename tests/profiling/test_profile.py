"""The profiler on real torch modules: rows, resuming, crashes, memory, and operation counts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.costs import LookupTable, TableWriter
from nas.costs.compare import check_table
from nas.costs.workload_counts import count_ops
from nas.errors import ConfigError, TableError
from nas.profiling import (
    Infeasible,
    OutOfMemory,
    Protocol,
    Runtime,
    Session,
    WorkloadStats,
    measure_architectures,
    profile,
)
from nas.profiling.calibration import fit
from nas.profiling.measuring import measure_all, open_in_processes
from nas.profiling.memory import peak_activation_bytes
from nas.profiling.protocol import Block, Samples, interval_half_width
from nas.profiling.runtimes.eager import EagerRuntime
from nas.profiling.workers.eager import build_module, call, make_inputs
from nas.spaces import Operator, SearchSpace, Workload

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK = Protocol(processes=1, cap_s=0.2, min_samples=6)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    demo = SearchSpace.load("demo")
    slots = {slot: ("none", "Conv1D", "SelfAttention3D") for slot in list(demo.slots)[:2]}
    return replace(demo, name="small", slots=slots)


@pytest.fixture(scope="module")
def profiled(space, tmp_path_factory) -> Path:
    """The folder of a finished table `t.csv` of the space."""
    folder = tmp_path_factory.mktemp("profiled")
    profile(space, out=folder / "t.csv", protocol=QUICK, progress=False)
    return folder


@pytest.mark.slow
def test_profile_measures_every_workload_and_predicts_memory_and_parameters(space, profiled):
    table = LookupTable.load(profiled / "t.csv")
    assert set(table.frame["workload"]) == set(map(str, space.workloads()))
    assert set(table.frame["status"]) == {"ok"} and set(table.frame["source"]) == {"measured"}
    assert (table.frame["count"] >= 6).all() and table.meta["threads"] == 1
    if sys.platform == "linux":
        assert re.search("cpu family|CPU part", table.meta["chip"]), "a name alone may be of two generations"
    cost, archs = nas.CostModel(space, table), [space.random(seed) for seed in range(3)]
    for arch, row in zip(archs, measure_architectures(space, archs, protocol=QUICK)):
        predicted = cost.predict(arch)
        assert predicted.params == row.params
        assert predicted.memory_mb == pytest.approx(row.memory_mb + row.weights_mb, rel=0.05)


@pytest.mark.slow
def test_a_finished_row_is_never_measured_again(space, profiled, tmp_path):
    out = shutil.copytree(profiled, tmp_path / "profiled") / "t.csv"
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote the last row
    begun = LookupTable.load(out).meta
    later = replace(QUICK, min_samples=7)
    again = profile(space, out=out, protocol=later, progress=False)
    assert out.read_text().startswith("".join(lines[:-1]))
    assert len(again.frame) == len(lines) - 1
    assert {**again.meta, "continued": None} == {**begun, "continued": None}, "what the first rows were measured with"
    (visit,) = again.meta["continued"]
    assert visit["workloads"] == 1 and visit["protocol"]["min_samples"] == 7 and visit["reference_ms"] > 0
    assert "chip" not in visit, "as it was"
    with pytest.raises(TableError, match="threads"):
        profile(space, out=out, protocol=QUICK, progress=False, threads=2)


def test_killed_worker_is_an_infeasible_workload(space):
    with EagerRuntime() as runtime:
        workloads = space.workloads()
        doomed, other = runtime.open(workloads[1]), runtime.open(workloads[2])
        os.kill(doomed.worker.pid, signal.SIGKILL)
        with pytest.raises(Infeasible, match="SIGKILL"):
            doomed.block(1)
        assert len(other.block(3)) == 3
        other.close()


def test_a_workload_too_large_for_memory_is_infeasible(space):
    huge = replace(space.workloads()[1], shape=(1, 32, 8, 1 << 17, 1 << 17))
    with EagerRuntime() as runtime, pytest.raises(OutOfMemory, match="out of memory"):
        runtime.open(huge)


def test_unknown_runtime_and_device_are_errors(space):
    with pytest.raises(ConfigError, match="did you mean 'eager'"):
        profile(space, runtime="eagre")
    with pytest.raises(ConfigError, match="unknown device"):
        profile(space, device="toaster")


def test_peak_activation_bytes_of_a_known_chain():
    x = torch.ones(1000, 1000)
    peak = peak_activation_bytes(lambda: ((x + 1) * 2).sum(), torch.device("cpu"))
    assert peak == pytest.approx(2 * x.nbytes, rel=1e-3)


def test_negative_difference_is_a_row_with_latency_0(tmp_path):
    samples = Samples(kept=[Block([-4.0, -5.0, -3.0]), Block([-2.0, 1.0, -4.0]), Block([-1.0, -6.0, 2.0])])
    row = samples.row("noisy", WorkloadStats(1.0, 1.0, 1, 1.0), "measured")
    TableWriter(tmp_path / "t.csv", {}).append(row)
    assert LookupTable.load(tmp_path / "t.csv").rows()["noisy"].latency_ms == 0
    assert row.latency_p10_ms < row.latency_p90_ms < 2.0  # the samples stay as they were


def test_interval_of_the_median_covers_it_95_times_in_100():
    rng = np.random.default_rng(0)
    assert np.isnan(interval_half_width(np.arange(5.0)))
    assert interval_half_width(np.array([1.0, 2, 3, 4, 5, 6])) == 2.5  # all six: misses with 2 / 64
    widths = [interval_half_width(rng.normal(size=n)) for n in (20, 80, 320)]
    assert widths[0] > widths[1] > widths[2]


def test_fit_recovers_a_known_correction():
    predicted = np.array([10.0, 20, 30, 40])
    found = fit(predicted, 1.1 * predicted - 2)
    assert found.scale == pytest.approx(1.1) and found.offset_ms == pytest.approx(-2)


@pytest.mark.parametrize("name", ["demo", "snapgen_v"])
def test_operation_counts_agree_with_torch(name):
    meta = torch.device("meta")
    space = SearchSpace.load(name)
    for workload in space.workloads() + space.pipeline_workloads():
        with meta:
            module, inputs = build_module(workload).eval(), make_inputs(workload, meta)
            with FlopCounterMode(display=False) as counter:
                call(module, inputs)
        counted = count_ops(workload)
        assert counted.params == sum(p.numel() for p in module.parameters())
        # torch counts products alone; norms and activations add up to a few percent
        assert 1 <= counted.flops / counter.get_total_flops() < 1.1, str(workload)


LARGE, HUGE, BROKEN = 1000, 2000, 3000
"""Channels of a workload that needs the whole machine, of one that needs more, and of one that never runs."""


class Slots:
    """Stands in for a machine on which three open workloads leave less than half of the memory."""

    def __init__(self) -> None:
        self.open, self.most = 0, 0

    def available_mb(self) -> float:
        return 10.0 - 2 * self.open


class Counted(Runtime):
    name = "counted"

    def __init__(self, slots: Slots) -> None:
        self.slots, self.broken = slots, 0

    def describe(self) -> dict:
        return {}

    def open(self, workload) -> Session:
        if workload.shape[1] == LARGE and self.slots.open > 1:
            raise OutOfMemory("no room")
        if workload.shape[1] == HUGE:
            raise OutOfMemory("no room")
        if workload.shape[1] == BROKEN:
            self.broken += 1
            raise Infeasible("its memory layout has no kernel")
        self.slots.open += 1
        self.slots.most = max(self.slots.most, self.slots.open)
        return CountedSession(self.slots)

    def close(self) -> None:
        pass


class CountedSession(Session):
    stats = WorkloadStats(memory_mb=1.0, weights_mb=1.0, params=1, load_ms=1.0)

    def __init__(self, slots: Slots) -> None:
        self.slots, self.closed = slots, False

    def block(self, runs: int) -> list[float]:
        assert not self.closed
        return [1.0] * runs

    def close(self) -> None:
        self.slots.open -= not self.closed
        self.closed = True


def test_workloads_are_closed_before_they_fill_the_memory(monkeypatch):
    slots = Slots()
    monkeypatch.setattr("nas.profiling.measuring.available_mb", slots.available_mb)
    workloads = [Workload(Operator("Conv1D"), (1, 16 * i, 8, 4, 4)) for i in range(1, 9)]
    rows = []
    quality = measure_all(Counted(slots), workloads, Protocol(), rows.append)
    assert sorted(row.workload for row in rows) == sorted(map(str, workloads))
    assert slots.most <= 4 and slots.open == 0  # the reference, and three
    assert quality == {"reference_ms": 1.0, "repeated": 0.0}


def test_workload_is_infeasible_only_if_it_does_not_fit_alone():
    workloads = [Workload(Operator("Conv1D"), (1, channels, 8, 4, 4)) for channels in (16, LARGE, HUGE, BROKEN, 32)]
    rows, runtime = [], Counted(Slots())
    measure_all(runtime, workloads, Protocol(), rows.append)
    status = {row.workload: row.status for row in rows}
    assert [status[str(workload)] for workload in workloads] == ["ok", "ok", "infeasible", "infeasible", "ok"]
    assert runtime.broken == 1, "tried again for the word in its reason"


@pytest.mark.parametrize(
    ("max_wait_fraction", "latency_ms"), [(1e9, 1.0), (0.0, 1.5)], ids=["waited out", "no waiting"]
)
def test_group_that_begins_in_a_slow_phase_waits_for_its_end(max_wait_fraction, latency_ms, monkeypatch):
    """The machine is half as fast again from the second group on, until the protocol has waited for ten seconds."""
    slots, rows, waited = Slots(), [], []

    def block(session, runs):
        return [1.5 if len(rows) >= 3 and sum(waited) < 10 else 1.0] * runs

    monkeypatch.setattr("nas.profiling.measuring.available_mb", slots.available_mb)
    monkeypatch.setattr("nas.profiling.protocol.time.sleep", waited.append)
    monkeypatch.setattr(CountedSession, "block", block)
    workloads = [Workload(Operator("Conv1D"), (1, 16 * i, 8, 4, 4)) for i in range(1, 5)]
    quality = measure_all(
        Counted(slots), workloads, Protocol(max_wait_fraction=max_wait_fraction, cap_s=0.01), rows.append
    )
    assert [row.latency_ms for row in rows] == [1.0, 1.0, 1.0, latency_ms]
    assert quality["repeated"] > 0 and (sum(waited) >= 10) == (max_wait_fraction > 0)


class Varying(Runtime):
    """Stands in for a machine on which each new process is faster or slower than the one before, and stays so."""

    name, separate = "varying", True

    def __init__(self, room: int = 99) -> None:
        self.taken, self.room, self.opened = iter([1.30, 1.00, 1.04, 0.90, 1.02, 1.01, 0.99] * 9), room, []

    def describe(self) -> dict:
        return {}

    def open(self, workload) -> Session:
        if sum(not session.closed for session in self.opened) >= self.room:
            raise OutOfMemory("no room")
        self.opened.append(CountedSession(Slots()))
        latency_ms = next(self.taken)
        self.opened[-1].block = lambda runs: [latency_ms] * runs
        return self.opened[-1]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("protocol", "room", "latency_ms", "interval_ms"),
    [
        (Protocol(cap_s=0.02), 99, 1.005, 0.07),  # the middle of six processes, of which the reference had the slowest
        (Protocol(cap_s=0.02, reload_s=0.001), 99, 1.00, 0.0),
        (Protocol(cap_s=0.02), 4, 1.00, 0.0),
    ],
    ids=["six processes", "slow to load", "no room for six"],
)
def test_row_is_the_median_of_processes_and_interval_their_spread(protocol, room, latency_ms, interval_ms):
    rows, runtime = [], Varying(room)
    measure_all(runtime, [Workload(Operator("Conv1D"), (1, 16, 8, 4, 4))], protocol, rows.append)
    assert rows[0].latency_ms == pytest.approx(latency_ms)
    assert rows[0].latency_ci_ms == pytest.approx(interval_ms)
    assert all(session.closed for session in runtime.opened)


def test_slow_workload_is_timed_once_in_one_process_and_the_table_says_so(space, tmp_path):
    """Any run takes longer than 0 s, so that each workload is a slow one."""
    few = replace(space, slots=dict(list(space.slots.items())[:1]))
    table = profile(
        few, out=tmp_path / "t.csv", protocol=Protocol(single_run_s=0.0, in_model_below_ms=0.0), progress=False
    )
    assert set(table.frame["status"]) == {"ok"} and set(table.frame["count"]) == {1}
    assert table.frame["latency_ci_ms"].isna().all() and (table.frame["latency_ms"] > 0).all()
    assert set(table.frame["reason"]) == {"timed once: a sample takes longer than 0 s"}
    messages = [issue.text for issue in check_table(tmp_path / "t.csv", few)]
    assert any("one sample and no interval" in message for message in messages)


def test_slow_workload_is_not_opened_in_more_processes_than_needed_to_know():
    rows, runtime = [], Varying()
    workload = Workload(Operator("Conv1D"), (1, 16, 8, 4, 4))
    measure_all(runtime, [workload], Protocol(single_run_s=0.0), rows.append)
    assert len(runtime.opened) == 3, "the reference, and two of the workload"
    assert rows[0].count == 1 and all(session.closed for session in runtime.opened)


def test_dead_process_ends_all_processes_of_its_workload(space):
    with EagerRuntime() as runtime:
        session = open_in_processes(runtime, space.workloads()[1], Protocol())
        pids = [one.worker.pid for one in session.sessions]
        assert len(set(pids)) == 6
        session.block(1)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(Infeasible, match="SIGKILL"):
            session.block(1)
        assert all(one.worker.connection.closed for one in session.sessions)


def test_slow_workload_gets_more_time_for_its_samples():
    """At 0.1 s a sample: the cap of 1 s leaves ten of the twenty; more are taken until there are twenty or the interval is narrow."""
    protocol = Protocol(cap_s=1.0, slow_cap_s=5.0)

    def samples(values, spent_s):
        return Samples([Block([value]) for value in values], spent_s=spent_s)

    noisy, still = [100.0, 150.0] * 20, [100.0, 101.0] * 20
    assert not samples(noisy[:5], 9.0).done(protocol, 0.0), "too few blocks for an interval"
    assert not samples(still[:6], 0.6).done(protocol, 0.0), "time for more"
    assert samples(still[:10], 1.0).done(protocol, 0.0), "narrow at the cap"
    assert not samples(noisy[:10], 1.0).done(protocol, 0.0)
    assert samples(noisy[:20], 2.0).done(protocol, 0.0), "as many as a quick one has"
    assert samples(noisy[:10], 5.0).done(protocol, 0.0), "the cap of slow workloads"


def test_blocks_beside_a_slow_reference_count_when_there_are_too_few_others():
    samples = Samples(kept=[Block([1.0])] * 2, drifted=[Block([3.0])] * 4)
    assert samples.row("w", WorkloadStats(1.0, 1.0, 1, 1.0), "measured").latency_ms == 3
    samples = Samples(kept=[Block([1.0])] * 6, drifted=[Block([3.0])] * 9)
    assert samples.row("w", WorkloadStats(1.0, 1.0, 1, 1.0), "measured").latency_ms == 1


def test_fit_never_has_a_negative_scale():
    found = fit(np.array([10.0, 20.0, 30.0]), np.array([30.0, 20.0, 10.0]))
    assert found.scale > 0 and found.offset_ms == 0
