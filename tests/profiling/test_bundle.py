"""Bundles: packed, measured and collected; killed in the middle; and whatever does not belong to one is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.cli import main
from nas.costs import LookupTable
from nas.errors import ConfigError, NasError, TableError
from nas.profiling import Infeasible, Protocol, bundle_runner
from nas.profiling import bundle as bundles
from nas.profiling.bundle import RESULTS, Bundle, pack
from nas.profiling.bundle_collect import collect
from nas.profiling.bundle_compile import Package
from nas.profiling.bundle_measure import measure_bundle
from nas.spaces import SearchSpace

STAND_INS = Path(__file__).parent / "stand_ins"
QUICK = Protocol(cap_s=0.01, min_samples=2, min_blocks=2)
SPACE = tiny.SPACE.replace("Conv1D: {kernel: 3}", "Conv1D: {kernel: 3}, Conv3D: {kernel: 3}")


class Compiler:
    """Instead of the converters, which take seconds a workload: files of known sizes, for the stand-in tool, which runs
    1 us per byte. Conv3D cannot be converted."""

    def __init__(self, runtime, target=""):
        self.folder = Path(os.environ["PHONE"]).parent / "compiled"
        self.folder.mkdir(exist_ok=True)

    def package(self, workload, alone=False):
        if workload.kind == "Conv3D":
            raise Infeasible("Conv3D cannot be converted to LiteRT: no such operation")
        number = len(list(self.folder.iterdir()))
        one, several = self.folder / f"{number}.tflite", self.folder / f"{number}-3.tflite"
        one.write_bytes(b"x" * (1000 * (1 + len(workload.kind))))
        several.write_bytes(b"x" * (3000 * (1 + len(workload.kind))))
        timed_alone = alone or workload.kind == "Backbone"
        several, copies = (None, 0) if timed_alone else (several, 2)
        return Package(str(workload), one, several, copies, 7, 0.5, 0.0001, 0.1, "reference")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def plug_in(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A folder that is an Android phone for the stand-ins."""
    (folder / "tmp").mkdir(parents=True)
    patch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    patch.setenv("PHONE", str(folder))
    patch.setattr(bundles, "Compiler", Compiler)
    patch.setattr(bundles, "ROUNDS", 2)
    return folder


@pytest.fixture
def phone(tmp_path, monkeypatch):
    return plug_in(monkeypatch, tmp_path / "phone")


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> SearchSpace:
    path = tmp_path_factory.mktemp("spaces") / "tiny.yaml"
    path.write_text(SPACE)
    return SearchSpace.load(str(path))


@pytest.fixture(scope="module")
def once(space, tmp_path_factory) -> Path:
    """Bundles made once: `packed`; `measured`, by the library; and `scripted`, by the script in it."""
    folder = tmp_path_factory.mktemp("bundles")
    with pytest.MonkeyPatch.context() as patch:
        plug_in(patch, folder / "phone")
        pack(space, "litert", folder / "packed", tool=STAND_INS / "benchmark_model", progress=False)
        for name in ("measured", "scripted"):
            shutil.copytree(folder / "packed", folder / name)
        measure_bundle(folder / "measured", protocol=QUICK, progress=False)
        subprocess.run(["sh", str(folder / "scripted/measure.sh")], check=True, capture_output=True)
    return folder


@pytest.fixture
def packed(once, phone, tmp_path) -> Path:
    return shutil.copytree(once / "packed", tmp_path / "packed")


@pytest.fixture
def measured(once, tmp_path) -> Path:
    return shutil.copytree(once / "measured", tmp_path / "measured")


@pytest.fixture
def scripted(once, tmp_path) -> Path:
    return shutil.copytree(once / "scripted", tmp_path / "scripted")


def latencies(table: LookupTable) -> dict[str, float]:
    return {row.workload: row.latency_ms for row in table.rows().values() if row.status == "ok"}


def test_what_is_packed_here_is_measured_there_and_comes_back_as_a_table(measured, space, tmp_path):
    table = collect(measured, tmp_path / "t.csv")
    assert set(table.frame["workload"]) == set(map(str, space.workloads()))
    by_kind = {name.partition("[")[0]: row for name, row in table.rows().items()}
    assert by_kind["Backbone"].latency_ms == 9.0  # 1 us a byte
    assert by_kind["Conv1D"].latency_ms == 7.0  # half of what two more add
    assert by_kind["Conv3D"].status == "infeasible" and "no such operation" in by_kind["Conv3D"].reason
    assert table.meta["space_hash"] == space.hash and table.meta["bundle"] == Bundle.load(measured).id
    assert table.meta["chip"].startswith("Google Pixel 9") and set(table.frame["source"]) == {"measured"}
    assert latencies(collect(measured, tmp_path / "t.csv")) == latencies(table)  # again is fine


def test_the_script_finds_what_the_library_finds(measured, scripted, tmp_path):
    ours, its = collect(measured, tmp_path / "ours.csv"), collect(scripted, tmp_path / "its.csv")
    assert latencies(its) == latencies(ours)
    for column in ("memory_mb", "params", "weights_mb", "load_ms", "form"):
        found = its.frame.set_index("workload")[column].to_dict()
        assert ours.frame.set_index("workload")[column].to_dict() == pytest.approx(found, nan_ok=True), column
    same = ("runtime", "version", "phone", "chip", "os", "threads", "build", "bundle", "dtype")
    assert {key: ours.meta[key] for key in same} == {key: its.meta[key] for key in same}
    shutil.copy(measured / RESULTS, scripted / RESULTS)
    with pytest.raises(TableError, match="keep one kind"):
        collect(scripted, tmp_path / "both.csv")


def test_killed_in_the_middle_the_script_goes_on(packed, tmp_path):
    def files():
        return {path.name: path.read_bytes() for path in (packed / "results").glob("*.txt")}

    total = len((packed / "plan.txt").read_text().splitlines())
    process = subprocess.Popen(["sh", str(packed / "measure.sh")], stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(files()) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = files()
    assert 2 <= len(kept) < total
    done = subprocess.run(["sh", str(packed / "measure.sh")], capture_output=True, text=True)
    assert done.returncode == 0 and len(files()) == total
    assert kept.items() <= files().items()
    assert len(collect(packed, tmp_path / "t.csv").frame) == 4


def test_unplugged_in_the_middle_the_script_stops_with_one_line_and_goes_on_later(packed, phone, tmp_path):
    command = ["sh", str(packed / "measure.sh")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((packed / "results").glob("*.txt")) and time.monotonic() < deadline:
        time.sleep(0.005)
    (phone / "gone").touch()
    _, said = process.communicate()
    assert process.returncode == 2 and said.count("\n") == 1
    assert "the phone is gone" in said
    (phone / "gone").unlink()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(collect(packed, tmp_path / "t.csv").frame) == 4


@pytest.mark.slow
def test_killed_in_the_middle_nas_measure_goes_on(packed, tmp_path, phone):
    command = [sys.executable, "-m", "nas.cli", "measure", str(packed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    results = packed / RESULTS  # it is there, and empty, before the first result
    while not (results.exists() and results.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = (packed / RESULTS).read_text()
    assert kept.endswith("\n") and len(kept.splitlines()) >= 1
    torn = kept + '{"bundle": "torn'
    (packed / RESULTS).write_text(torn)
    assert measure_bundle(packed, protocol=QUICK, progress=False) == 3
    assert (packed / RESULTS).read_text().startswith(kept)
    rows = [json.loads(line)["row"]["workload"] for line in (packed / RESULTS).read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 3
    calls = (phone / "calls").read_text()
    assert measure_bundle(packed, protocol=QUICK, progress=False) == 3
    assert (phone / "calls").read_text() == calls  # nothing is measured twice


def test_killed_before_the_first_result_nas_measure_goes_on(packed):
    (packed / RESULTS).touch()
    assert measure_bundle(packed, protocol=QUICK, progress=False) == 3


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: edit(d / "manifest.json", '"Conv', '"Kong'), r"manifest.json: was edited"),
        (lambda d: edit(d / "manifest.json", '"bundle"', '"bundel"'), "no bundle manifest of this version"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json:1: this bundle manifest file is no JSON"),
        (lambda d: (d / "manifest.json").unlink(), "no bundle .*make one with 'nas pack'"),
        (lambda d: (d / "packages/0000.tflite").write_text("other"), "0000.tflite: was changed"),
        (lambda d: (d / "packages/0000.tflite").unlink(), "0000.tflite: is missing"),
        (lambda d: edit(d / RESULTS, '"latency_ms": 7.0', '"latency_ms": 0.7'), r"results.jsonl:\d: was edited"),
        (lambda d: edit(d / RESULTS, "Conv1D[kernel=3]", "Conv1D[kernel=5]"), r"results.jsonl:\d: was edited"),
        (lambda d: (d / RESULTS).write_text("nonsense\n"), "results.jsonl: a line is no result"),
        (lambda d: (d / RESULTS).write_text("[1]\n"), "results.jsonl:1: is no result of a bundle"),
        (lambda d: (d / RESULTS).unlink(), "nothing was measured yet"),
    ],
)
def test_what_was_changed_is_refused_in_one_line(measured, tmp_path, capsys, change, text):
    change(measured)
    with pytest.raises(NasError, match=text):
        collect(measured, tmp_path / "t.csv")
    assert main(["collect", str(measured), "--out", str(tmp_path / "t.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "t.csv").exists()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_single_byte_changes_a_number_unseen(once, data):
    """Whatever byte of a bundle or its results is changed: it is refused, or no row differs from what was measured."""
    kind = data.draw(st.sampled_from(["measured", "scripted"]))
    folder = once / kind
    before = _rows_of(folder, once / f"{kind}.csv")
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :])
    try:
        assert _rows_of(folder, once / f"{kind}.csv").items() <= before.items()
    except NasError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)


def _rows_of(folder: Path, out: Path) -> dict[str, str]:
    return {name: repr(row) for name, row in collect(folder, out).rows().items()}


def test_results_of_another_bundle_or_phone_are_refused(phone, measured, space, tmp_path):
    pack(space, "litert", tmp_path / "other", progress=False)
    other = tmp_path / "other"
    assert Bundle.load(other).id != Bundle.load(measured).id
    shutil.copy(measured / RESULTS, other / RESULTS)
    with pytest.raises(TableError, match=f"belongs to bundle {Bundle.load(measured).id}"):
        collect(other, tmp_path / "t.csv")
    bundle = Bundle.load(measured)
    line = json.loads((measured / RESULTS).read_text().splitlines()[0])
    stranger = {**line, "row": {**line["row"], "workload": "Conv9D"}}
    (measured / RESULTS).write_text("")
    bundle_runner.append(measured / RESULTS, stranger, bundle.id)
    with pytest.raises(TableError, match="workload 'Conv9D' is not in the bundle"):
        collect(measured, tmp_path / "t.csv")
    (measured / RESULTS).write_text("")
    bundle_runner.append(measured / RESULTS, line, bundle.id)
    second = {**line, "host": {**line["host"], "chip": "Fairphone"}}
    bundle_runner.append(measured / RESULTS, second, bundle.id)
    with pytest.raises(TableError, match=r"several devices or ways \(chip: Fairphone and Google"):
        collect(measured, tmp_path / "t.csv")


def test_a_visit_of_the_script_that_was_edited_or_is_another_bundles_is_refused(scripted, tmp_path):
    visit = scripted / "results/0-0.txt"
    whole = visit.read_text()
    edit(visit, "median=", "median=1")
    with pytest.raises(TableError, match=r"0-0.txt: was edited"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text(whole.replace(Bundle.load(scripted).id, "0" * 16))
    with pytest.raises(TableError, match=f"belongs to bundle {'0' * 16}"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text("nonsense")
    with pytest.raises(TableError, match=r"no result of measure.sh"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text(whole)
    assert len(collect(scripted, tmp_path / "t.csv").frame) == 4


def test_the_script_says_what_is_missing_and_stops_when_the_phone_goes(packed, phone):
    def script(*arguments):
        done = subprocess.run(["sh", str(packed / "measure.sh"), *arguments], capture_output=True, text=True)
        return done.returncode, done.stderr.strip()

    (phone / "gone").touch()
    code, said = script()
    assert code == 2 and "no phone" in said and "\n" not in said
    (phone / "gone").unlink()
    tool = (packed / "benchmark_model").read_text()
    (packed / "benchmark_model").write_text(tool.replace("count=50", "count=51"))
    code, said = script()
    assert code == 2 and said.endswith("benchmark_model is not the file that was packed; pack the bundle again")
    (packed / "benchmark_model").write_text(tool)
    (phone / "full").touch()
    code, said = script()
    assert code == 2 and "free some space" in said
    assert not list((packed / "results").glob("*.txt"))


def test_a_full_disk_is_one_line_and_the_lines_before_stay(packed, monkeypatch):
    real, count = bundle_runner.append, []

    def append(path, line, bundle):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        real(path, line, bundle)

    monkeypatch.setattr("nas.profiling.bundle_measure.append", append)
    with pytest.raises(TableError, match="No space left on device; free some space and run again, the 1 finished"):
        measure_bundle(packed, protocol=QUICK, progress=False)
    assert measure_bundle(packed, protocol=QUICK, progress=False) == 3


def test_folders_in_use_and_other_tables_are_left_alone(measured, space, tmp_path):
    with pytest.raises(ConfigError, match="is a bundle already"):
        pack(space, "litert", measured, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        pack(space, "litert", tmp_path / "mine", progress=False)
    (tmp_path / "t.csv").write_text("workload\n")
    with pytest.raises(ConfigError, match="was not collected from this bundle"):
        collect(measured, tmp_path / "t.csv")


def test_a_line_survives_what_json_does_to_numbers_that_are_none(tmp_path):
    line = {"bundle": "b", "row": {"latency_ms": math.inf, "memory_mb": math.nan}}
    bundle_runner.append(tmp_path / "r.jsonl", line, "b")
    [found] = bundle_runner.read(tmp_path / "r.jsonl")
    assert found["digest"] == bundle_runner.seal(found, "b")
