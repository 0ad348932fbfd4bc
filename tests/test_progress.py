"""Progress in a log file: few, complete lines with the remaining time."""

import io
import sys

import nas.progress
from nas.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_lines(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress(range(4, 1000), "finetune", 1000, done=4)) == list(range(4, 1000))
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and 1 <= len(lines) <= 3
    assert lines[-1].startswith("finetune: 1000 of 1000 steps, ") and lines[-1].endswith(" left")


def test_it_goes_on_telling(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(nas.progress, "LOG_EVERY_S", 0)
    for _ in progress(range(5), "search", 5, unit="trial"):
        pass
    assert [line.split(" of ")[0] for line in log.getvalue().splitlines()] == [f"search: {n}" for n in range(1, 6)]


def test_nothing_done_is_nothing_said(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    progress(None, "search", 5).close()
    assert log.getvalue() == ""


def test_short_work_is_not_told(monkeypatch):
    for log in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", log)
        for _ in progress(range(5), "shortlist", 5, delay_s=60):
            pass
        assert log.getvalue() == ""


def test_a_terminal_gets_one_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in progress(range(3), "decoder", 3):
        pass
    assert "\r" in terminal.getvalue() and terminal.getvalue().count("\n") == 1
