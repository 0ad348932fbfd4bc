"""The `coreml` runtime without a Mac: a stand-in `devicectl` with one iPhone, and a stand-in for the framework.

Everything up to Apple's tools and framework is the real code: conversion, coremltools' remote calls, the protocol.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from nas.costs import LookupTable, TableWriter
from nas.errors import ConfigError, MissingDependency, NasError
from nas.failures import framework_error
from nas.profiling import Infeasible, OutOfMemory, Protocol, ToolError, runtimes
from nas.profiling.bundles import creation as bundles
from nas.profiling.bundles import script
from nas.profiling.bundles.collection import collect
from nas.profiling.bundles.render import render_script
from nas.profiling.coreml_models import random_inputs
from nas.profiling.measuring import measure_all
from nas.profiling.runtimes import coreml as coreml_runtime
from nas.profiling.runtimes import iphone
from nas.profiling.workers import coreml
from nas.profiling.workers.compile import compile_workload
from nas.spaces import Operator, SearchSpace, Workload

STAND_INS = Path(__file__).parents[1] / "support" / "stand_ins"
QUICK = Protocol(cap_s=0.01, min_samples=2, min_blocks=2)
SMALL = Workload(Operator("Conv1D"), (1, 16, 4, 4, 4))
LARGE = Workload(Operator("Conv1D"), (1, 64, 4, 4, 4))
DEVICES = {
    "result": {
        "devices": [
            {
                "identifier": "00008140-AAAA",
                "connectionProperties": {"tunnelState": "@STATE@"},
                "deviceProperties": {"name": "Test Phone", "osVersionNumber": "18.1", "osBuildUpdate": "22B83"},
                "hardwareProperties": {
                    "deviceType": "iPhone",
                    "udid": "00008140-AAAA",
                    "marketingName": "iPhone 16 Pro Max",
                    "productType": "iPhone17,2",
                },
            }
        ]
    }
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Two real workloads as real packages, for iOS 18."""
    folder = tmp_path_factory.mktemp("packages")
    return {workload: compile_workload(workload, 3, "coreml", "iOS18", folder) for workload in (SMALL, LARGE)}


@pytest.fixture
def phone(tmp_path, monkeypatch, packages):
    """A folder that represents an iPhone for the stand-ins, and stand-ins for Xcode."""
    from coremltools.models.ml_program.experimental import remote_device as remote

    folder, project = tmp_path / "phone", tmp_path / "modelrunner"
    folder.mkdir()
    (project / "ModelRunner.xcworkspace").mkdir(parents=True)
    (folder / "devices.json").write_text(json.dumps(DEVICES))
    monkeypatch.setattr(remote._ModelRunnerAppBuilder, "_get_project_path", lambda: project)
    monkeypatch.setattr(remote._DeviceCtl, "_validation_done", False)
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(folder))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("DEVELOPMENT_TEAM", "TEAM123456")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    temporary = tempfile.TemporaryDirectory()  # a short path: the address of a socket has room for a hundred letters
    (tmp_path / "temporary").symlink_to(temporary.name)
    monkeypatch.setattr(tempfile, "tempdir", temporary.name)
    monkeypatch.setattr(iphone, "POLL_S", 0.05)
    monkeypatch.setattr(coreml_runtime, "MAX_RUNS", 1)
    monkeypatch.setattr(
        iphone, "compile_model", lambda path, out: Path(shutil.copytree(path, out / f"{path.stem}.mlmodelc"))
    )
    yield folder
    temporary.cleanup()
    shutil.rmtree(folder)  # the stand-in app runs for as long as its phone is there


def left_behind(folder: Path) -> list[Path]:
    """What coremltools keeps of models and predictions on a phone: tens of megabytes each."""
    gc.collect()  # of a visit that crashed
    return [*(folder / "temporary").rglob("*.bin"), *(folder / "cache").rglob("data.bin")]


def open_runtime(packages, monkeypatch):
    """The runtime with packages that are there already, instead of a compiling process."""
    runtime = runtimes.make("coreml", "iphone", compute_unit="cpu+ne", target="iOS18")
    runtime.block_ms, runtime.reference = 50.0, packages[SMALL]
    monkeypatch.setattr(runtime.compiler, "package", lambda workload, alone=False: packages.get(workload, workload))
    return runtime


@pytest.mark.slow
def test_measure_an_iphone(phone, packages, monkeypatch, tmp_path):
    with open_runtime(packages, monkeypatch) as runtime:
        meta = runtime.describe()
        assert meta["chip"] == "iPhone 16 Pro Max, iPhone17,2" and meta["os"] == "iOS 18.1 (22B83)"
        assert (
            meta["device"] == "iphone"
            and (meta["target"], meta["compute_unit"]) == ("iOS18", "cpu+ne")
            and "00008140" not in json.dumps(meta)
        )
        assert "estimated" in meta["memory"] and "idles" in meta["remote"]
        rows = {}
        measure_all(runtime, [SMALL, LARGE], QUICK, lambda row: rows.update({row.workload: row}))
    assert "DEVELOPMENT_TEAM=TEAM123456" in (phone / "builds").read_text()
    for workload in (SMALL, LARGE):
        row, package = rows[str(workload)], packages[workload]
        assert row.status == "ok" and row.variant == "reference" and row.load_ms == 5.0
        # the stand-in takes 1 ms per 10 kB of weights: the difference of three copies and one, halved
        sizes = [sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in package.files]
        assert row.latency_ms == pytest.approx((sizes[1] - sizes[0]) / 2 / 1e4)
        assert row.memory_mb == package.activations_mb and row.params == package.params
    assert int((phone / "loaded").read_text()) <= 4, "models stay on the phone only while they are timed"
    assert left_behind(tmp_path) == []


def test_workload_that_ends_the_app_is_infeasible_and_the_next_is_measured(phone, packages, monkeypatch):
    limit = sum(f.stat().st_size for f in packages[LARGE].path.rglob("weight.bin"))
    with open_runtime(packages, monkeypatch) as runtime:
        (phone / "crash").write_text(str(limit))
        with pytest.raises(Infeasible, match="out of memory, or a crash"):
            runtime.open(LARGE)
        session = runtime.open(SMALL)
        assert len(session.block(2)) == 1
        session.close()


def test_workload_that_core_ml_refuses_is_infeasible_with_the_reason(phone, packages, monkeypatch):
    with open_runtime(packages, monkeypatch) as runtime:
        (phone / "refuse").write_text("1000")
        with pytest.raises(Infeasible, match="Error in declaring network"):
            runtime.open(LARGE)


@pytest.mark.slow
def test_unplugged_iphone_is_a_one_line_error_and_rows_are_kept(phone, packages, monkeypatch, tmp_path):
    with open_runtime(packages, monkeypatch) as runtime:
        writer = TableWriter(tmp_path / "t.csv", runtime.describe())

        def finished(row):
            writer.append(row)
            (phone / "unplug").touch()

        with pytest.raises(NasError, match="'Test Phone' is disconnected") as error:
            measure_all(runtime, [SMALL, LARGE], QUICK, finished)
    assert "\n" not in str(error.value)
    assert len(LookupTable.load(tmp_path / "t.csv").frame) == 1


def test_missing_iphone_or_team_is_an_error_with_a_fix(phone, monkeypatch):
    with pytest.raises(NasError, match="iPhone 'Mine' is not connected; connected: 'Test Phone'"):
        runtimes.make("coreml", "iphone:Mine")
    (phone / "gone").touch()
    with pytest.raises(NasError, match="no iPhone is connected"):
        runtimes.make("coreml", "iphone")
    monkeypatch.delenv("DEVELOPMENT_TEAM")
    with pytest.raises(MissingDependency, match="set DEVELOPMENT_TEAM"):
        runtimes.make("coreml", "iphone")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac can")
def test_without_a_mac_the_error_names_bundles(monkeypatch):
    with pytest.raises(MissingDependency, match="nas bundle create --runtime coreml"):
        runtimes.make("coreml")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependency, match="Mac with Xcode"):
        runtimes.make("coreml", "iphone")


def test_unknown_device_unit_and_target_suggest_known_ones():
    for options, text in (
        ({"device": "ipone"}, "did you mean 'iphone'"),
        ({"compute_unit": "cpu+gpuu"}, "did you mean 'cpu\\+gpu'"),
        ({"target": "ios17"}, "did you mean 'iOS17'"),
    ):
        with pytest.raises(ConfigError, match=text):
            runtimes.make("coreml", **options)


@pytest.fixture
def bundle(packages, monkeypatch, tmp_path):
    """A Core ML bundle of a small space, each of its operators the same real package."""

    class Ready:
        def __init__(self, *_):
            pass

        def package(self, workload, alone=False):
            if alone:
                return replace(packages[SMALL], several=None, copies=0)
            return replace(packages[LARGE], workload=str(workload))

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    space = SearchSpace.load("demo")
    space = replace(space, slots={slot: ("none", "Conv1D") for slot in list(space.slots)[:1]})
    monkeypatch.setattr(bundles, "Compiler", Ready)
    return bundles.create(space, "coreml", tmp_path / "bundle", "iOS18", progress=False)


def manifest_of(bundle) -> dict:
    """As measure.py reads it."""
    return json.loads((bundle.folder / "manifest.json").read_text())


def test_measure_py_runs_without_the_library_and_its_lines_are_collected(bundle, monkeypatch, tmp_path):
    from coremltools.models import model

    written = bundle.folder / "measure.py"
    refused = subprocess.run([sys.executable, "-I", str(written)], capture_output=True, text=True, cwd=tmp_path)
    assert sys.platform == "darwin" or (refused.returncode == 2 and "runs on a Mac" in refused.stderr)
    monkeypatch.setattr(model, "_MLModelProxy", Framework)
    visits = []

    def visit_here(command):  # in this process, where the framework is stood in for
        visits.append(int(command[command.index("--visit") + 1]))
        if len(visits) == 3:
            return {"error": "killed by signal 11: "}
        return script.visit_on_mac(bundle.folder, manifest_of(bundle), visits[-1], "cpu+ne")

    monkeypatch.setattr(script, "run_visit", visit_here)
    assert script.measure_rounds(bundle.folder, manifest_of(bundle), "cpu+ne", rounds=2) == 0
    assert script.measure_rounds(bundle.folder, manifest_of(bundle), "cpu+ne", rounds=3) == 0
    assert len(visits) == 3 * len(bundle.packages), "what is there is not measured again"
    assert script.measure_rounds(bundle.folder, manifest_of(bundle), "cpu", rounds=1) == 2  # another unit: another copy
    table = collect(bundle.folder, tmp_path / "t.csv")
    sizes = [sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in bundle.packages[0].files]
    assert table.frame["latency_ms"].tolist() == pytest.approx(2 * [(sizes[1] - sizes[0]) / 2 / 1e4], rel=1e-4)
    assert (table.meta["target"], table.meta["compute_unit"]) == ("iOS18", "cpu+ne")
    (next(bundle.folder.rglob("weight.bin"))).write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=r"weight.bin: was changed"):
        collect(bundle.folder, tmp_path / "t.csv")


@pytest.mark.slow
def test_measure_py_on_an_iphone_survives_a_crash_of_the_app(bundle, phone, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "MAX_RUNS", 1)
    connected = script.connect("Test Phone")
    (phone / "crash").write_text("1000")
    assert "error" in script.visit_on_phone(bundle.folder, manifest_of(bundle), 0, "cpu+ne", connected)
    (phone / "crash").unlink()
    (phone / "slow").write_text("11")  # coremltools by itself gives up after ten
    assert script.measure_rounds(bundle.folder, manifest_of(bundle), "cpu+ne", 1, connected) == 0
    table = collect(bundle.folder, tmp_path / "t.csv")
    sizes = [sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in bundle.packages[0].files]
    assert table.frame["latency_ms"].tolist() == pytest.approx(2 * [(sizes[1] - sizes[0]) / 2 / 1e4], rel=1e-4)
    assert table.meta["chip"] == "iPhone 16 Pro Max, iPhone17,2" and "idles" in table.meta["remote"]
    assert left_behind(tmp_path) == []
    (phone / "gone").touch()
    with pytest.raises(NasError, match="no iPhone is connected; connected: none"):
        script.connect("")


def test_library_failure_ends_measure_py_without_a_visit(bundle, monkeypatch, capsys):
    for error, status in ((OSError(28, "No space left on device"), 70), (RuntimeError("no such layer"), 1)):

        def visit(*_, error=error):
            raise error

        monkeypatch.setattr(script, "visit_on_mac", visit)
        assert script.print_visit(bundle.folder, manifest_of(bundle), 0, "cpu") == status
    said = capsys.readouterr().err
    assert "OSError: [Errno 28] No space left" in said and "RuntimeError: no such layer" in said
    command = [sys.executable, "-c", "import sys; print('OSError: full', file=sys.stderr); sys.exit(70)"]
    with pytest.raises(ToolError, match="OSError: full; fix this"):
        script.run_visit(command)


def test_measure_py_is_complete_without_the_library(tmp_path):
    """Every name in it is defined in it once, and nothing is imported from the library."""
    text = render_script("nas.profiling.bundles.script")
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "numpy", "coremltools"}
    defined = re.findall(r"^(?:class|def|async def) (\w+)|^([A-Z_]+)(?:, ([A-Z_]+))? =", text, flags=re.M)
    names = [name for match in defined for name in match if name]
    assert len(names) > 30 and len(names) == len(set(names))
    (tmp_path / "measure.py").write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"files": 5}', '{"files": {}}', "[" * 100000])
def test_measure_py_reports_a_damaged_manifest_in_one_line(text, tmp_path):
    (tmp_path / "measure.py").write_text(render_script("nas.profiling.bundles.script"))
    (tmp_path / "manifest.json").write_text(text)
    done = subprocess.run([sys.executable, str(tmp_path / "measure.py")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("measure.py: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("Error compiling model: unsupported layer"), Infeasible),
        (RuntimeError("Failed to allocate 3 GB"), OutOfMemory),
        (RuntimeError("cannot write model.mil: No space left on device"), ToolError),
        (OSError(28, "No space left on device"), ToolError),
        (AttributeError("no attribute 'compile_model'"), ToolError),
    ],
    ids=str,
)
def test_framework_errors_are_split_into_workload_and_machine(error, kind):
    assert type(framework_error("Core ML cannot load it", error)) is kind


def test_crashed_visit_process_is_an_error_of_the_visit():
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    assert script.run_visit(crash) == {"error": "killed by signal 11: "}
    assert (
        "ended with 3: no"
        in script.run_visit([sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"])["error"]
    )


class Framework:
    """Stand-in for coremltools' bridge to Apple's framework: the narrowest place where a Mac is needed.

    A prediction lasts 1 ms per 10 kB of weights. Its own time is what counts, not the caller's.
    """

    loads: ClassVar[list[tuple]] = []

    def __init__(self, path, unit, *rest):
        self.size = sum(f.stat().st_size for f in Path(path).rglob("weight.bin"))
        self.loads.append((unit, *rest))

    @staticmethod
    def maximum_supported_specification_version():
        return 9

    def predict(self, data, state):
        assert {array.dtype.name for array in data.values()} == {"float32"}  # coremltools widens float16 for the bridge
        return {}

    def get_load_duration_in_nano_seconds(self):
        return 7_000_000

    def get_last_predict_duration_in_nano_seconds(self):
        return 100 * self.size


def test_a_mac_times_an_operator_by_difference(packages, monkeypatch):
    from coremltools.models import model

    monkeypatch.setattr(model, "_MLModelProxy", Framework)
    package = packages[LARGE]
    assert coreml.load(package.path, package.several, package.copies, "cpu+gpu") == 7.0
    assert Framework.loads[-1][0] == "CPU_AND_GPU"
    sizes = [sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in package.files]
    assert coreml.block(3) == pytest.approx(3 * [(sizes[1] - sizes[0]) / 2 / 1e4])


def test_inputs_have_the_types_and_shapes_that_the_package_declares(packages):
    import coremltools as ct

    inputs = random_inputs(ct.utils.load_spec(str(packages[SMALL].path)))
    assert {name: (array.shape, array.dtype.name) for name, array in inputs.items()} == {
        "features": ((4, 16, 4, 4), "float16")
    }
