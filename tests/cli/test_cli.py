"""The command line as a whole: help, examples, and how it ends."""

import json
import shlex

import pytest

from nas.cli import main, parser
from nas.cli.command import COMMANDS
from nas.spaces import SearchSpace


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_is_one(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    text, example = capsys.readouterr().out, COMMANDS[name].example
    assert stopped.value.code == 0 and example in text
    words = shlex.split(example.split(" > ")[0])
    args, unknown = parser().parse_known_args(words[1:])
    assert words[0] == "nas" and args.command == name and not unknown


def test_help_has_a_line_for_each_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, command in COMMANDS.items():
        assert [name, *command.help.split()] in lines


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
    assert main([*words, "--frames", "3", "--height", "8", "--width", "16"]) == 0
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
