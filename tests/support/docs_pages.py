"""The code blocks of the documentation, and running them as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.forked import run_python

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("iphone", "android", "mac", "gpu", "cluster", "network", "browser", "extra")
"""What a block may say it needs that is not here: its commands are read, not run."""

_BLOCK = re.compile(r"(?:<!-- (needs|file): ([^>]+?) -->\n+)?^```(\w+)\n(.*?)^```$", re.M | re.S)
_GIVEN = re.compile(r"^<!-- given: (\w+) (\S+) -->$", re.M)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        needs: what it needs that is not here, or empty.
        file: the file that it shows, or empty.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str = ""
    file: str = ""

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every `nas` in it."""
        found = []
        for line in self.commands:
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if word == "nas" and (i == 0 or words[i - 1] in ("&&", "|", ";")):
                    rest = words[i + 1 :]
                    end = next((n for n, w in enumerate(rest) if w in ("&&", "|", ";", ">", ">>")), len(rest))
                    found.append(rest[:end])
        return found


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in _BLOCK.finditer(text):
        kind, value, language, body = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        options = {kind: value.strip()} if kind else {}
        found.append(Block(str(page.relative_to(ROOT)), line, language, body, **options))
    return found


def given(page: Path) -> list[tuple[str, str]]:
    """(what, where) of the things that a page takes for granted."""
    return _GIVEN.findall(page.read_text())


def run(block: Block, folder: Path) -> None:
    """Write the file that a block shows, or run it in `folder`; a command that fails is an AssertionError."""
    where = f"{block.page}:{block.line}"
    if block.file:
        (folder / block.file).write_text(block.text)
    elif block.language == "bash":
        for command in block.commands:
            _run_command(command, folder, where)
    elif block.language == "python":
        done = run_python(block.text, folder=folder)
        assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"


def _run_command(command: str, folder: Path, where: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] != "nas":
        _run(["bash", "-ec", f'python() {{ "{sys.executable}" "$@"; }}; {command}'], folder, f"{where}: {command}")
        return
    from nas.cli import main  # the console script's own function: a process each would import torch each time

    assert main(words[1:]) == 0, f"{where}: {command}"


def _run(command: list[str], folder: Path, where: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{where}: {done.stderr[-2000:]}"
