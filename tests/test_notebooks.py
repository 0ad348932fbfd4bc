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
pictures, printed = 0, ""
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        with capture_output() as captured:
            done = shell.run_cell("".join(cell["source"]))
        done.raise_error()
        pictures += sum("image/png" in output.data for output in captured.outputs)
        printed += captured.stdout
print(json.dumps([pictures, printed]))
"""
"""A notebook in IPython, as Jupyter's kernel runs it."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    environment = {"TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = run_python(EXECUTE, path, folder=path.parent, environment=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    pictures, printed = json.loads(done.stdout.splitlines()[-1])
    assert pictures >= 2, "each tells its story with pictures"
    if path.stem == "02_search":
        assert "of 2000 different random architectures are inside" in printed
