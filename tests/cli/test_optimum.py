"""`nas optimum`, `nas sweep`, and `nas cost` and `nas search` on several devices."""

import json

import pandas as pd
import pytest

from nas.cli import main
from nas.costs import LookupTable
from nas.spaces import Architecture, SearchSpace

SPACE = "name: three\nslots:\n  a: [none, x, y]\n  b: [none, x, y]\n  c: [none, x]\n"
SCORES = {"scores": {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 0.5, "y": 0.8}, "c": {"x": 0.7}}}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SPACE)
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    space = SearchSpace.load(tmp_path / "s.yaml")
    for name, latencies in {"i": [1, 3, 1, 3, 1], "p": [2, 2, 2, 2, 6]}.items():
        rows = [(w, ms, 2.5, 0.5, 10, "measured") for w, ms in zip(space.workloads(), latencies)]
        columns = ["workload", "latency_ms", "memory_mb", "weights_mb", "params", "source"]
        frame = pd.DataFrame(rows, columns=columns)
        LookupTable.from_frame(frame, {"runtime": "eager", "device": "local"}).save(tmp_path / f"{name}.csv")
    return space


BOTH = "--space s.yaml --table iphone=i.csv --table pixel=p.csv"


def call(text):
    return main(text.split())


def test_a_cost_has_one_column_per_device(files, capsys):
    files.architecture({"a": "y", "c": "x"}).save("arch.json")
    assert call(f"cost {BOTH} --arch arch.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("latency / ms")][-1] == [
        "latency",
        "/",
        "ms",
        "4.000",
        "8.000",
    ]
    assert any(line.split() == ["c", "x", "1.000", "6.000"] for line in lines)
    assert any("iphone" in line and "pixel" in line for line in lines)
    assert call(f"cost {BOTH} --arch arch.json --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"] == 8 and found["devices"]["iphone"]["latency_ms"] == 4
    assert found["slots"][0]["latency_ms@pixel"] == 2


def test_a_search_within_the_budgets_of_two_devices(files, capsys):
    budget = "--budget latency@iphone<=4ms,latency@pixel<=7ms"
    assert call(f"search {BOTH} {budget} --evaluator scores.json --trials 200 --early-stop --out best.json") == 0
    output = capsys.readouterr().out
    assert "iphone: 4.000 ms" in output and "pixel: 4.000 ms" in output and "no better architecture exists" in output
    assert "latency@iphone<=4ms is the tightest bound, 100.0% used" in output
    assert Architecture.load("best.json").choices == {"a": "y", "b": "x", "c": "none"}


def test_the_optimum_with_its_proof_and_what_binds(files, capsys):
    words = f"optimum {BOTH} --budget latency@iphone<=4ms,latency@pixel<=7ms --scores scores.json --out best.json"
    assert call(f"{words} --explain") == 0
    output = capsys.readouterr().out
    assert "score 2.5, proved" in output and "binding: latency@iphone<=4ms" in output
    assert call(f"{words} --k 3 --distance 2 --constraint count(y)<=1 --exclude b:y --json") == 0
    found = json.loads(capsys.readouterr().out)["architectures"]
    assert [row["file"] for row in found] == ["best.json", "best-2.json", "best-3.json"]
    choices = [list(row["choices"].values()) for row in found]
    assert all(sum(a != b for a, b in zip(one, two)) >= 2 for one in choices for two in choices if one != two)
    assert Architecture.load("best-2.json").choices == found[1]["choices"]
    assert call(f"{words} --objective slack --give 2 --json") == 0
    assert json.loads(capsys.readouterr().out)["architectures"][0]["slack"] > 0.5


def test_a_sweep_draws_its_front(files, capsys):
    words = f"sweep {BOTH} --over latency@pixel --budget latency@iphone<=6ms --scores scores.json --out front.csv"
    assert call(f"{words} --bounds 1ms,2ms,4ms,10ms --fix a=x|y --plot front.svg") == 0
    assert "3 optima, 4 of 4 bounds proved" in capsys.readouterr().out
    frame = pd.read_csv("front.csv", keep_default_na=False, na_values={"score": [""]})
    assert list(frame["limit"]) == [1, 2, 4, 10] and frame["score"].isna().tolist() == [True, False, False, False]
    assert frame["score"].dropna().tolist() == pytest.approx([2.0, 2.8, 3.2])
    with open("front.svg") as file:
        assert "<svg" in file.read()
    assert call(f"{words} --points 4 --json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_a_table_whose_path_has_an_equals_sign(files, capsys):
    LookupTable.load("i.csv").save("t=1.csv")
    files.architecture({"a": "x"}).save("arch.json")
    assert call("cost --space s.yaml --table t=1.csv --arch arch.json --json") == 0
    assert "devices" not in json.loads(capsys.readouterr().out)
