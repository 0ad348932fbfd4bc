"""The notebooks: clean in the tree, and every cell runs, with pictures, in time."""

import json

import pytest

from tests.support.docs_pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def test_there_is_one_for_each_job():
    assert [path.stem for path in NOTEBOOKS] == ["01_profile", "02_search", "03_train", "04_export"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_tree_holds_no_outputs(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2, "each tells its story with pictures"
    if path.stem == "02_search":
        printed = "".join(output.get("text", "") for output in outputs)
        assert "of 2000 different random architectures are inside" in printed
