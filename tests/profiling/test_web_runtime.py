"""`nas profile --runtime web` as a whole, with a page that has no browser and models that need no converter."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nas.cli import main
from nas.costs import LookupTable
from nas.errors import ConfigError, MissingDependency, TableError
from nas.failures import Infeasible
from nas.profiling import Protocol, calibrate, profile
from nas.profiling.litert_models import LitertConverter
from nas.profiling.protocol import Reference, measure
from nas.profiling.runtimes import make
from nas.profiling.runtimes.base import ConvertedModel, Session, WorkloadStats
from nas.profiling.web import exchange
from nas.profiling.web.models import is_small
from nas.profiling.web.runtime import WebRuntime
from nas.spaces import Operator, SearchSpace, Workload
from tests.support import tiny
from tests.support.fake_page import FakePage

QUICK = Protocol(processes=1, cap_s=0.01, slow_cap_s=0.01, min_samples=2, min_blocks=2)


@pytest.fixture
def space(tmp_path) -> SearchSpace:
    (tmp_path / "tiny.yaml").write_text(tiny.SPACE)
    return SearchSpace.load(str(tmp_path / "tiny.yaml"))


@pytest.fixture(autouse=True)
def without_converter(tmp_path, monkeypatch):
    """Models of 1000 bytes; Conv1D cannot be converted. And no long waits."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"x" * 1000)

    def convert(converter, workload, variant="", copies=1):
        if str(workload).startswith("Conv1D"):
            raise Infeasible("Conv1D cannot be converted")
        return ConvertedModel(path, 7, 0.0005, variant or "reference", copies)

    library = tmp_path / "library"
    library.mkdir()
    monkeypatch.setattr(LitertConverter, "__call__", convert)
    monkeypatch.setattr("nas.web_libraries.folder", lambda: library)
    monkeypatch.setattr(exchange, "POLL_S", 0.1)
    monkeypatch.setattr("nas.profiling.web.runtime.END_S", 0.3)


def test_a_page_fills_a_table_that_names_it(space, tmp_path, capsys):
    runtime = make("web")
    url = runtime.server.url
    assert url in capsys.readouterr().err
    with ThreadPoolExecutor() as pool:
        page = FakePage(url)
        page.hello()
        worked = pool.submit(page.work)
        table = profile(space, runtime, out=tmp_path / "t.csv", protocol=QUICK)
        assert worked.result(10) == "3 of 3 workloads are measured."
    rows = {workload.partition("[")[0]: row for workload, row in table.rows().items()}
    assert rows["Backbone"].latency_ms == 0.5 and rows["Backbone"].count >= 10
    assert rows["Backbone"].memory_mb == pytest.approx((5000 - 1000 - 200 - 100) / 1e6 - 0.0005)
    assert rows["SelfAttention1D"].latency_ms == 0, "both models take the same time"
    assert rows["Conv1D"].status == "infeasible" and "cannot be converted" in rows["Conv1D"].reason
    meta = table.meta
    wanted = {
        "device": "Pixel 8",
        "engine": "Chromium 156",
        "wasm": "relaxed SIMD",
        "os": "Android 15.0.0",
        "threads": 1,
    }
    assert {key: meta[key] for key in wanted} == wanted
    assert meta["isolated"] is True and meta["clock_ms"] == 0.005 and meta["screen"] == "unknown"
    assert meta["operators"] == "in place" and "high-water mark" in meta["memory"]


def test_two_pages_take_turns_and_one_of_another_phone_does_not(space, tmp_path):
    runtime = make("web", device="my phone")
    url = runtime.server.url
    with ThreadPoolExecutor() as pool:
        profiled = pool.submit(profile, space, runtime, out=tmp_path / "t.csv", protocol=QUICK, progress=False)
        for number in range(20):
            page = FakePage(url, f"page {number}")
            if page.hello()[0] == 410:
                break
            if number == 1:
                assert FakePage(url, "x", "other phone", cores=2).hello()[0] == 409
            page.work(3)
            page.post("bye")
        page.work()
        assert set(profiled.result(10).frame["source"]) == {"measured"}
    assert LookupTable.load(tmp_path / "t.csv").provenance.device == "my phone"


def test_a_table_of_another_engine_is_not_continued(space, tmp_path):
    out = tmp_path / "t.csv"
    for version, works in (("156", True), ("157", False)):
        runtime = make("web")
        agent = f"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Mobile Safari/537.36"
        page = FakePage(runtime.server.url, user_agent=agent)
        page.hello()
        thread = threading.Thread(target=page.work, daemon=True)
        thread.start()
        if works:
            profile(space, runtime, out=out, protocol=QUICK, progress=False)
        else:
            with pytest.raises(TableError, match=r"engine='Chromium 156', now it is engine='Chromium 157'"):
                profile(space, runtime, out=out, protocol=QUICK, progress=False)
        thread.join(5)


def test_what_memory_does_to_a_workload_is_a_row_and_the_next_is_measured(space, tmp_path):
    runtime = make("web")
    page = FakePage(runtime.server.url)
    page.hello()

    def work():
        while True:
            status, job = page.post("next")
            if status != 200:
                return
            if "visit" in job and len(job["visit"]["models"]) == 2:
                page.fail(job, "memory", "the heap of the page is full")
            elif "visit" in job:
                page.answer(job)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    table = profile(space, runtime, out=tmp_path / "t.csv", protocol=QUICK, progress=False)
    thread.join(5)
    reasons = {workload.partition("[")[0]: row.reason for workload, row in table.rows().items()}
    assert reasons["Backbone"] == "" and reasons["SelfAttention1D"] == "out of memory: the heap of the page is full"


def test_calibrate_measures_on_the_device_of_the_table(space, tmp_path):
    table = LookupTable.load(_table(space, tmp_path))
    with pytest.raises(ConfigError, match="port 70000"):
        calibrate(space, table, 3, protocol=QUICK, port=70000)


def _table(space, tmp_path):
    runtime = make("web")
    page = FakePage(runtime.server.url)
    page.hello()
    thread = threading.Thread(target=page.work, daemon=True)
    thread.start()
    profile(space, runtime, out=tmp_path / "t.csv", protocol=QUICK, progress=False)
    thread.join(5)
    return tmp_path / "t.csv"


def test_small_is_what_fits_many_times_into_a_page(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"x")
    models = [ConvertedModel(path, 7, 0.1)]
    attention = Operator("SelfAttention3D", {"heads": 2})
    assert is_small(Workload(attention, (1, 32, 8, 8, 8)), models)
    assert not is_small(Workload(attention, (1, 32, 16, 32, 32)), models), "scores of 16384 by 16384 tokens"


class FixedBlocks(Session):
    """A block is always five runs, and takes no time."""

    runs_per_block = 5

    def __init__(self):
        self.asked, self.stats = [], WorkloadStats(1.0, 1.0, 1, 1.0)

    def block(self, runs):
        self.asked.append(runs)
        return [1.0] * runs

    def close(self):
        pass


def test_a_session_may_fix_the_length_of_its_blocks():
    session, rows = FixedBlocks(), []
    protocol = Protocol(min_samples=20, min_blocks=6)
    measure({"w": session}, Reference(FixedBlocks(), 5.0, protocol), protocol, 20.0, rows.append)
    assert session.asked == [5] * 6 and rows[0].count == 30


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--browser", "no-such-browser"], "--browser no-such-browser: no such program"),
        (["--device", " "], "--device: give the phone a name"),
        (["--target", "iOS18"], "runtime 'web' has no option 'target'"),
    ],
)
def test_mistakes_are_one_line(options, problem, tmp_path, capsys):
    assert main(["profile", "--space", "demo", "--runtime", "web", "--out", str(tmp_path / "t.csv"), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and problem in said, said


def test_an_option_of_the_web_runtime_is_refused_elsewhere(tmp_path, capsys):
    assert main(["profile", "--space", "demo", "--out", str(tmp_path / "t.csv"), "--https"]) == 2
    assert "runtime 'eager' has no option 'https'" in capsys.readouterr().err


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch):
    def missing():
        raise MissingDependency("LiteRT.js and its tokenizer are not installed; run: nas web install")

    monkeypatch.setattr("nas.web_libraries.folder", missing)
    with pytest.raises(MissingDependency, match="nas web install"):
        WebRuntime()
