"""What every runtime must do, by one suite: a new runtime passes it, or is skipped with the reason why it is not here."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.costs import CostModel
from nas.costs.workload_counts import count_ops
from nas.errors import ConfigError, MissingDependency
from nas.profiling import RUNTIMES, Infeasible, Protocol, measure_architectures, profile
from nas.profiling.host import clock_of
from nas.profiling.runtimes import make
from nas.profiling.runtimes.base import InPlace
from nas.profiling.workers.worker import time_block
from nas.spaces import Operator, SearchSpace, Workload
from tests.support.tiny import SPACE

DEVICES = {"roofline": "snapdragon_8_elite"}
"""What a runtime needs to be given; `local` for the others."""

QUICK = Protocol(processes=1, cap_s=0.2, min_samples=6)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Converted models go into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(name: str, **options):
    """The runtime, or a skip with what it says is missing."""
    try:
        runtime = make(name, DEVICES.get(name, "local"), **options)
        runtime.open(Workload(Operator("SelfAttention1D", {"heads": 2}), (1, 16, 2, 4, 4))).close()
    except MissingDependency as error:
        pytest.skip(str(error))
    return runtime


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def runtime(request, cache):
    with opened(request.param) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> SearchSpace:
    path = tmp_path_factory.mktemp("spaces") / "tiny.yaml"
    path.write_text(SPACE)
    return SearchSpace.load(str(path))


def conv(side: int) -> Workload:
    return Workload(Operator("Conv3D", {"kernel": 3}), (1, 32, 4, side, side))


def test_it_says_where_its_numbers_come_from(runtime):
    about = runtime.describe()
    assert {"runtime", "version", "device", "chip", "os", "threads"} <= set(about)
    assert about["runtime"].startswith(runtime.name) and runtime.source in ("measured", "estimated")
    text = json.dumps(about)
    assert platform.node() not in text and str(Path.home()) not in text  # tables are published


def test_a_session_knows_its_workload_and_runs_it_in_blocks(runtime):
    session, counted = runtime.open(conv(8)), count_ops(conv(8))
    assert session.loaded.params == counted.params
    weights_mb = counted.params * (2 if runtime.name in ("coreml", "roofline") else 4) / 1e6
    kept_mb = 0.5 if runtime.name == "litert" else 0.0  # what it keeps for each operation besides
    assert weights_mb <= session.loaded.weights_mb * (1 + 1e-9) <= (weights_mb + kept_mb) * (1 + 1e-6)
    assert np.isnan(session.loaded.memory_mb) or 0 < session.loaded.memory_mb < 10
    block = session.block(5)
    assert len(block) == 5 and all(0 < ms < 1000 for ms in block)
    session.close()
    session.close()


def test_a_second_session_on_a_workload_runs_the_same(runtime, space):
    in_place = [InPlace(space, space.workload("down.0.0/0", "SelfAttention1D"))] if runtime.in_place else []
    for workload in [conv(8), *in_place]:
        first = runtime.open(workload)
        second = runtime.reopen(workload, first.loaded)
        assert (second.loaded.params, second.loaded.form) == (first.loaded.params, first.loaded.form)
        assert len(second.block(9)) == 9
        if workload not in in_place:  # where it is a small difference of two times
            assert 1 / 4 < np.median(second.block(9)) / np.median(first.block(9)) < 4  # a busy machine
        first.close(), second.close()


def test_64_times_the_work_takes_longer_and_more_memory(runtime):
    small, large = runtime.open(conv(8)), runtime.open(conv(64))
    small.block(1), large.block(1)
    assert np.median(large.block(5)) > 1.2 * np.median(small.block(5))  # what it costs to begin is in both
    assert not large.loaded.memory_mb < 10 * small.loaded.memory_mb
    small.close(), large.close()


def test_what_no_device_can_hold_is_infeasible_and_the_runtime_goes_on(runtime):
    huge = Workload(Operator("Conv1D", {"kernel": 3}), (1, 32, 8, 1 << 17, 1 << 17))
    with pytest.raises(Infeasible, match="memory"):
        runtime.open(huge)
    other = runtime.open(conv(8))
    assert len(other.block(2)) == 2
    other.close()


def test_it_names_what_it_was_not_made_for(runtime):
    with pytest.raises(ConfigError):
        make(runtime.name, "toaster")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
@pytest.mark.slow
def test_a_table_is_filled_once_and_predicts_whole_models(name, space, tmp_path):
    opened(name).close()
    out, device = tmp_path / "t.csv", DEVICES.get(name, "local")
    table = profile(space, name, device, out, QUICK, progress=False)
    frame, source = table.frame, make(name, device).source
    assert set(frame["workload"]) == set(map(str, space.workloads()))
    assert set(frame["source"]) == {source} and set(frame["status"]) == {"ok"}
    assert (frame["latency_ms"] >= 0).all() and (frame["memory_mb"] >= 0).all()
    assert ((frame["count"] > 0) == (source == "measured")).all()
    written = out.read_text()
    profile(space, name, device, out, QUICK, progress=False)
    assert out.read_text() == written
    lines = written.splitlines(keepends=True)
    out.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote the last row
    profile(space, name, device, out, QUICK, progress=False)
    assert out.read_text().startswith("".join(lines[:-1])) and len(out.read_text().splitlines()) == len(lines)
    full = space.architecture({slot: "SelfAttention1D" for slot in space.slots})
    row = measure_architectures(space, [full], name, device, QUICK, table=table)[0]
    predicted = CostModel(space, replace(table, calibration=None)).predict(full)
    assert predicted.params == row.params
    assert 0.5 < predicted.latency_ms / row.latency_ms < 2  # a busy machine; benchmarks/prediction.py says how close


def test_closing_twice_is_fine():
    for name in RUNTIMES:
        try:
            runtime = make(name, DEVICES.get(name, "local"))
        except MissingDependency:
            continue
        runtime.close()
        runtime.close()


def test_another_programs_turn_on_the_core_does_not_count():
    """One thread is timed by what it does, not by the time on the wall: `run` does nothing for 20 ms, then some work."""

    class Ready:
        copies, clock = 0, staticmethod(clock_of(1)[1])

        @staticmethod
        def run() -> None:
            time.sleep(0.02)
            sum(range(1000))

    assert max(time_block(Ready(), 3)) < 5
    assert clock_of(2)[0] == "wall"


class Rivals:
    """A run of 5 ms and a base of 3 ms, of which each is slower where the other has just used the caches, the base more."""

    copies, now_s, last = 2, 0.0, ""

    def clock(self):
        return self.now_s

    def run(self):
        self.now_s += 0.005 + 0.001 * (self.last == "base")
        self.last = "run"

    def base(self):
        self.now_s += 0.003 + 0.002 * (self.last == "run")
        self.last = "base"


def test_an_operator_in_place_is_the_difference_of_warm_runs():
    assert time_block(Rivals(), 5) == pytest.approx([1.0] * 5)
