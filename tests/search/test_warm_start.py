"""Scores that are known before a search: from a CSV, or from the study of another search."""

import json

import optuna
import pytest

from nas.cli import main
from nas.costs import Budget
from nas.errors import ConfigError
from nas.search import ScoreTable, optimum, run
from tests.support.instances import make


@pytest.fixture(scope="module")
def search():
    return make(0, 6, 4, share=0.3, pairs=True)


def counting(table):
    calls = []

    def evaluator(arch):
        calls.append(arch)
        return table(arch)

    evaluator.identity = "counted"
    return evaluator, calls


def test_from_the_study_of_another_search(search, tmp_path):
    space, cost, budget, table = search
    evaluator, calls = counting(table)
    first = run(space, cost, evaluator, budget, trials=12, storage=tmp_path / "first.journal")
    before = (tmp_path / "first.journal").read_bytes()
    second = run(
        space, cost, evaluator, Budget(params=budget.params), trials=6, storage=tmp_path / "b.journal",
        warm_start=tmp_path / "first.journal",
    )  # fmt: skip
    assert (second.reused, len(second.frame), len(calls)) == (12, 18, 18)
    assert len(set(calls)) == 18  # nothing is evaluated twice
    assert first.frame["score"].tolist() == second.frame["score"].tolist()[:12]
    assert (tmp_path / "first.journal").read_bytes() == before
    again = run(
        space, cost, evaluator, Budget(params=budget.params), trials=6, storage=tmp_path / "b.journal",
        warm_start=tmp_path / "first.journal",
    )  # fmt: skip
    assert (again.reused, len(again.frame), len(calls)) == (12, 18, 18)


def test_from_a_frame_saved_as_csv(search, tmp_path):
    space, cost, budget, table = search
    evaluator, calls = counting(table)
    best = optimum(space, cost, table.scores, budget, table.pairs)
    known = run(space, cost, evaluator, budget, trials=30)
    known.frame.to_csv(tmp_path / "known.csv", index=False)
    calls.clear()
    result = run(space, cost, evaluator, budget, trials=10, warm_start=[tmp_path / "known.csv"])
    assert (result.reused, len(calls)) == (30, 10)
    assert not set(calls) & {space.architecture(row) for row in known.frame[list(space.slots)].to_dict("records")}
    assert table(result.best) == pytest.approx(best.score)
    for trial in result.study.trials[:30]:
        assert trial.user_attrs["reused"].startswith(str(tmp_path / "known.csv:"))
        assert trial.user_attrs["latency_ms"] == cost.predict(space.architecture(trial.params)).latency_ms


def test_any_study_of_optuna_over_the_slots(search, tmp_path):
    space, cost, budget, table = search
    url = f"sqlite:///{tmp_path / 'own.db'}"
    study = optuna.create_study(storage=url, study_name="own", direction="maximize")
    for seed in range(3):
        choices = space.random(seed).choices
        slots = {slot: optuna.distributions.CategoricalDistribution(c) for slot, c in space.slots.items()}
        study.add_trial(optuna.trial.create_trial(params=choices, distributions=slots, value=float(seed)))
    result = run(space, cost, table, budget, trials=2, warm_start=url)
    assert result.frame["score"].tolist()[:3] == [0.0, 1.0, 2.0]


def header(space):
    return ",".join(["score", *space.slots])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.0,o0,none,none,none,none,o9"], r"known\.csv:2: slot 's5': unknown choice 'o9'; known: none, o0"),
        (["high,o0,none,none,none,none,o1"], r"known\.csv:2: score: expected a number, found 'high'"),
        (["nan,o0,none,none,none,none,o1"], r"known\.csv:2: score: expected a number, found 'nan'"),
        (["1.0,o0,none,none,none,none,o1"] * 2 + ["2,o0,none,none,none,none,o1"], r":4: another score .* of line 2"),
        (["1.0,o0"], r"known\.csv:2: .* 2 cells for 7 columns"),
        ([], r"known\.csv: has no scores"),
    ],
)
def test_wrong_files_are_refused_with_their_line(search, tmp_path, rows, message):
    space, cost, budget, table = search
    (tmp_path / "known.csv").write_text("\n".join([header(space), *rows]) + "\n")
    with pytest.raises(ConfigError, match=message):
        run(space, cost, table, budget, trials=2, warm_start=tmp_path / "known.csv")


def test_missing_columns_files_and_scores(search, tmp_path):
    space, cost, budget, table = search
    (tmp_path / "a.csv").write_text("score,s0\n1,o0\n")
    with pytest.raises(ConfigError, match=r"a\.csv: column 's1' is missing"):
        run(space, cost, table, budget, warm_start=tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"none\.journal: no such file"):
        run(space, cost, table, budget, warm_start=tmp_path / "none.journal")
    assert not (tmp_path / "none.journal").exists()
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"scores\.json: not a study's journal; give the journal of a search"):
        run(space, cost, table, budget, warm_start=tmp_path / "scores.json")
    run(space, cost, table, budget, trials=2, storage=tmp_path / "a.journal")
    with pytest.raises(ConfigError, match=r"a\.journal: has scores of evaluator ScoreTable \w+, not ScoreTable"):
        run(space, cost, ScoreTable({"s0": {"o0": 1.0}}), budget, warm_start=tmp_path / "a.journal")
    other = make(1, 5, 4)
    with pytest.raises(ConfigError, match=r"a\.journal: has scores of space hash"):
        run(*other[:2], table, Budget(latency_ms=1e6), warm_start=tmp_path / "a.journal")
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(ConfigError, match="no study in it has a scored architecture"):
        run(space, cost, table, budget, warm_start=f"sqlite:///{tmp_path / 'empty.db'}")


def test_the_command_line(search, tmp_path, capsys):
    space, cost, _, table = search
    space.save(tmp_path / "space.yaml")
    cost.table.save(tmp_path / "t.csv")
    (tmp_path / "scores.json").write_text(json.dumps({"scores": table.scores}))
    arch = space.random(0)
    rows = ";".join(["99,5", *arch.choices.values()])  # as a spreadsheet saves it
    (tmp_path / "known.csv").write_text(f"{header(space).replace(',', ';')}\n{rows}\n")
    words = "search --space {d}/space.yaml --table {d}/t.csv --evaluator {d}/scores.json --trials 3 --out {d}/best.json"
    words = f"{words} --budget latency<=100% --warm-start".format(d=tmp_path).split()
    assert main([*words, str(tmp_path / "known.csv")]) == 0
    out = capsys.readouterr().out
    assert "score 99.5" in out and "1 score was known from other searches" in out
    assert json.loads((tmp_path / "best.json").read_text())["choices"] == arch.choices
    assert main([*words, str(tmp_path / "gone.csv")]) == 2
    assert "gone.csv: no such score list file" in capsys.readouterr().err
