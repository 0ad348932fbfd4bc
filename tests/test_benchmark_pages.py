"""Pages of benchmarks show what their scripts print of the committed results."""

from __future__ import annotations

import importlib

import pandas as pd
import pytest

from nas.files import read_json
from tests.support import docs_pages

PAGES = docs_pages.ROOT / "docs" / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(docs_pages.ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("result", ["joint_scenes", "joint_scenes_start"])
def test_joint_training_on_scenes(benchmark_module, result):
    printed = benchmark_module("joint_scenes").tables(read_json(PAGES / f"{result}.json", "result"))
    assert printed in (PAGES / "joint_scenes.md").read_text()


def test_transfer(benchmark_module, capsys):
    results = read_json(PAGES / "transfer.json", "results", list)
    benchmark_module("transfer").report(pd.DataFrame(results))
    tables = [part for part in capsys.readouterr().out.split("\n\n") if part.startswith("| ")]
    page = (PAGES / "transfer.md").read_text()
    assert len(tables) == 1 + len({row["pair"] for row in results})
    for table in tables:
        assert table.strip() in page
