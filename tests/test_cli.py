"""The command line as a whole: help, examples, and how it ends."""

import json
import shlex

import pytest

from nas.cli import main, parser
from nas.cli.command import COMMANDS


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
