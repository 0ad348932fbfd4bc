"""How commands end: readers that have gone, Ctrl-C at any moment, and what the system refuses."""

import errno
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas.cli import main
from tests.support.command_line import commands, parse

COMMANDS = dict(commands())


def ending_in(error: BaseException, monkeypatch, command: str = "doctor", words: tuple[str, ...] = ()) -> int:
    """The status of a command that raises `error`."""

    def fails(**options: object) -> None:
        raise error

    monkeypatch.setattr(COMMANDS[command], "callback", fails)
    return main([*command.split(), *words])


# -- readers that have gone, and output that does not fit


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["completion", "bash"]])
def test_a_reader_that_has_seen_enough_is_no_error(words):
    program = f"import sys; from nas.cli import main; sys.stdin.read(); sys.exit(main({words!r}))"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = subprocess.Popen([sys.executable, "-c", program], **pipes)
    command.stdout.close()  # before anything is written
    command.stdin.close()
    assert command.stderr.read() == b"" and command.wait() in (0, 1)


def test_a_pipe_to_another_program_that_broke_is_an_error(monkeypatch, capfd):
    assert ending_in(BrokenPipeError(errno.EPIPE, "Broken pipe"), monkeypatch) == 2
    assert "Broken pipe" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["doctor"], ["completion", "bash"]])
def test_output_that_does_not_fit(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "nas.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_an_ascii_terminal(tiny_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "clip \N{LATIN SMALL LETTER E WITH ACUTE}.gif"
    words = ["generate", "--checkpoint", str(tiny_checkpoint), "--prompt", "a cat", "--out", str(out)]
    shown = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in shown.items():
            patch.setattr(sys, name, stream)
        assert main(words) == 0 and out.exists()
        shown["stderr"].flush()
    assert b"Traceback" not in shown["stderr"].buffer.getvalue()
    assert shown["stdout"].buffer.getvalue().decode("ascii").strip().endswith("clip \\xe9.gif")


# -- what the system refuses


def wrapped(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ENDINGS = {
    "no file name": (OSError(errno.ENOSPC, "No space left on device"), ("No space left", "free some space")),
    "a file name": (OSError(errno.EACCES, "Permission denied", b"/a/b"), ("/a/b: Permission denied", "another path")),
    "too many files": (OSError(errno.EMFILE, "Too many open files"), ("Too many open files", "ulimit -n")),
    "from Rust": (ValueError("I/O error: No space left on device (os error 28)"), ("No space left", "free some space")),
    "from SQLite": (
        wrapped(RuntimeError("storage"), OSError(errno.EROFS, "Read-only file system", "a.db")),
        ("a.db: Read-only file system", "another path"),
    ),
    "memory": (MemoryError(), ("out of memory", "smaller")),
    "memory in torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        ("out of memory", "9 bytes"),
    ),
    "memory for libraries": (ImportError("a.so: failed to map segment from shared object"), ("out of memory", "a.so")),
    "threads": (RuntimeError("can't start new thread"), ("ulimit -u",)),
    "text": (
        UnicodeEncodeError("utf-8", "a\udc80", 1, 2, "surrogates not allowed"),
        ("cannot be written", "surrogates"),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_the_system_refuses_is_one_line(name, monkeypatch, capsys):
    error, says = ENDINGS[name]
    assert ending_in(error, monkeypatch) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(word in line for word in says), line


def test_a_full_disk_is_named(monkeypatch, capsys, tmp_path):
    def usage(folder):
        return shutil._ntuple_diskusage(10**9, 10**9, 0 if Path(folder) == tmp_path else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    words = ("--space", "demo", "--runtime", "coreml", "--out", str(tmp_path / "bundle"))
    assert ending_in(OSError(errno.ENOSPC, "No space left on device"), monkeypatch, "bundle create", words) == 2
    assert f"{tmp_path / 'bundle'}: No space left" in capsys.readouterr().err
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ending_in(OSError(errno.ENOSPC, "No space left on device"), monkeypatch) == 2
    assert f"{tmp_path}: No space left" in capsys.readouterr().err


def test_a_bug_is_one_line_and_its_traceback_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ending_in(KeyError("a\nb"), monkeypatch) == 1
    line = capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert line.count("\n") == 1 and "KeyError" in line and str(kept) in line
    assert "Traceback" in kept.read_text()


# -- Ctrl-C


def test_stopping_says_how_to_resume(monkeypatch, capsys):
    assert ending_in(KeyboardInterrupt(), monkeypatch, "bundle measure", ("bundle",)) == 130
    assert capsys.readouterr().err == "nas bundle measure: stopped; run the same command again to resume\n"
    assert ending_in(KeyboardInterrupt(), monkeypatch) == 130  # not resumable
    assert capsys.readouterr().err == "nas doctor: stopped\n"


INTERRUPTED = """
import os, signal, sys, time

class Library:  # takes Ctrl-C for a missing package, as some do
    def find_spec(self, name, path=None, target=None):
        if name == "a_library":
            try:
                press()
                time.sleep(0.2)
            except BaseException:
                raise ImportError("is not installed") from None

class Finalized:
    def __del__(self):
        press()
        time.sleep(0.2)

def press():
    os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Library())
from nas.cli import main
from nas.cli.profiling import doctor
from nas.errors import MissingDependency

def run(**options):
BODY
    time.sleep(60)

doctor.callback = run
sys.exit(main())
"""
BODIES = {
    "in an import": """
    try:
        import a_library
    except ImportError:
        raise MissingDependency("a_library is not installed")
""",
    "in a finalizer": """
    Finalized()
""",
    "and another error": """
    try:
        press()
        time.sleep(60)
    except KeyboardInterrupt:
        raise OSError("handle is closed")
""",
    "twice": """
    try:
        press()
        time.sleep(60)
    finally:
        press()
""",
}


@pytest.mark.parametrize("where", BODIES)
def test_stopping_anywhere(where):
    program = INTERRUPTED.replace("BODY", BODIES[where])
    done = subprocess.run([sys.executable, "-c", program, "doctor"], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (130, "nas doctor: stopped\n")


LOADING = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "nas.cli.ending":
            os.kill(os.getpid(), 2)

sys.meta_path.insert(0, Finder())
from nas.cli import main
sys.exit(main())
"""


def test_stopping_while_the_program_loads():
    done = subprocess.run([sys.executable, "-c", LOADING, "doctor"], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (130, "nas: stopped\n")


def test_a_handler_that_somebody_chose_stays():
    program = "import signal; signal.signal(2, signal.SIG_IGN); from nas.cli import main; main(['completion', 'bash'])"
    program += "; assert signal.getsignal(2) is signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


# -- options given twice, and words that are no text

OPTIONS = [
    (name, option.opts[-1])
    for name, command in COMMANDS.items()
    for option in command.params
    if option.opts[-1].startswith("--") and not (option.is_flag or option.multiple)
]


@pytest.mark.parametrize("name, option", OPTIONS)
def test_an_option_is_given_once(name, option, capsys):
    assert main([*name.split(), option, "8", option, "8"]) == 2
    assert capsys.readouterr().err == f"nas {name}: {option}: given twice; give it once; see 'nas {name} --help'\n"


def test_options_that_may_be_given_again():
    search = "search --space s --table t --evaluator e --out o --budget latency<=120ms --budget params<=400M"
    assert parse(search.split()).params["budgets"] == ("latency<=120ms", "params<=400M")
    generate = "generate --checkpoint c --out o --prompt a b --seed 1 --prompt c --prompt=d e"
    assert parse(generate.split()).params["prompts"] == ("a", "b", "c", "d", "e")


def test_a_prompt_that_is_no_text(capsys):
    assert main(["generate", "--checkpoint", "c", "--out", "o.gif", "--prompt", "a \udcff cat"]) == 2
    line = capsys.readouterr().err
    assert "--prompt" in line and "UTF-8" in line and line.count("\n") == 1
