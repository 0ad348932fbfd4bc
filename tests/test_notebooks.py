"""The notebooks: clean in the tree, and every cell runs, with pictures, in time."""

import json

import pytest

from tests.support.docs_pages import ROOT
from tests.support.forked import run_python

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def test_there_is_one_for_each_job():
    assert [path.stem for path in NOTEBOOKS] == ["01_profile", "02_search", "03_train", "04_export"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_tree_holds_no_outputs(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


EXECUTE = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        "There is none."

shell = Shell.instance()
shell.enable_matplotlib("inline")
for path in sys.argv[1:]:
    print(path, file=sys.stderr, flush=True)
    shell.reset()
    pictures, printed = 0, ""
    for cell in json.load(open(path))["cells"]:
        if cell["cell_type"] == "code":
            with capture_output() as captured:
                done = shell.run_cell("".join(cell["source"]))
            done.raise_error()
            pictures += sum("image/png" in output.data for output in captured.outputs)
            printed += captured.stdout
    print(json.dumps([path, pictures, printed]))
"""
"""Notebooks in IPython, as Jupyter's kernel runs them; one process, since each would import the same libraries again."""


@pytest.mark.slow
def test_every_cell_runs(tmp_path):
    environment = {"TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = run_python(EXECUTE, *NOTEBOOKS, folder=ROOT / "notebooks", environment=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ran = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [path for path, *_ in ran] == [str(path) for path in NOTEBOOKS]
    assert all(pictures >= 2 for _, pictures, _ in ran), "each tells its story with pictures"
    (printed,) = (printed for path, _, printed in ran if path.endswith("02_search.ipynb"))
    assert "of 2000 different random architectures are inside" in printed
