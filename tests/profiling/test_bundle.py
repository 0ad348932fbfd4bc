"""Bundles: created, measured, resumed and collected; results that do not belong to one are errors."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.cli import main
from nas.costs import LookupTable
from nas.errors import ConfigError, NasError, TableError
from nas.profiling import Infeasible, Protocol
from nas.profiling.bundles import creation as bundles
from nas.profiling.bundles.bundle import RESULTS, Bundle, identity
from nas.profiling.bundles.collection import collect
from nas.profiling.bundles.creation import create
from nas.profiling.bundles.measurement import measure
from nas.profiling.compile import CompiledWorkload
from nas.profiling.digests import append_line, line_digest, read_lines
from nas.spaces import SearchSpace
from tests.support import tiny
from tests.support.forked import start_python

STAND_INS = Path(__file__).parents[1] / "support" / "stand_ins"
QUICK = Protocol(cap_s=0.01, min_samples=2, min_blocks=2)
SPACE = tiny.SPACE.replace("Conv1D: {kernel: 3}", "Conv1D: {kernel: 3}, Conv3D: {kernel: 3}")


MEASURE = """
import functools, sys
from nas.cli import main
from nas.profiling.bundles import measurement
measurement.Protocol = functools.partial(measurement.Protocol, cap_s=0.2, min_samples=6)
sys.exit(main(sys.argv[1:]))
"""
"""`nas` with less time for each workload."""


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
        return CompiledWorkload(str(workload), one, several, copies, 7, 0.5, 0.0001, 0.1, "reference")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def plug_in(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A folder that represents an Android phone for the stand-ins."""
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
        create(space, "litert", folder / "packed", tool=STAND_INS / "benchmark_model", progress=False)
        for name in ("measured", "scripted"):
            shutil.copytree(folder / "packed", folder / name)
        measure(folder / "measured", protocol=QUICK, progress=False)
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


def test_create_measure_and_collect_a_bundle(measured, space, tmp_path):
    table = collect(measured, tmp_path / "t.csv")
    assert set(table.frame["workload"]) == set(map(str, space.workloads()))
    by_kind = {name.partition("[")[0]: row for name, row in table.rows().items()}
    assert by_kind["Backbone"].latency_ms == 9.0  # 1 us a byte
    assert by_kind["Conv1D"].latency_ms == 7.0  # half of what two more add
    assert by_kind["Conv3D"].status == "infeasible" and "no such operation" in by_kind["Conv3D"].reason
    assert table.meta["space_hash"] == space.hash and table.meta["bundle"] == Bundle.load(measured).id
    assert table.meta["chip"].startswith("Google Pixel 9") and set(table.frame["source"]) == {"measured"}
    assert latencies(collect(measured, tmp_path / "t.csv")) == latencies(table)  # again is fine


def test_script_and_library_give_the_same_table(measured, scripted, tmp_path):
    ours, its = collect(measured, tmp_path / "ours.csv"), collect(scripted, tmp_path / "its.csv")
    assert latencies(its) == latencies(ours)
    for column in ("memory_mb", "params", "weights_mb", "load_ms", "variant"):
        found = its.frame.set_index("workload")[column].to_dict()
        assert ours.frame.set_index("workload")[column].to_dict() == pytest.approx(found, nan_ok=True), column
    same = ("runtime", "version", "phone", "chip", "os", "threads", "build", "bundle", "dtype")
    assert {key: ours.meta[key] for key in same} == {key: its.meta[key] for key in same}
    shutil.copy(measured / RESULTS, scripted / RESULTS)
    with pytest.raises(TableError, match="keep one of the two"):
        collect(scripted, tmp_path / "both.csv")


def test_killed_script_resumes(packed, tmp_path):
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


def test_script_stops_when_unplugged_and_resumes(packed, phone, tmp_path):
    command = ["sh", str(packed / "measure.sh")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((packed / "results").glob("*.txt")) and time.monotonic() < deadline:
        time.sleep(0.005)
    (phone / "gone").touch()
    _, said = process.communicate()
    assert process.returncode == 2 and said.count("\n") == 1
    assert "the phone is disconnected" in said
    (phone / "gone").unlink()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(collect(packed, tmp_path / "t.csv").frame) == 4


@pytest.mark.slow
def test_killed_nas_measure_resumes(packed, tmp_path, phone):
    process = start_python(MEASURE, "bundle", "measure", packed, new_session=True)
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
    assert measure(packed, protocol=QUICK, progress=False) == 3
    assert (packed / RESULTS).read_text().startswith(kept)
    rows = [json.loads(line)["row"]["workload"] for line in (packed / RESULTS).read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 3
    calls = (phone / "calls").read_text()
    assert measure(packed, protocol=QUICK, progress=False) == 3
    assert (phone / "calls").read_text() == calls  # nothing is measured twice


def test_nas_measure_resumes_from_an_empty_results_file(packed):
    (packed / RESULTS).touch()
    assert measure(packed, protocol=QUICK, progress=False) == 3


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: edit(d / "manifest.json", '"Conv', '"Kong'), r"manifest.json: was edited"),
        (lambda d: edit(d / "manifest.json", '"bundle"', '"bundel"'), "unknown key 'bundel'.*pack the bundle again"),
        (
            lambda d: (d / "manifest.json").write_text("{"),
            "manifest.json:1: this bundle manifest file is not valid JSON",
        ),
        (lambda d: (d / "manifest.json").unlink(), "not a bundle .*make one with 'nas bundle create'"),
        (lambda d: (d / "packages/0000.tflite").write_text("other"), "0000.tflite: was changed"),
        (lambda d: (d / "packages/0000.tflite").unlink(), "0000.tflite: is missing"),
        (lambda d: edit(d / RESULTS, '"latency_ms": 7.0', '"latency_ms": 0.7'), r"results.jsonl:\d: was edited"),
        (lambda d: edit(d / RESULTS, "Conv1D[kernel=3]", "Conv1D[kernel=5]"), r"results.jsonl:\d: was edited"),
        (
            lambda d: (d / RESULTS).write_text("nonsense\n"),
            "results.jsonl:1: this line of results is not valid JSON.*delete the line",
        ),
        (lambda d: (d / RESULTS).write_text("[1]\n"), r"results.jsonl:1: expected an object.*delete the line"),
        (lambda d: (d / RESULTS).unlink(), "no results; run"),
    ],
)
def test_changed_bundle_is_a_one_line_error(measured, tmp_path, capsys, change, text):
    change(measured)
    with pytest.raises(NasError, match=text):
        collect(measured, tmp_path / "t.csv")
    assert main(["bundle", "collect", str(measured), "--out", str(tmp_path / "t.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "t.csv").exists()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_an_error_or_changes_no_row(once, data):
    """Whatever byte of a bundle or its results is changed: it is refused, or no row differs from what was measured."""
    kind = data.draw(st.sampled_from(["measured", "scripted"]))
    folder = once / kind
    before = _rows_before(once, kind)
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


@functools.cache
def _rows_before(once: Path, kind: str) -> dict[str, str]:
    return _rows_of(once / kind, once / f"{kind}.csv")


def _rows_of(folder: Path, out: Path) -> dict[str, str]:
    return {name: repr(row) for name, row in collect(folder, out).rows().items()}


def test_results_of_another_bundle_or_phone_are_errors(phone, measured, space, tmp_path):
    create(space, "litert", tmp_path / "other", progress=False)
    other = tmp_path / "other"
    assert Bundle.load(other).id != Bundle.load(measured).id
    shutil.copy(measured / RESULTS, other / RESULTS)
    with pytest.raises(TableError, match=f"belongs to bundle {Bundle.load(measured).id}"):
        collect(other, tmp_path / "t.csv")
    bundle = Bundle.load(measured)
    line, another = map(json.loads, (measured / RESULTS).read_text().splitlines()[:2])
    stranger = {**line, "row": {**line["row"], "workload": "Conv9D"}}
    (measured / RESULTS).write_text("")
    append_line(measured / RESULTS, stranger, bundle.id)
    with pytest.raises(TableError, match="workload 'Conv9D' is not in the bundle"):
        collect(measured, tmp_path / "t.csv")
    (measured / RESULTS).write_text("")
    append_line(measured / RESULTS, line, bundle.id)
    second = {**another, "host": {**another["host"], "chip": "Fairphone"}}
    append_line(measured / RESULTS, second, bundle.id)
    with pytest.raises(TableError, match=r"several devices or settings \(chip: Fairphone and Google"):
        collect(measured, tmp_path / "t.csv")


def test_edited_or_foreign_visit_of_the_script_is_an_error(scripted, tmp_path):
    visit = scripted / "results/0-0.txt"
    whole = visit.read_text()
    edit(visit, "median=", "median=1")
    with pytest.raises(TableError, match=r"0-0.txt: was edited"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text(whole.replace(Bundle.load(scripted).id, "0" * 16))
    with pytest.raises(TableError, match=f"belongs to bundle {'0' * 16}"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text("nonsense")
    with pytest.raises(TableError, match=r"not a result of measure.sh"):
        collect(scripted, tmp_path / "t.csv")
    visit.write_text(whole)
    assert len(collect(scripted, tmp_path / "t.csv").frame) == 4


def test_script_reports_missing_phone_changed_tool_and_full_phone(packed, phone):
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
    assert code == 2 and said.endswith("benchmark_model was changed after it was packed; pack the bundle again")
    (packed / "benchmark_model").write_text(tool)
    (phone / "full").touch()
    code, said = script()
    assert code == 2 and "free some space" in said
    assert not list((packed / "results").glob("*.txt"))


def test_full_disk_is_a_one_line_error_and_lines_are_kept(packed, monkeypatch):
    real, count = append_line, []

    def append(path, line, bundle):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        real(path, line, bundle)

    monkeypatch.setattr("nas.profiling.bundles.measurement.append_line", append)
    with pytest.raises(TableError, match="No space left on device; free some space and run again, the 1 finished"):
        measure(packed, protocol=QUICK, progress=False)
    assert measure(packed, protocol=QUICK, progress=False) == 3


def test_folders_in_use_and_other_tables_are_not_overwritten(measured, space, tmp_path):
    with pytest.raises(ConfigError, match="is already a bundle"):
        create(space, "litert", measured, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        create(space, "litert", tmp_path / "mine", progress=False)
    (tmp_path / "t.csv").write_text("workload\n")
    with pytest.raises(ConfigError, match="was not collected from this bundle"):
        collect(measured, tmp_path / "t.csv")


def test_line_digest_survives_infinite_and_nan_values(tmp_path):
    line = {"bundle": "b", "row": {"latency_ms": math.inf, "memory_mb": math.nan}}
    append_line(tmp_path / "r.jsonl", line, "b")
    [found] = read_lines(tmp_path / "r.jsonl")
    assert found["digest"] == line_digest(found, "b")


def damaged(folder: Path, change) -> None:
    """Change a manifest, and give it the hash that belongs to it, as a faulty program would write it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = change(manifest) or manifest
    if isinstance(manifest, dict) and "bundle" in manifest:
        manifest["bundle"] = identity(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def put(key: str, value):
    """A change that sets a value at a dotted path, or removes it."""

    def change(manifest) -> None:
        *outer, last = key.split(".")
        for name in outer:
            manifest = manifest[int(name) if name.isdigit() else name]
        if value is ...:
            del manifest[last]
        else:
            manifest[last] = value

    return change


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        *((put(key, ...), f"missing key '{key}'") for key in ("space", "runtime", "packages", "reference", "files")),
        *((put(key, ...), "missing key") for key in ("infeasible", "bundle", "reference.path", "target", "versions")),
        *((put(key, None), key) for key in ("packages", "files", "reference", "infeasible", "space", "date")),
        *((put(key, []), key) for key in ("files", "reference", "infeasible", "versions")),
        (put("packages", {}), "packages: expected a list"),
        (put("packages", "all"), "packages: expected a list"),
        (put("packages", [[]]), r"packages\[0\]: expected a mapping"),
        (put("packages", [None]), r"packages\[0\]: expected a mapping"),
        (put("reference.params", "many"), "reference.params: expected int"),
        (put("reference.params", -1), "reference.params: must be at least 0"),
        (put("reference.params", 10**30), "64 bits"),
        (put("reference.params", True), "reference.params: expected int"),
        (put("reference.copies", 1.5), "reference.copies: expected int"),
        (put("reference.weights_mb", math.nan), "reference.weights_mb: must be a finite number"),
        (put("reference.weights_mb", -5), "reference.weights_mb: must be at least 0"),
        (put("reference.path", "../outside.tflite"), "not a file inside the bundle"),
        (put("reference.path", "/etc/passwd"), "not a file inside the bundle"),
        (put("reference.path", ""), "not a file inside the bundle"),
        (put("reference.path", "x" * 5000), "not a file inside the bundle"),
        (put("reference.path", "packages/none.tflite"), "is not listed in files"),
        (put("reference.workload", " "), "workload is empty"),
        (put("files", {"../../etc/passwd": "0" * 64}), "not a file inside the bundle"),
        (put("files", {"a\0b": "0" * 64}), "not a file inside the bundle"),
        (put("runtime", "tensorrt"), "unknown value .*known: coreml, litert|tensorrt"),
        (put("versions", {"nas": nested(40)}), "versions.nas"),
        (put("space", nested(300)), "nested more than"),
        (put("infeasible", {"Conv3D": 5}), "infeasible.Conv3D: expected str"),
        (put("surprise", 1), "unknown key 'surprise'"),
        (lambda manifest: [manifest], r"expected an object"),
        (lambda manifest: manifest["packages"].append(manifest["packages"][0]), "is listed twice"),
    ],
)
def test_damaged_manifest_is_a_one_line_error(change, text, measured, tmp_path, capsys):
    damaged(measured, change)
    for command in (
        ["bundle", "collect", str(measured), "--out", str(tmp_path / "t.csv")],
        ["bundle", "measure", str(measured)],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and len(said) < 600 and re.search(text, said), said
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    "text", ["", "null", '"', "{" * 100000, "[" * 100000 + "]" * 100000, '{"a": ' + "9" * 5000 + "}"]
)
def test_manifest_that_is_not_a_json_object_is_a_one_line_error(text, measured, capsys):
    (measured / "manifest.json").write_text(text)
    assert main(["bundle", "measure", str(measured)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 600 and "manifest.json" in said


MAC = {
    "visit": [0, 0],
    "compute_unit": "all",
    "host": {"chip": "M3", "os": "macOS 15", "version": "9.0"},
    "samples_ms": [2.0, 2.1, 2.2],
    "load_ms": 5.0,
    "reference_ms": 1.0,
}


def written(folder: Path, line: dict) -> None:
    bundle = Bundle.load(folder)
    (folder / RESULTS).write_text("")
    append_line(folder / RESULTS, {"bundle": bundle.id, **line}, bundle.id)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples_ms", [math.nan, 1.0, 1.0]),
        ("samples_ms", [math.inf]),
        ("samples_ms", [-1.0, 2.0, 3.0]),
        ("samples_ms", []),
        ("samples_ms", ...),
        ("samples_ms", None),
        ("samples_ms", "fast"),
        ("samples_ms", {"a": 1}),
        ("samples_ms", ["x"]),
        ("samples_ms", [True]),
        ("samples_ms", [1e300]),
        ("samples_ms", [[1.0]]),
        ("reference_ms", math.nan),
        ("reference_ms", -1.0),
        ("reference_ms", ...),
        ("load_ms", math.nan),
        ("load_ms", "5 ms"),
        ("host", ...),
        ("host", []),
        ("host", {"chip": "M3"}),
        ("host.chip", None),
        ("visit", [0]),
        ("visit", [0, 99]),
        ("visit", [0, -1]),
        ("visit", 7),
        ("compute_unit", ...),
        ("error", 5),
        ("surprise", 5),
        ("workload", None),
        ("workload", []),
    ],
)
def test_damaged_visit_of_a_mac_is_a_one_line_error(key, value, packed, tmp_path, capsys):
    backbone = next(i for i, package in enumerate(Bundle.load(packed).packages) if package.several is None)
    line = {**MAC, "workload": Bundle.load(packed).packages[backbone].workload, "visit": [0, backbone]}
    written(packed, line)
    assert collect(packed, tmp_path / "good.csv").rows()[line["workload"]].latency_ms == 2.1
    line = json.loads(json.dumps(line))
    put(key, value)(line)
    written(packed, line)
    refused(packed, tmp_path, capsys)


def refused(folder: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["bundle", "collect", str(folder), "--out", str(tmp_path / "t.csv")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 700, said
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("latency_ms", math.nan),
        ("latency_ms", -1.0),
        ("latency_ms", math.inf),
        ("latency_ms", "7 ms"),
        ("latency_ms", None),
        ("latency_ms", ...),
        ("memory_mb", -1.0),
        ("memory_mb", math.inf),
        ("weights_mb", math.nan),
        ("params", 1.5),
        ("params", -1),
        ("params", 10**25),
        ("count", 0),
        ("count", "many"),
        ("status", "fine"),
        ("source", "guessed"),
        ("reason", 5),
        ("workload", ...),
        ("surprise", 1),
    ],
)
def test_damaged_row_is_a_one_line_error(key, value, measured, tmp_path, capsys):
    line = next(
        line for line in map(json.loads, (measured / RESULTS).read_text().splitlines()) if line["row"]["status"] == "ok"
    )
    put(key, value)(line["row"])
    written(measured, {name: part for name, part in line.items() if name != "digest"})
    refused(measured, tmp_path, capsys)


@pytest.mark.parametrize("part", ["row", "host", "package", "digest"])
@pytest.mark.parametrize("value", [None, [], "x", 5, ...])
def test_line_with_a_damaged_part_is_a_one_line_error(part, value, measured, tmp_path, capsys):
    line = json.loads((measured / RESULTS).read_text().splitlines()[0])
    put(part, value)(line)
    if part == "digest":
        (measured / RESULTS).write_text(json.dumps(line) + "\n")
    else:
        written(measured, {name: part for name, part in line.items() if name != "digest"})
    refused(measured, tmp_path, capsys)


def test_duplicate_results_and_a_pipe_are_one_line_errors(measured, tmp_path, capsys):
    whole = (measured / RESULTS).read_text()
    (measured / RESULTS).write_text(whole + whole)
    refused(measured, tmp_path, capsys)
    (measured / RESULTS).unlink()
    os.mkfifo(measured / RESULTS)
    refused(measured, tmp_path, capsys)


def resealed(path: Path, bundle: str, change) -> None:
    body = change(path.read_text().rpartition("digest: ")[0])
    digest = hashlib.sha256(f"{bundle}\n{body}".encode()).hexdigest()
    path.write_text(f"{body}digest: {digest}\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"^phone: .*$", "phone: a|b"),
        (r"^phone: .*$", ""),
        (r"^threads: .*$", "threads: all"),
        (r"^threads: .*$", "threads: " + "9" * 5000),
        (r"^visit: .*$", "visit: 0"),
        (r"^visit: .*$", "visit: x y"),
        (r"^== one$", "== two"),
        (r"^== reference$", "== referee"),
        (r"median=\d+", "median=nan"),
        (r"median=\d+", "median=-5"),
        (r"median=\d+", "median=1e999"),
        (r"median=\d+", "median=1.2.3"),
        (r"overall=[\d.]+", "overall=nan"),
        (r"session in [\d.]+ms", "session in -1ms"),
        (r"Created TensorFlow Lite XNNPACK delegate for CPU", "Failed to apply XNNPACK delegate"),
    ],
)
def test_damaged_visit_of_a_phone_is_a_one_line_error(old, new, scripted, tmp_path, capsys):
    for visit in (scripted / "results").glob("*.txt"):
        resealed(visit, Bundle.load(scripted).id, lambda body: re.sub(old, new, body, flags=re.M))
    refused(scripted, tmp_path, capsys)


def test_workload_that_xnnpack_does_not_run_is_infeasible(scripted, tmp_path):
    said = "Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate."
    number = next(i for i, p in enumerate(Bundle.load(scripted).packages) if p.workload.startswith("Conv1D"))

    def change(body: str) -> str:
        before, one, rest = body.partition("== one")
        return before + one + rest.replace("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", f"INFO: {said}")

    for visit in (scripted / "results").glob(f"*-{number}.txt"):
        resealed(visit, Bundle.load(scripted).id, change)
    rows = collect(scripted, tmp_path / "t.csv").rows().values()
    row = next(row for row in rows if row.workload.startswith("Conv1D"))
    assert row.status == "infeasible" and "will not be executed by the delegate" in row.reason


def test_copies_that_take_negative_time_are_an_error(scripted, tmp_path, capsys):
    """Every file of one visit: the longer graph is faster than the short one."""
    number = next(i for i, p in enumerate(Bundle.load(scripted).packages) if p.several is not None)

    def change(body: str) -> str:
        before, several, rest = body.partition("== several")
        return before + several + re.sub(r"median=\d+", "median=1", rest)

    for visit in (scripted / "results").glob(f"*-{number}.txt"):
        resealed(visit, Bundle.load(scripted).id, change)
    refused(scripted, tmp_path, capsys)


def test_failed_create_leaves_nothing_and_a_killed_one_can_be_repeated(space, phone, tmp_path, monkeypatch):
    real = bundles._write_runner

    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "b/plan.txt"))

    monkeypatch.setattr(bundles, "_write_runner", full)
    with pytest.raises(OSError, match="No space left"):
        create(space, "litert", tmp_path / "b", progress=False)
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr(bundles, "_write_runner", real)
    (tmp_path / "b/packages").mkdir(parents=True)
    for left in (".packing", "measure.sh", "packages/0000.tflite"):  # as a killed one leaves it
        (tmp_path / "b" / left).touch()
    assert len(create(space, "litert", tmp_path / "b", progress=False).packages) == 3
    assert not list((tmp_path / "b").glob(".*"))


def test_reference_that_cannot_be_compiled_is_an_error(space, phone, tmp_path, monkeypatch):
    def package(self, workload, alone=False):
        if alone:
            raise Infeasible("crashed (signal SIGSEGV)")

    monkeypatch.setattr(Compiler, "package", package)
    with pytest.raises(NasError, match="the reference workload cannot be compiled"):
        create(space, "litert", tmp_path / "b", progress=False)
    assert not (tmp_path / "b").exists()
