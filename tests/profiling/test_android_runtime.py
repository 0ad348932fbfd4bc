"""`litert` on Android: the output of the real `benchmark_model`, and a stand-in `adb` with one phone."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from nas.costs import LookupTable, TableWriter
from nas.errors import ConfigError, MissingDependency, NasError
from nas.profiling import Infeasible, OutOfMemory, Protocol, profile, runtimes
from nas.profiling.bundles.collection import collect
from nas.profiling.bundles.creation import create
from nas.profiling.bundles.measurement import measure
from nas.profiling.compile import CompiledWorkload
from nas.profiling.measuring import measure_all
from nas.profiling.runtimes import android
from nas.profiling.runtimes.android_benchmark import MIB, check, parse
from nas.spaces import Operator, SearchSpace, Workload
from tests.support.tiny import SPACE

STAND_INS = Path(__file__).parents[1] / "support" / "stand_ins"
QUICK = Protocol(cap_s=0.01, min_samples=6)

# Printed by the tool on an Android phone (its log, which has the lines of stdout with another prefix).
ANDROID = """\
07-14 13:14:52.190 22838 22838 I tflite  : Initialized session in 92.318ms.
07-14 13:14:52.859 22838 22838 I tflite  : count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613 \
p5=199462 median=200386 p95=235158
07-14 13:14:56.520 22838 22838 I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 \
p5=140545 median=141253 p95=187533
07-14 13:14:56.521 22838 22838 I tflite  : Inference timings in us: Init: 92318, First inference: 235158, \
Warmup (avg): 211669, Inference (avg): 145528
07-14 13:14:56.521 22838 22838 I tflite  : Memory footprint delta from the start of the tool (MB): init=54.2852 \
overall=73.4102
"""
# Printed by a build of 2020, which knows no percentiles.
OLD = """\
Initialized session in 18.777ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=9 first=64791 curr=56295 min=54873 max=65831 avg=57758.2 std=4065

count=50 first=58154 curr=53809 min=53077 max=60727 avg=55043.2 std=1562

Inference timings in us: Init: 18777, First inference: 64791, Warmup (avg): 57758.2, Inference (avg): 55043.2
Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227
"""


def test_parse_output_of_a_phone():
    found = parse(ANDROID)
    assert (found.runs, found.median_ms, found.init_ms) == (25, 141.253, 92.318)
    assert found.overall_mb == 73.4102 * MIB


def test_parse_output_without_statistics():
    found = parse("INFO: Initialized session in 1.5ms.\nINFO: count=1 curr=31 p5=31 median=31 p95=31\n")
    assert found.median_ms == 0.031 and found.overall_mb != found.overall_mb
    assert parse("INFO: Initialized session in 1.5ms.\nINFO: count=4 curr=31(all same)\n").median_ms == 0.031


def test_parse_refuses_output_without_median_and_foreign_output():
    with pytest.raises(NasError, match=r"not print medians.*newer one"):
        parse(OLD)
    with pytest.raises(NasError, match="printed no timings: ERROR: Failed to apply"):
        parse("INFO: STARTING!\nERROR: Failed to apply the default delegate.\nERROR: Benchmarking failed.\n")


@pytest.mark.parametrize(
    ("code", "output", "error", "text"),
    [
        (137, "Killed", OutOfMemory, "SIGKILL.*out of memory"),
        (139, "INFO: STARTING!\nSegmentation fault", Infeasible, "SIGSEGV.*Segmentation fault"),
        (1, "ERROR: std::bad_alloc\nERROR: Benchmarking failed.", OutOfMemory, "out of memory: ERROR: std::bad_alloc"),
        (1, "ERROR: Encountered unresolved custom op: X.\nERROR: Benchmarking failed.", Infeasible, "custom op: X"),
        (127, "sh: benchmark_model: not found", NasError, "cannot run on this device"),
        (126, "sh: benchmark_model: cannot execute: Exec format error", NasError, "Exec format error"),
    ],
)
def test_exit_codes_of_the_tool_raise_matching_errors(code, output, error, text):
    with pytest.raises(error, match=text):
        check(code, output)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A folder that represents an Android phone for the stand-ins."""
    folder = tmp_path / "phone"
    (folder / "tmp").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(folder))
    monkeypatch.setenv("NAS_BENCHMARK_MODEL", str(STAND_INS / "benchmark_model"))
    monkeypatch.setattr(android, "POLL_S", 0.001)
    return folder


def package(folder: Path, name: str, size: int, first: str = "x", several: int = 0) -> CompiledWorkload:
    """Files of some size; the stand-in runs 1 us per byte."""
    paths = []
    for suffix, length in (("", size), *((("3", several),) if several else ())):
        paths.append(folder / f"{name}{suffix}.tflite")
        paths[-1].write_bytes((first * length).encode())
    return CompiledWorkload(
        name, paths[0], paths[1] if several else None, 2 if several else 0, 7, 0.001, 0.001, 0.1, "reference"
    )


def open_runtime(folder: Path, device: str = "adb"):
    runtime = runtimes.make("litert", device, threads=2)
    runtime.reference, runtime.block_ms = package(folder, "reference", 500), 1.0
    return runtime


def test_a_phone_is_described_and_measured(phone, tmp_path):
    alone, operator = package(tmp_path, "alone", 2000), package(tmp_path, "operator", 3000, several=7000)
    rows = {}
    with open_runtime(tmp_path) as runtime:
        meta = runtime.describe()
        measure_all(runtime, [alone, operator], QUICK, lambda row: rows.update({row.workload: row}))
    assert meta["chip"] == "Google Pixel 9 (Tensor G4, arm64-v8a)" and meta["os"] == "Android 15"
    assert meta["temperatures"] == "CPU0 66.5, VIRTUAL-SKIN 33.1" and "level: 81" in meta["battery"]
    assert meta["threads"] == 2 and "median" in meta["latency"] and "approximate" in meta["memory"]
    assert "emulator-5554" not in str(meta)  # tables are published
    assert rows["alone"].latency_ms == 2.0 and rows["alone"].count == 6
    assert rows["operator"].latency_ms == 2.0  # (7 - 3) / 2
    # the tool takes three bytes per byte of the model; the reference has 500, and 0.1 MB of activations by its shapes
    assert rows["alone"].memory_mb == pytest.approx(0.1 + 3 * (2000 - 500) / 1e6, rel=1e-3)
    kept_mb = 3 * (7000 - 3000) / 2 / 1e6 - 2 * 0.001  # what each further copy adds besides two of its weights
    assert rows["operator"].weights_mb == pytest.approx(0.001 + kept_mb, rel=1e-3)
    assert rows["operator"].memory_mb == pytest.approx(0.1 + 3 * (3000 - 500) / 1e6 - kept_mb, rel=1e-3)
    assert meta["buffers"] == "kept"
    assert rows["alone"].load_ms == 18.777
    calls = (phone / "calls").read_text()
    assert "--use_xnnpack=true --num_threads=2" in calls and "--warmup_min_secs=0.2" in calls


def test_files_are_pushed_once(phone, tmp_path):
    with open_runtime(tmp_path) as runtime:
        runtime.open(package(tmp_path, "a", 100)).close()
        (phone / "full").touch()
        runtime.open(package(tmp_path, "a", 100)).close()
        with pytest.raises(NasError, match="No space left on device"):
            runtime.open(package(tmp_path, "b", 200))


@pytest.mark.parametrize(("first", "reason"), [("C", "SIGSEGV"), ("K", "out of memory"), ("A", "out of memory")])
def test_infeasible_workload_does_not_stop_the_others(phone, tmp_path, first, reason):
    rows = {}
    with open_runtime(tmp_path) as runtime:
        both = [package(tmp_path, "bad", 1000, first), package(tmp_path, "good", 1000)]
        measure_all(runtime, both, QUICK, lambda row: rows.update({row.workload: row}))
    assert rows["bad"].status == "infeasible" and reason in rows["bad"].reason
    assert rows["good"].status == "ok"


def test_unplugged_phone_is_a_one_line_error_and_rows_are_kept(phone, tmp_path):
    with open_runtime(tmp_path) as runtime:
        writer = TableWriter(tmp_path / "t.csv", runtime.describe())

        def finished(row):
            writer.append(row)
            (phone / "gone").touch()

        with pytest.raises(NasError, match=r"phone 'emulator-5554' is disconnected.*finished rows are kept") as error:
            measure_all(runtime, [package(tmp_path, "a", 1000), package(tmp_path, "b", 1000)], QUICK, finished)
    assert "\n" not in str(error.value)
    assert len(LookupTable.load(tmp_path / "t.csv").frame) == 1


def test_unplugging_during_a_run_does_not_make_the_workload_infeasible(phone, tmp_path):
    with open_runtime(tmp_path) as runtime, pytest.raises(NasError, match="is disconnected"):
        runtime.open(package(tmp_path, "a", 1000, first="U"))


def test_runs_on_a_throttled_phone_are_repeated(phone, tmp_path, monkeypatch):
    with open_runtime(tmp_path) as runtime:
        session = runtime.open(package(tmp_path, "a", 1000))
        before = (phone / "calls").read_text().count("--graph")
        (phone / "thermal").write_text("3")
        assert session.block(1) == [1.0]
        assert (phone / "calls").read_text().count("--graph") == before + 2
        assert (phone / "looks").read_text().count("looked") == 5  # 3, 2, 1, 0, and after the repetition
        (phone / "thermal").write_text("2"), (phone / "stays_hot").touch()
        monkeypatch.setattr(android, "COOLING_TIMEOUT_S", 0.0)
        with pytest.raises(NasError, match=r"stays throttled .thermal status 2, CPU0 66.5"):
            session.block(1)


def test_missing_phone_tool_or_adb_is_an_error_with_a_fix(phone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NasError, match="adb lists: emulator-5554 device"):
        runtimes.make("litert", "adb:R58M")
    monkeypatch.setenv("NAS_BENCHMARK_MODEL", "nowhere")
    with pytest.raises(ConfigError, match="nowhere: no such file"):
        runtimes.make("litert", "adb")
    monkeypatch.delenv("NAS_BENCHMARK_MODEL")
    with pytest.raises(MissingDependency, match="NAS_BENCHMARK_MODEL"):
        runtimes.make("litert", "adb")
    (phone / "gone").touch()
    with pytest.raises(NasError, match=r"no phone.*USB debugging"):
        runtimes.make("litert", "adb")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependency, match="nas bundle create --runtime litert"):
        runtimes.make("litert", "adb")


REAL_TOOL = """#!{python}
# LiteRT's interpreter with the flags and the output of its `benchmark_model`.
import sys, time
import ai_edge_litert.interpreter, numpy
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])

def resident(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))

def timed(call):
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6

values = numpy.random.default_rng(0).standard_normal  # loaded before memory counts
open("/proc/self/clear_refs", "w").write("5")
start = resident("VmHWM")
interpreter = ai_edge_litert.interpreter.Interpreter(flags["graph"], num_threads=int(flags["num_threads"]))
init_us = timed(interpreter.allocate_tensors)
ready, held = resident("VmHWM"), []
for given in interpreter.get_input_details():
    held.append(values(given["shape"]).astype(given["dtype"]))
    interpreter.set_tensor(given["index"], held[-1])
interpreter.invoke()
overall = resident("VmHWM")
print(f"INFO: Initialized session in {{init_us / 1e3}}ms.")
for runs in (1, 20):
    median = sorted(timed(interpreter.invoke) for _ in range(runs))[runs // 2]
    print(f"INFO: count={{runs}} first=1 curr=1 min=1 max=1 avg=1 std=0 p5=1 median={{median:.0f}} p95=1")
footprint = f"init={{ready - start}} overall={{overall - start}}"
print(f"INFO: Memory footprint delta from the start of the tool (MB): {{footprint}}")
"""


@pytest.fixture
def interpreter(phone, converted_models, tmp_path, monkeypatch):
    """A phone that is this machine, with the real converter and interpreter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(converted_models))
    (tmp_path / "benchmark_model").write_text(REAL_TOOL.format(python=sys.executable))
    (tmp_path / "benchmark_model").chmod(stat.S_IRWXU)
    monkeypatch.setenv("NAS_BENCHMARK_MODEL", str(tmp_path / "benchmark_model"))


@pytest.mark.slow
def test_adb_and_bundle_give_the_same_rows_for_real_models(interpreter, tmp_path):
    """What a phone would get, over adb and from a bundle."""
    (tmp_path / "tiny.yaml").write_text(SPACE.replace(", Conv1D: {kernel: 3}", ""))
    space = SearchSpace.load(str(tmp_path / "tiny.yaml"))
    quick = Protocol(cap_s=0.01, min_samples=2, min_blocks=2)
    over_adb = profile(space, "litert", "adb", tmp_path / "adb.csv", quick, progress=False)
    create(space, "litert", tmp_path / "bundle", progress=False)
    measure(tmp_path / "bundle", "local", quick, progress=False)
    bundled = collect(tmp_path / "bundle", tmp_path / "bundle.csv").rows()
    rows = over_adb.rows()
    assert set(rows) == set(bundled) == set(map(str, space.workloads()))
    assert set(over_adb.frame["status"]) == {"ok"}
    for name, row in rows.items():
        assert (row.params, row.variant) == (bundled[name].params, bundled[name].variant) and row.variant == "reference"
        assert row.weights_mb == pytest.approx(bundled[name].weights_mb, abs=1.0)  # with what each layer keeps
        assert row.memory_mb == pytest.approx(bundled[name].memory_mb, abs=1.5)
    written = (tmp_path / "adb.csv").read_text()
    profile(space, "litert", "adb", tmp_path / "adb.csv", quick, progress=False)
    assert (tmp_path / "adb.csv").read_text() == written


@pytest.mark.slow
def test_memory_of_adb_agrees_with_the_local_runtime(interpreter):
    """Where it matters, in tens of megabytes: the tool's resident set against what the litert runtime finds here."""
    workload = Workload(Operator("SelfAttention1D"), (1, 64, 8, 32, 32))
    with runtimes.make("litert", "adb") as phone, runtimes.make("litert") as here:
        (by_tool, by_process) = (runtime.open(workload).stats for runtime in (phone, here))
    assert by_process.memory_mb > 10
    assert by_tool.memory_mb == pytest.approx(by_process.memory_mb, rel=0.08)
    assert by_tool.weights_mb == pytest.approx(by_process.weights_mb, abs=0.5)
