"""Shell completion: what bash is offered for a command, an option and a file; each installed shell reads its script."""

import os
import shutil
import subprocess
import sys

import pytest

from nas.cli import COMPLETE, main
from nas.cli.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_that_shell(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert COMPLETE in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "nas").write_text(text)
    subprocess.run([shell, "-n", str(tmp_path / "nas")], check=True)


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("nas sea", {"plain,search"}),
        ("nas ex", {"plain,export"}),
        ("nas table me", {"plain,merge"}),
        ("nas bundle c", {"plain,create", "plain,collect"}),
        ("nas search --bud", {"plain,--budget"}),
        ("nas cost --table tab", {"file,tab"}),
        ("nas report run", {"file,run"}),
        ("nas space show snap", {"plain,snapgen_v"}),
        ("nas profile --space dem", {"plain,demo"}),
        ("nas profile --space mine", {"file,mine"}),
        ("nas completion z", {"plain,zsh"}),
    ],
)
def test_bash_completes(line, wanted, monkeypatch, capsys):
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), COMPLETE: "bash_complete"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main() == 0
    assert set(capsys.readouterr().out.split()) == wanted


def test_bash_runs_the_script(tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "complete").write_text(capsys.readouterr().out)
    nas = tmp_path / "nas"
    nas.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nas.cli "$@"\n')
    nas.chmod(0o755)
    ask = """
        source ./complete
        COMP_WORDS=(nas sea); COMP_CWORD=1
        eval "$(complete -p nas | sed -E 's/.*-F ([^ ]+).*/\\1/')" ./nas sea nas
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["search"], done
