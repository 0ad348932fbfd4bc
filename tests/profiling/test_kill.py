"""A profile whose process is killed with -9: the rows it finished stay, and are not measured again."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nas.costs import LookupTable
from nas.spaces import SearchSpace
from tests.support.forked import Running, start_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")

PROFILE = """
import sys
from nas.profiling import Protocol, profile
from nas.spaces import SearchSpace
from tests.support.forked import Running, start_python
profile(SearchSpace.load(sys.argv[1]), out=sys.argv[2], protocol=Protocol(processes=1, cap_s=0.2, min_samples=6))
"""
COMPLETE = f"""
from nas.profiling.workers.pool import WorkerPool
WorkerPool.start = None  # a table that is complete needs no child
{PROFILE}
assert "torch" not in sys.modules
"""
COMMAND = """
import functools, sys
from nas.cli import main
from nas.profiling import Protocol, measuring
measuring.Protocol = functools.partial(Protocol, processes=1, cap_s=2.0)
sys.exit(main(sys.argv[1:]))
"""
"""`nas` with one process and less time for each workload."""
FINISHED = re.compile(r"\[\d+/\d+\] (.*): [\d.]+(?:e-\d+)? ms,")


@pytest.fixture
def space(tmp_path) -> Path:
    """The demo space with four operators at its first site alone: five workloads."""
    choices = ("none", "Conv1D", "Conv3D", "SelfAttention1D", "CrossAttention1D")
    return replace(SearchSpace.load("demo"), slots={"down.0.0/0": choices}).save(tmp_path / "space.yaml")


def profile(space: Path, out: Path, kill_after: int | None = None) -> tuple[list[str], set[int]]:
    """Run a profile, and kill it with -9 once it has told of so many rows: what it told, and all its processes."""
    process, family = start_python(PROFILE, space, out), set()
    while process.poll() is None:
        if kill_after is not None and len(finished(process)) >= kill_after:
            family = descendants(process.pid)
            process.kill()
        time.sleep(0.01)
    assert process.wait() == (0 if kill_after is None else -signal.SIGKILL), process.stderr.read_text()
    return finished(process), family


def finished(process: Running) -> list[str]:
    """The rows that it has told of."""
    return [match[1] for line in process.stderr.read_text().splitlines() if (match := FINISHED.match(line))]


def descendants(pid: int) -> set[int]:
    found = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            found |= {child} | descendants(child)
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and state(pid) != "Z"}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.slow
def test_no_row_is_lost_and_none_is_measured_twice(space, tmp_path):
    out, measured, rows = tmp_path / "t.csv", [], {}
    for kill_after in (2, None):
        told, family = profile(space, out, kill_after)
        kept = LookupTable.load(out).rows()
        assert set(told) <= set(kept)  # what it told of is on the disk
        assert {key: str(row) for key, row in rows.items()}.items() <= {k: str(r) for k, r in kept.items()}.items()
        measured += [key for key in kept if key not in rows]
        assert not set(told) & set(rows)  # nothing that was there is measured again
        rows = kept
        deadline = time.monotonic() + 20
        while alive(family) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(family)  # no child measures on without its parent
    assert len(rows) == 5 and sorted(measured) == sorted(rows)
    lines = out.read_text().splitlines()
    subprocess.run([sys.executable, "-c", COMPLETE, space, out], check=True)
    assert out.read_text().splitlines() == lines


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 1])
def test_ctrl_c_is_one_line_and_leaves_no_process(rows, space, tmp_path):
    """Of the whole group of processes, as a terminal sends it: before the first row, and between two."""
    words, environment = ["profile", "--space", space, "--out", tmp_path / "t.csv"], {"TMPDIR": str(tmp_path)}
    process = start_python(COMMAND, *words, environment=environment, new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (len(descendants(process.pid)) < 2 or len(finished(process)) < rows):
        time.sleep(0.01)
    family = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    done = process.finish()
    said = done.stderr.splitlines()
    assert done.returncode == 130
    assert [line for line in said if not FINISHED.match(line)] == [
        "nas profile: stopped; run the same command again to resume"
    ]
    deadline = time.monotonic() + 20
    while alive(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(family) and not list(tmp_path.glob("nas-profile-*"))


@pytest.mark.slow
def test_second_process_on_a_table_is_a_one_line_error(space, tmp_path):
    command = [sys.executable, "-m", "nas.cli", "profile", "--space", space, "--out", tmp_path / "t.csv"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / ".t.csv.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run(command, capture_output=True, text=True)
    first.send_signal(signal.SIGINT)
    first.wait()
    assert second.returncode == 2 and second.stderr.count("\n") == 1 and "is writing to it" in second.stderr
