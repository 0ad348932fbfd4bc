"""`nas optimum`, `nas sweep`, and `nas cost` and `nas search` on several devices."""

import json
from pathlib import Path

import pandas as pd
import pytest

from nas.cli import main
from nas.costs import LookupTable
from nas.progress import progress
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


def test_many_architectures_that_differ_show_progress(files, capsys, monkeypatch):
    """A k of 100000 takes as long as there are architectures; the bar counts them, and a short list has none."""
    words = f"optimum {BOTH} --scores scores.json --out best.json --distance 2"
    assert call(f"{words} --k 2") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("nas.progress.LOG_EVERY_S", 0)
    monkeypatch.setattr(
        "nas.search.exact.progress", lambda *given, **options: progress(*given, **options | {"delay_s": 1e-9})
    )
    assert call(f"{words} --k 100000") == 0
    output = capsys.readouterr()
    count = len(list(Path().glob("best*.json")))
    assert f"{count} of 100000: no more architectures" in output.out
    assert [line.split(" of ")[0] for line in output.err.splitlines()] == [
        f"shortlist: {number}" for number in range(1, count + 1)
    ]
    assert "100000 architectures, " in output.err and " left" in output.err


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


def test_a_bound_on_parameters_is_explained_once(files, capsys):
    """Parameters are the same on every device: one bound, which binds by itself."""
    words = f"optimum {BOTH} --scores scores.json --out best.json --explain"
    assert call(f"{words} --budget params<=20,latency@iphone<=100ms --json") == 0
    bounds = json.loads(capsys.readouterr().out)["bounds"]
    assert [(row["bound"], row["device"], row["binds"]) for row in bounds] == [
        ("params<=20", "", True), ("latency@iphone<=100ms", "iphone", False),
    ]  # fmt: skip
    assert bounds[0]["gain"] == pytest.approx(0.7)
    assert call(f"{words} --budget params<=20,params@pixel<=10") == 0
    output = capsys.readouterr().out
    assert "binding: params@pixel<=10 (100.0% used; without it the score is 1.5 higher)" in output


def test_a_sweep_prints_no_negative_zero(files, capsys):
    Path("negative.json").write_text(json.dumps({"scores": {"a": {"x": -1.0}}}))
    words = "sweep --space s.yaml --table i.csv --bounds 0.5ms,3ms --scores negative.json --out front.csv"
    assert call(words) == 0
    assert "-0" not in capsys.readouterr().out + Path("front.csv").read_text()


def test_a_study_refuses_another_budget_table_or_constraint(files, capsys):
    """The journal beside the output belongs to one search; a storage that is named may hold several."""
    words = "search --space s.yaml --table t.csv --evaluator scores.json --trials 4"
    LookupTable.load("i.csv").save("t.csv")
    assert call(f"{words} --budget latency<=4ms --out best.json") == 0
    assert call(f"{words} --budget latency<=4ms --out best.json") == 0
    best = Architecture.load("best.json")
    capsys.readouterr()
    for changed, text in (
        ("--budget latency<=3ms", "was begun with budget latency<=4ms, not latency<=3ms"),
        ("--budget latency<=4ms --fix a=x", "was begun with constraints none, not fix a=x"),
    ):
        assert call(f"{words} {changed} --out best.json") == 2
        error = capsys.readouterr().err
        assert text in error and "--storage best.json.journal to reuse its scores" in error and error.count("\n") == 1
    LookupTable.load("p.csv").save("t.csv")
    assert call(f"{words} --budget latency<=4ms --out best.json") == 2
    assert "was begun with a lookup table with other costs" in capsys.readouterr().err
    assert Architecture.load("best.json") == best
    reused = f"{words} --budget latency<=3ms --out less.json --storage best.json.journal"
    assert call(reused) == 0
    assert "4 scores were known from other searches" in capsys.readouterr().out
    assert call(reused.replace("--storage best.json.journal", "")) == 0  # a journal of its own


def test_a_share_of_the_parameters_is_one_bound_too(files, capsys):
    words = f"optimum {BOTH} --scores scores.json --out best.json --explain --json --budget params<=70%,latency<=99%"
    assert call(words) == 0
    bounds = json.loads(capsys.readouterr().out)["bounds"]
    assert [row["bound"] for row in bounds if "params" in row["bound"]] == ["params<=21"]
    assert len(bounds) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("optimum --scores scores.json --out i.csv", "--out i.csv: is a file that is read; give another file"),
        ("optimum --scores scores.json --out scores.json", "--out scores.json: is a file that is read"),
        ("optimum --scores scores.json --k 2 --out best.json", "--out best-2.json: is a file that is read"),
        ("sweep --scores scores.json --out ./p.csv", "--out ./p.csv: is a file that is read"),
        ("sweep --scores scores.json --out f.svg --plot f.svg", "--plot f.svg: is the file of --out"),
        ("search --evaluator scores.json --budget latency<=9ms --out s.yaml", "--out s.yaml: is a file that is read"),
        ("sweep --scores scores.json --out f.csv --bounds 3ms,4", "--bounds 3ms,4: the unit of latency must be"),
        ("sweep --scores scores.json --out f.csv --bounds 0.1ms --fix a=x", "the cheapest one needs latency<=2ms"),
    ],
)
def test_what_is_read_is_not_overwritten_and_wrong_bounds_are_named(files, capsys, words, text):
    command, _, rest = words.partition(" ")
    LookupTable.load("i.csv").save("best-2.json")
    before = {path: Path(path).read_bytes() for path in ("i.csv", "p.csv", "scores.json", "s.yaml", "best-2.json")}
    tables = f"{BOTH} --table third=best-2.json" if "--k" in words else BOTH
    assert call(f"{command} {tables} {rest}") == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert before == {path: Path(path).read_bytes() for path in before}
