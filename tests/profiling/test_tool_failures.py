"""A broken tool, library or machine is an error of the run; only the workload's own failures are rows."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nas import caches
from nas.cli import main
from nas.errors import ConfigError, MissingDependency, NasError
from nas.profiling import Infeasible, OutOfMemory, Protocol, Runtime, Session, ToolError, WorkloadStats, cgroups, host
from nas.profiling.measuring import measure_all
from nas.profiling.temporary import LOCK_FILE, TemporaryFolder
from nas.profiling.workers.pool import WorkerPool
from nas.profiling.workers.worker import failure
from nas.spaces import Operator, Workload
from tests.support import tiny


@pytest.fixture
def space(tmp_path) -> Path:
    (tmp_path / "tiny.yaml").write_text(tiny.SPACE)
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (AttributeError("module 'jax' has no attribute 'core'"), ToolError, "AttributeError: module 'jax'"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/cache/x"),
            ToolError,
            "/cache/x: No space left .*; free some",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), ToolError, "/cache: Permission denied"),
        (TypeError("unsupported operand type(s) for +"), ToolError, "TypeError"),
        (KeyError("weights"), ToolError, "KeyError"),
        (RuntimeError("Failed to find C++ compiler"), ToolError, "compiler"),
        (RuntimeError("Could not determine home directory."), ToolError, "home directory"),
        (ModuleNotFoundError("No module named 'jax'"), MissingDependency, "jax"),
        (ImportError("libGL.so.1: cannot open shared object file"), MissingDependency, "libGL"),
        (MemoryError(), OutOfMemory, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), OutOfMemory, "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory, "out of memory"),
        (NotImplementedError("aten::foo"), Infeasible, "aten::foo"),
        (RuntimeError('"conv" not implemented for Half'), Infeasible, "not implemented"),
        (RuntimeError("Node number 3 (CONV_3D) failed to prepare."), Infeasible, "CONV_3D"),
        (ValueError("Core ML only supports tensors with rank <= 5"), Infeasible, "only supports"),
        (RuntimeError("Lowering not found: aten.foo.default"), Infeasible, "Lowering"),
        (ConfigError("two\nlines"), ConfigError, "two lines"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}"[:40] if isinstance(value, Exception) else "",
)
def test_worker_errors_are_split_into_workload_and_machine(error, kind, text):
    reply = failure(error)
    assert reply.error is kind and "\n" not in reply.message and re.search(text, reply.message)


class Broken(Runtime):
    """Stands in for a runtime whose tool fails for one workload, of 32 channels."""

    name = "broken"

    def describe(self) -> dict:
        return {}

    def open(self, workload) -> Session:
        if workload.shape[1] == 32:
            raise ToolError("the disk is full")
        return Steady()

    def close(self) -> None:
        pass


class Steady(Session):
    stats = WorkloadStats(memory_mb=1.0, weights_mb=1.0, params=1, load_ms=1.0)

    def __init__(self, ms: float = 1.0) -> None:
        self.ms = ms

    def block(self, runs: int) -> list[float]:
        return [self.ms] * runs

    def close(self) -> None:
        pass


def test_tool_failure_ends_the_run_and_rows_are_kept():
    rows, workloads = [], [Workload(Operator("Conv1D"), (1, channels, 8, 4, 4)) for channels in (16, 32, 64)]
    with pytest.raises(ToolError, match=r"Conv1D.*the disk is full.*finished rows are kept"):
        measure_all(Broken(), workloads, Protocol(cap_s=0.01), rows.append)
    assert [(row.workload, row.status) for row in rows] == [(str(workloads[0]), "ok")]


@pytest.mark.parametrize("ms", [math.nan, math.inf])
def test_non_finite_latency_is_an_error(ms):
    class Odd(Broken):
        def open(self, workload) -> Session:
            return Steady(ms if workload.shape[1] == 16 else 1.0)

    rows = []
    with pytest.raises(NasError, match="finite latency"):
        measure_all(Odd(), [Workload(Operator("Conv1D"), (1, 16, 8, 4, 4))], Protocol(cap_s=0.01), rows.append)
    assert not rows


def test_worker_that_cannot_start_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "cannot_be_imported.py").write_text("raise AttributeError('core')")
    monkeypatch.syspath_prepend(tmp_path)
    for module, text in (("cannot_be_imported", "AttributeError: core"), ("nas.no_such_module", "No module named")):
        pool = WorkerPool(module, {})
        with pytest.raises(NasError, match=text):
            pool.start()
        pool.close()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = WorkerPool("math", {})
    with pytest.raises(ToolError, match="ended with status 1"):
        pool.start()
    pool.close()
    assert not pool.temporary.path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated_worker_is_a_tool_error(number):
    pool = WorkerPool("math", {})
    child = pool.start()
    os.kill(child.pid, number)
    time.sleep(0.2)
    with pytest.raises(ToolError, match=r"someone ended the measuring process|measuring process has ended"):
        child.call("time:sleep", 30)
    pool.close()


def test_worker_runs_without_a_log_file(monkeypatch):
    pool = WorkerPool("math", {})
    pool.start().close()
    (pool.temporary.path / "log").unlink()
    pool.log = pool.temporary.path / "gone" / "log"
    for path in pool.temporary.path.iterdir():
        path.unlink()
    pool.temporary.path.rmdir()  # no child can create a log file from here on
    child = pool.start()
    assert child.call("math:factorial", 5) == 120
    pool.close()


FAKE = {
    "import": "raise AttributeError(\"module 'jax' has no attribute 'core'\")",
    "convert": "def convert(*a, **k): raise AttributeError(\"module 'jax' has no attribute 'core'\")",
    "export": (
        "class Model:\n    def export(self, path):\n        open(path, 'w').write('half')\n"
        "        raise OSError(28, 'No space left on device')\n"
        "def convert(*a, **k): return Model()"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("what", "text"), [("import", "'core'"), ("convert", "'core'"), ("export", "No space left")])
def test_broken_converter_is_a_one_line_error_and_leaves_nothing(what, text, space, tmp_path, monkeypatch, capsys):
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes/litert_torch.py").write_text(FAKE[what])
    monkeypatch.syspath_prepend(tmp_path / "fakes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert (
        main(["bundle", "create", "--space", str(space), "--runtime", "litert", "--out", str(tmp_path / "bundle")]) == 2
    )
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("nas bundle create: ") and text in said
    assert not (tmp_path / "bundle").exists()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("runtime", ["litert", "coreml"])
def test_missing_temporary_folder_is_a_one_line_error(runtime, space, tmp_path, monkeypatch, capsys):
    def nowhere(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.BytesIO())
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    assert (
        main(["bundle", "create", "--space", str(space), "--runtime", runtime, "--out", str(tmp_path / "bundle")]) == 2
    )
    assert "No usable temporary directory" in capsys.readouterr().err
    assert main(["profile", "--space", str(space), "--out", str(tmp_path / "t.csv")]) == 2
    said = capsys.readouterr().err
    assert "TMPDIR" in said and said.count("\n") == 1


def test_unwritable_cache_and_missing_home_are_errors(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/nas: the cache cannot be written.*XDG_CACHE_HOME"):
        caches.usable(tmp_path / "file/nas")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.user_cache("litert") == tmp_path / ".cache/nas/litert"

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(ConfigError, match="HOME is not set"):
        caches.user_cache("litert")


def test_temporary_folders_of_dead_processes_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = "import sys, tempfile; tempfile.tempdir = sys.argv[1]\nfrom nas.profiling.temporary import TemporaryFolder\n"
    made += "folder = TemporaryFolder('nas-test-')\n(folder.path / 'weights').write_text('x')\nimport os; os._exit(9)"
    subprocess.run([sys.executable, "-c", made, tmp_path], check=False)
    [dead] = tmp_path.glob("nas-test-*")
    assert (dead / "weights").exists()
    mine = TemporaryFolder("nas-test-")
    assert not dead.exists()
    other = TemporaryFolder("nas-test-")
    assert (mine.path / LOCK_FILE).exists(), "its process lives"
    mine.close(), other.close(), other.close()
    assert list(tmp_path.iterdir()) == []


V1 = "4:memory:/job\n3:cpuset:/job\n0::/\n"
V2 = "0::/box/inner\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "free"),
    [
        (
            V2,
            "cgroup2 cgroup2 rw",
            {"box/memory.max": 600, "box/memory.current": 100, "box/inner/memory.max": "max"},
            500,
        ),
        (V2, "cgroup2 cgroup2 rw", {"box/inner/memory.max": "max", "box/inner/memory.current": 5}, None),
        ("0::/\n", "cgroup2 cgroup2 rw", {"memory.max": 600, "memory.current": 650}, 0),
        (
            V1,
            "cgroup cgroup rw,memory",
            {
                "job/memory.limit_in_bytes": 600,
                "job/memory.usage_in_bytes": 100,
                "job/memory.stat": "total_inactive_file 7",
            },
            507,
        ),
        (
            V1,
            "cgroup cgroup rw,memory",
            {"memory.limit_in_bytes": 600, "memory.usage_in_bytes": 1},
            599,
        ),  # in a container
        (
            V1,
            "cgroup cgroup rw,memory",
            {"job/memory.limit_in_bytes": 2**63 - 4096, "job/memory.usage_in_bytes": 1},
            None,
        ),
        (V1, "cgroup cgroup rw,cpu", {"job/memory.limit_in_bytes": 600, "job/memory.usage_in_bytes": 1}, None),
    ],
    ids=["v2 outer", "v2 none", "v2 above", "v1", "v1 container", "v1 none", "v1 other controller"],
)
def test_memory_limit_of_a_container(groups, mounts, files, free, tmp_path):
    place, proc = tmp_path / "mounted", tmp_path / "proc"
    for name, value in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{value}\n")
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(f"31 23 0:28 / {place} rw,relatime shared:1 - {mounts}\nnonsense\n")
    assert cgroups.free_bytes(proc) == free


def test_available_memory_respects_the_limit_of_a_container(monkeypatch):
    monkeypatch.setattr(cgroups, "free_bytes", lambda: 6e8)
    assert host.available_mb() == pytest.approx(600)
