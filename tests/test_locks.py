"""Output locks: a second process gets a one-line error, until the first one ends."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.locks import LockedError, output_lock

HOLD = """
import sys
from nas.locks import output_lock
with output_lock(sys.argv[1], folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path, kind: str, code: str = HOLD) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    return child


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_second_process_is_refused_until_the_first_is_dead(kind, tmp_path):
    out = tmp_path / "new" / "out"
    child = hold(out, kind)
    with pytest.raises(LockedError) as refused, output_lock(out, folder=kind == "folder"):
        pass
    assert str(out) in str(refused.value) and f"process {child.pid} on " in str(refused.value)
    assert "\n" not in str(refused.value)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with output_lock(out, folder=kind == "folder"):
        pass
    assert not list(out.parent.glob("**/.*"))


FORK = """
import os, sys, time
from nas.locks import output_lock
with output_lock(sys.argv[1]):
    child = os.fork()
    if not child:
        time.sleep(600)
    print("held", flush=True)
    print(child, flush=True)
    sys.stdin.read()
"""


def test_a_fork_of_a_killed_process_holds_nothing(tmp_path):
    child = hold(tmp_path / "out", "file", FORK)
    fork = int(child.stdout.readline())
    try:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with output_lock(tmp_path / "out"):
            pass
    finally:
        os.kill(fork, signal.SIGKILL)


def test_the_same_process_may_take_it_again(tmp_path):
    with output_lock(tmp_path / "run", folder=True), output_lock(tmp_path / "run" / ".." / "run", folder=True):
        assert (tmp_path / "run" / ".nas.lock").exists()
    assert not (tmp_path / "run").exists()  # nothing was put into it


def test_what_was_written_stays(tmp_path):
    with output_lock(tmp_path / "a" / "b", folder=True):
        (tmp_path / "a" / "b" / "c").write_text("d")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "c"]


def test_warns_on_a_filesystem_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with output_lock(tmp_path / "out.csv"):
            pass
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "out.csv" in line and "does not support locks" in line


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written_is_known_at_once(reason, tmp_path, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise OSError(reason, os.strerror(reason), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NasError, match=os.strerror(reason)) as refused, output_lock(tmp_path / "out" / "t.csv"):
        pass
    assert str(tmp_path / "out" / "t.csv") in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_below_a_file_and_at_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NasError, match="a file"), output_lock(tmp_path / "file" / "out"):
        pass
    with pytest.raises(NasError, match="a file"), output_lock(tmp_path / "file", folder=True):
        pass
    with pytest.raises(NasError, match="is a folder"), output_lock(tmp_path / "folder"):
        pass
