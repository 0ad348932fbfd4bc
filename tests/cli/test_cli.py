"""The command line as a whole: help, examples, and how it ends."""

import json
import shlex
import subprocess
import sys

import click
import pytest

from nas.cli import RENAMED, main
from nas.spaces import SearchSpace
from tests.support.command_line import commands, parse

COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    text, command = capsys.readouterr().out, COMMANDS[name]
    assert f"Example:\n  {command.example}\n" in text
    words = shlex.split(command.example.split(" > ")[0])
    assert words[: len(name.split()) + 1] == ["nas", *name.split()]
    assert parse(words[1:]).command is command or isinstance(command, click.Group)


def test_help_has_a_line_for_each_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    assert main(["--help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, command in COMMANDS.items():
        assert " " in name or [name, *command.help.split()] in lines


def test_help_does_not_import_what_commands_need():
    heavy = ("numpy", "pandas", "torch", "optuna")
    script = f"import sys; from nas.cli import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("old, new", RENAMED.items())
def test_a_renamed_command_names_the_new_one(old, new, capsys):
    assert main([old, "x", "--out", "y"]) == 2
    assert capsys.readouterr().err == f"nas: 'nas {old}' is now '{new}'; see 'nas --help'\n"
    assert new.removeprefix("nas ") in COMMANDS


def test_the_version(capsys):
    import nas

    assert main(["--version"]) == 0 and capsys.readouterr().out == f"nas {nas.__version__}\n"


def test_what_a_script_reads_is_json(capsys):
    assert main(["doctor", "--json"]) == 0
    assert {"name", "works", "detail"} <= set(json.loads(capsys.readouterr().out)[0])


def test_generating_several_clips_of_another_shape(tiny_checkpoint, tmp_path, capsys):
    from PIL import Image

    out = tmp_path / "two.gif"
    words = [
        "generate",
        "--checkpoint",
        str(tiny_checkpoint),
        "--prompt",
        "a cat runs",
        "the digit five",
        "--out",
        str(out),
    ]
    assert main([*words, "--tile", "--frames", "3", "--height", "8", "--width", "16"]) == 0
    with Image.open(out) as clip:
        assert clip.n_frames == 3 and clip.width == 33 * clip.height // 8  # side by side, with a gap of one pixel
    assert capsys.readouterr().out == f"{out}\n"


def test_a_space_is_shown_with_its_slots_choices_and_shapes(capsys):
    space = SearchSpace.load("demo")
    assert main(["space", "show", "demo"]) == 0
    shown = capsys.readouterr().out
    assert (
        f"7 slots, {space.size:,} combinations" in shown and "operator CrossAttention1D: context text+anchor" in shown
    )
    rows = [line for line in shown.splitlines() if line.startswith("down.0.0/0")]
    assert rows[0].split(maxsplit=2)[1] == "down.0.0" and "C 32, T 8, 8x8" in rows[0] and rows[0].count("D") == 6
    assert main(["space", "show", "demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["slot"]: tuple(row["choices"]) for row in found["slots"]} == dict(space.slots)
    assert main(["space", "list"]) == 0 and "snapgen_v" in capsys.readouterr().out
    assert main(["space", "show", "dmeo"]) == 2 and "did you mean 'demo'" in capsys.readouterr().err
