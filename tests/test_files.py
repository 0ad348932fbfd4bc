"""Atomic writes: complete or not at all, file modes by the umask, and cleanup after dead processes."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import nas.files
from nas.files import link_or_copy, write_atomic


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_modes_follow_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_was_there_keeps_its_mode(tmp_path):
    write_atomic(tmp_path / "script", "a").chmod(0o750)
    write_atomic(tmp_path / "script", "b")
    assert (tmp_path / "script").stat().st_mode & 0o777 == 0o750


def test_names_as_long_as_the_filesystem_takes_them(tmp_path):
    for name in ("a" * 255, "ä" * 127):
        assert write_atomic(tmp_path / name, "text").read_text() == "text"


WRITE = """
import os, sys
from nas.files import write_atomic
def stop(*args):
    print("writing", flush=True)
    sys.stdin.read()
os.fsync = stop
write_atomic(sys.argv[1], "x" * 1000)
"""


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    command = [sys.executable, "-c", WRITE, str(tmp_path / "state")]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "writing\n"
    os.kill(writers[0].pid, signal.SIGKILL)
    writers[0].wait()
    write_atomic(tmp_path / "other", "text")
    assert len(list(tmp_path.glob(".*"))) == 1  # of the one that lives
    writers[1].communicate(timeout=60)
    assert (tmp_path / "state").read_text() == "x" * 1000 and not list(tmp_path.glob(".*"))


FULL = """
import resource, sys
from nas.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], "x" * 2000)
except OSError as error:
    print(error.filename)
"""


def test_what_does_not_fit_leaves_what_was_there(tmp_path):
    (tmp_path / "state").write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "state")], capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'state'}\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("state", "before")]


def test_the_folder_is_synced_too(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    write_atomic(tmp_path / "file", "text")
    assert synced[-1] == str(tmp_path)  # after the file has its name


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name(links, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("text")
    for _ in range(2):  # the second finds the first's: a run that was killed right after it
        link_or_copy(source, target)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    write_atomic(source, "new")
    assert target.read_text() == "text"


def test_a_filesystem_without_locks_is_written_too(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(nas.files, "try_lock", refuse)
    assert write_atomic(tmp_path / "file", "text").read_text() == "text"
