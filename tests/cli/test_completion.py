"""Shell completion: bash completes a command, its options and a file; each shell that is here reads its script."""

import shutil
import subprocess

import pytest

from nas.cli import main
from nas.cli.command import COMMANDS
from nas.cli.completion import SHELLS


@pytest.fixture(params=SHELLS)
def script(request, capsys):
    assert main(["completion", request.param]) == 0
    return request.param, capsys.readouterr().out


def test_the_script_is_one_of_that_shell(script, tmp_path):
    shell, text = script
    assert all(name in text for name in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "nas").write_text(text)
    subprocess.run([shell, "-n", str(tmp_path / "nas")], check=True)


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("nas sea", {"search"}),
        ("nas ex", {"export"}),
        ("nas search --bud", {"--budget"}),
        ("nas cost --table tab", {"table.csv"}),
        ("nas report run", {"runs"}),
    ],
)
def test_bash_completes(line, wanted, tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "complete").write_text(capsys.readouterr().out)
    (tmp_path / "table.csv").touch()
    (tmp_path / "runs").mkdir()
    ask = f"""
        source ./complete
        COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        eval "$(complete -p nas | sed -E 's/.*-F ([^ ]+).*/\\1/')" nas "${{COMP_WORDS[COMP_CWORD]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert {word.strip().rstrip("/") for word in done.stdout.split()} == wanted, done
