"""The conformance suite on every runtime of this library, and how a block is timed."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from nas.costs import CostModel
from nas.errors import ConfigError
from nas.profiling import RUNTIMES, Protocol, measure_architectures, profile
from nas.profiling.host import clock_of
from nas.profiling.runtimes import make
from nas.profiling.web.runtime import WebRuntime
from nas.profiling.workers.worker import time_block
from nas.spaces import SearchSpace
from nas.testing.runtimes import RuntimeTestCase
from tests.support import web
from tests.support.tiny import SPACE

pytestmark = pytest.mark.usefixtures("kept_processes")

DEVICES = {"roofline": "snapdragon_8_elite"}
"""Devices of runtimes that do not run on `local`."""
QUICK = Protocol(processes=1, cap_s=0.01, slow_cap_s=0.01, min_samples=2, min_blocks=2)


@pytest.fixture(scope="module", autouse=True)
def cache(converted_models, tmp_path_factory):
    """Keep converted models out of the user's cache; a browser times models for 0.3 s where it takes up to 8 s."""
    with pytest.MonkeyPatch.context() as patch:
        web.short_timings(tmp_path_factory.mktemp("page"), patch)
        web.own_cache(converted_models, patch)
        patch.setattr("nas.profiling.web.runtime.WARM_MS", 10.0)
        for runtime in ("web.runtime", "runtimes.litert"):
            patch.setattr(f"nas.profiling.{runtime}.TRIALS", 1)
        yield


class TestEager(RuntimeTestCase):
    def make_runtime(self):
        return make("eager")


class TestRoofline(RuntimeTestCase):
    weight_bytes = 2

    def make_runtime(self):
        return make("roofline", DEVICES["roofline"])


@pytest.mark.slow
class TestLitert(RuntimeTestCase):
    kept_mb = 0.5

    def make_runtime(self):
        return make("litert")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "darwin", reason="measures on a Mac")
class TestCoreML(RuntimeTestCase):
    weight_bytes = 2

    def make_runtime(self):
        return make("coreml")


@pytest.mark.slow
class TestWeb(RuntimeTestCase):
    kept_mb = 0.5
    made: ClassVar[list[WebRuntime]] = []

    def make_runtime(self):
        self.made.append(make("web", browser=web.chromium()))
        return self.made[-1]

    def test_a_table_is_filled_and_resumed(self, space, tmp_path):
        """Though the browser is killed at any moment while the table is filled."""
        number, killed = len(self.made), []

        def kill(after_s):
            while len(self.made) == number:
                time.sleep(0.01)
            time.sleep(after_s)
            os.kill(self.made[number].browser.process.pid, signal.SIGKILL)
            killed.append(after_s)

        with ThreadPoolExecutor() as pool:
            for after_s in (0.5, 9.0):  # while it starts, and later
                pool.submit(kill, after_s)
            super().test_a_table_is_filled_and_resumed(space, tmp_path)
        assert 0.5 in killed


def test_every_runtime_has_a_suite():
    suites = [TestCoreML, TestEager, TestLitert, TestRoofline, TestWeb]
    assert {suite.__name__.removeprefix("Test").lower() for suite in suites} == set(RUNTIMES)


@pytest.mark.parametrize("name", sorted(set(RUNTIMES) - {"web"}))  # a phone may have any name
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ConfigError):
        make(name, "toaster")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "roofline"])
def test_a_table_predicts_the_parameters_and_memory_of_whole_models(name, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    space, device = SearchSpace.load(str(path)), DEVICES.get(name, "local")
    table = profile(space, name, device, tmp_path / "t.csv", QUICK, progress=False)
    full = space.architecture({slot: "SelfAttention1D" for slot in space.slots})
    [row] = measure_architectures(space, [full], name, device, QUICK, table=table)
    predicted = CostModel(space, table).predict(full)
    assert predicted.params == row.params and row.status == "ok"
    if row.source == "estimated":
        assert 0.5 < predicted.latency_ms / row.latency_ms < 2


class Counter:
    """A workload on a clock of its own: a run takes 5 ms, or 6 ms right after a base; a base takes 3 ms, or 5 ms."""

    def __init__(self, copies: int) -> None:
        self.copies, self.now_s, self.last = copies, 0.0, ""

    def clock(self):
        return self.now_s

    def run(self):
        self.now_s += 0.005 + 0.001 * (self.last == "base")
        self.last = "run"

    def base(self):
        self.now_s += 0.003 + 0.002 * (self.last == "run")
        self.last = "base"


def test_a_block_is_timed_by_the_workloads_own_clock():
    assert time_block(Counter(copies=0), 3) == pytest.approx([5.0] * 3)


def test_an_operator_in_a_model_is_the_difference_of_warm_runs():
    assert time_block(Counter(copies=2), 5) == pytest.approx([1.0] * 5)


def test_one_thread_is_timed_by_its_processor_time_and_several_by_the_wall_clock():
    """Other programs' turns on the core do not count for one thread."""
    assert clock_of(1) == ("thread CPU time", time.thread_time)
    assert clock_of(2) == ("wall", time.perf_counter)
