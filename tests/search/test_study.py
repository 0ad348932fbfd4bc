"""Studies: budgets, resuming, retries, pruning."""

import functools
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.costs import Budget
from nas.errors import BudgetError, ConfigError, MissingDependency
from nas.search import (
    BudgetSampler,
    CommandEvaluator,
    EvaluatorError,
    Result,
    ScoreTable,
    explain,
    open_storage,
    optimum,
    pareto,
    parse_evaluator,
    reevaluate_top_k,
    run,
)
from nas.search.identity import evaluator_identity
from nas.search.problem import Problem
from nas.search.samplers import SAMPLERS, make_sampler
from nas.search.samplers.base import distributions
from tests.support.forked import start_python
from tests.support.instances import make


@pytest.fixture(scope="module")
def search():
    return make(0, 6, 4, share=0.3, pairs=True)


@pytest.mark.parametrize("sampler", ["budget", "evolution", "random+repair", "tpe+repair", "nsga2+repair"])
def test_nothing_over_budget_is_proposed(search, sampler):
    result = run(*search[:2], search[3], search[2], trials=25, sampler=sampler)
    assert len(result.frame) == 25
    assert result.frame["feasible"].all()


def test_budget_sampler_reaches_the_exact_optimum(search):
    space, cost, budget, table = search
    best = optimum(space, cost, table.scores, budget, table.pairs)
    result = run(space, cost, table, budget, trials=40)
    assert table(result.best) == pytest.approx(best.score)
    assert not result.frame.duplicated(list(space.slots)).any()


def test_trials_of_every_sampler_carry_costs_and_constraints(search):
    space, cost, budget, table = search
    study = run(space, cost, table, budget, trials=5, sampler="random").study
    for trial in study.trials:
        arch = space.architecture(trial.params)
        assert trial.user_attrs["choices"] == arch.choices
        assert trial.user_attrs["latency_ms"] == cost.predict(arch).latency_ms
        excess = [value for name, value in trial.constraints.items() if name != "runs"]
        assert len(excess) == 3
        assert budget.holds(cost.predict(arch)) == all(value <= 0 for value in excess)


def test_optuna_samplers_by_name(search):
    space, cost, budget, table = search
    for name in set(SAMPLERS) - {"cmaes", "gp", "grid", "budget", "evolution"}:
        assert len(run(space, cost, table, budget, trials=3, sampler=name).study.trials) == 3
    with pytest.raises(ConfigError, match="did you mean 'nsga"):
        run(space, cost, table, budget, sampler="nsga")


def test_interrupted_search_equals_an_uninterrupted_one(search, tmp_path):
    space, cost, budget, table = search
    whole = run(space, cost, table, budget, trials=24, storage=tmp_path / "whole.journal", seed=3).frame
    run(space, cost, table, budget, trials=13, storage=tmp_path / "parts.journal", seed=3)
    with open(tmp_path / "parts.journal", "a") as journal:
        journal.write('{"op_code": 4, "torn')  # what a full disk or a lost power leaves
    parts = run(space, cost, table, budget, trials=24, storage=tmp_path / "parts.journal", seed=3).frame
    assert parts.equals(whole)


def test_rdb_urls_are_storages(search, tmp_path):
    space, cost, budget, table = search
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(space, cost, table, budget, trials=3, storage=url)
    assert len(run(space, cost, table, budget, trials=4, storage=url).frame) == 4


def test_another_budget_keeps_the_scores(search, tmp_path):
    """A separate study in the same storage; nothing is evaluated twice, and the result is within the new budget."""
    space, cost, budget, table = search
    calls = []

    def counted(arch):
        calls.append(tuple(arch.choices.values()))
        return table(arch)

    first = run(space, cost, counted, budget, trials=6, storage=tmp_path / "a.journal")
    tight = Budget(latency_ms=cost.predict(first.top(6)[-1]).latency_ms)
    for _ in range(2):
        second = run(space, cost, counted, tight, trials=4, storage=tmp_path / "a.journal")
        assert (second.reused, len(second.frame), len(calls)) == (6, 10, 10)
    assert len(set(calls)) == 10
    assert tight.holds(cost.predict(second.best))
    excess = [trial.constraints["latency_ms"] for trial in second.study.trials]
    assert (np.array(excess) <= 0).tolist() == second.frame["feasible"].tolist()
    again = run(space, cost, counted, budget, trials=6, storage=tmp_path / "a.journal")
    assert again.frame.equals(first.frame) and len(calls) == 10


def test_a_study_refuses_what_it_was_not_begun_with(search, tmp_path):
    space, cost, budget, table = search
    journal = tmp_path / "a.journal"
    run(space, cost, table, budget, trials=2, storage=journal)
    other = ScoreTable({"s0": {"o0": 1.0}})
    for evaluator_ in (other, lambda arch: 1.0, CommandEvaluator("echo {arch}")):
        with pytest.raises(ConfigError, match=r"a\.journal: study 'nas' was begun with evaluator ScoreTable \w+, not"):
            run(space, cost, evaluator_, budget, trials=4, storage=journal)
    with pytest.raises(ConfigError, match="was begun with space hash"):
        run(*make(1, 5, 4)[:2], table, Budget(latency_ms=1e6), storage=journal)
    assert len(run(space, cost, other, budget, trials=2, storage=journal, name="another").frame) == 2


def test_evaluators_are_told_apart_by_what_they_are_made_of():
    def scaled(factor):
        return lambda arch: factor * len(arch.choices)

    assert evaluator_identity(scaled(1.0)) == evaluator_identity(scaled(1.0))
    assert evaluator_identity(scaled(1.0)) != evaluator_identity(scaled(2.0))
    assert evaluator_identity(lambda arch: 1.0) != evaluator_identity(lambda arch: 2.0)
    assert evaluator_identity(functools.partial(scaled, 1)) != evaluator_identity(functools.partial(scaled, 2))
    assert evaluator_identity(CommandEvaluator("a {arch}")) != evaluator_identity(CommandEvaluator("b {arch}"))


@pytest.mark.parametrize(
    "command", ["{python} -u {script} --arch {{arch}}", "env X=1 python {script} {{arch}}", "{script} {{arch}}"]
)
def test_a_command_with_another_script_is_another_evaluator(search, tmp_path, command):
    space, cost, budget, _ = search
    script = tmp_path / "score.py"
    script.write_text(f"#!{sys.executable}\nprint(1.0)")
    script.chmod(0o755)
    evaluator = CommandEvaluator(command.format(python=sys.executable, script=script))
    before = evaluator_identity(evaluator)
    assert before == evaluator_identity(CommandEvaluator(evaluator.command, timeout_s=1.0, retries=3))
    (tmp_path / "log.txt").write_text("what a command writes does not count")
    assert before == evaluator_identity(evaluator)
    if command.startswith("{script}"):
        run(space, cost, evaluator, budget, trials=1, storage=tmp_path / "a.journal")
    script.write_text(f"#!{sys.executable}\nprint(2.0)")
    assert before != evaluator_identity(evaluator)
    if command.startswith("{script}"):
        with pytest.raises(ConfigError, match=f"was begun with evaluator {before}, not CommandEvaluator"):
            run(space, cost, evaluator, budget, trials=2, storage=tmp_path / "a.journal")


@pytest.mark.parametrize(
    "command", ["python -m scores {arch}", "python -c 'print(1)' {arch}", "score {arch}", f"{'x' * 5000} {{arch}}"]
)
def test_a_command_without_a_script_counts_by_its_text(command):
    assert CommandEvaluator(command).identity == CommandEvaluator(command).identity


def test_a_command_with_an_unclosed_quotation_mark_is_refused():
    with pytest.raises(ConfigError, match="No closing quotation"):
        CommandEvaluator("python 'score.py {arch}")


def test_infeasible_budget_is_answered_before_anything_runs(search):
    space, cost, _, table = search
    space = type(space)(name="full", slots={s: c[1:] for s, c in space.slots.items()})
    cost = type(cost)(space, cost.table)
    with pytest.raises(BudgetError, match="the cheapest"):
        run(space, cost, table, Budget(params=1))


def test_failed_evaluations_are_retried_under_their_own_number(search):
    space, cost, budget, table = search
    calls = []

    def flaky(arch):
        calls.append(arch)
        if len(calls) in (2, 3):
            raise RuntimeError("out of\nmemory")
        return table(arch)

    study = run(space, cost, flaky, budget, trials=4).study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert calls[1] == calls[2] == calls[3] and len(calls) == 6


@pytest.mark.parametrize("sampler", ["budget", "evolution", "tpe+repair"])
def test_an_architecture_that_fails_is_excluded_and_the_search_continues(search, sampler, tmp_path):
    space, cost, budget, table = search

    def fails_with_o1(arch):
        if "o1" in (arch.choices["s0"], arch.choices["s1"]):
            raise RuntimeError("no kernel for o1")
        return table(arch)

    result = run(space, cost, fails_with_o1, budget, trials=30, sampler=sampler, storage=tmp_path / "a.journal")
    assert 0 < len(result.failures) < 20
    assert result.failures[0] == "RuntimeError: no kernel for o1"
    assert len(result.frame) + len(result.failures) == 30
    assert "o1" not in (result.best.choices["s0"], result.best.choices["s1"])
    if sampler == "budget":
        assert len({tuple(trial.params.values()) for trial in result.study.trials}) == 30
    assert len(
        run(space, cost, fails_with_o1, budget, trials=30, sampler=sampler, storage=tmp_path / "a.journal").frame
    )
    explain(result)


@pytest.mark.parametrize("sampler", ["budget", "evolution", "random", "tpe", "random+repair", "tpe+repair"])
def test_an_architecture_that_failed_is_not_evaluated_again(sampler):
    """Not even in a space of four architectures with many more trials."""
    space, cost, _, table = make(1, 2, 2)
    calls = []

    def evaluator_(arch):
        calls.append(arch)
        if arch.choices["s0"] == arch.choices["s1"] == "o0":
            raise RuntimeError("out of memory")
        return table(arch)

    result = run(space, cost, evaluator_, Budget(latency_ms=1e9), trials=25, sampler=sampler)
    assert len(result.frame) + len(result.failures) == 25
    assert set(result.failures) == {"RuntimeError: out of memory"}
    failing = [arch for arch in calls if "none" not in arch.choices.values()]
    assert 3 <= len(failing) <= 9  # three attempts; and again before another success, as the evaluator might be broken
    if sampler in ("budget", "evolution") or sampler.endswith("+repair"):
        assert (len(failing), len(result.failures)) == (3, 1)


def test_a_broken_evaluator_ends_the_search_and_records_no_failure(search, tmp_path):
    space, cost, budget, table = search
    journal, broken = tmp_path / "a.journal", []

    def evaluator_(arch):
        if broken:
            raise OSError("no GPU")
        return table(arch)

    whole = run(space, cost, table, budget, trials=20).frame
    run(space, cost, evaluator_, budget, trials=5, storage=journal)
    broken.append(True)
    for _ in range(2):
        with pytest.raises(
            EvaluatorError, match=r"failed for 10 architectures in a row.* no GPU; what finished is kept"
        ):
            run(space, cost, evaluator_, budget, trials=20, storage=journal)
    broken.clear()
    result = run(space, cost, evaluator_, budget, trials=20, storage=journal)
    assert (result.failures, len(result.frame)) == ([], 20)
    assert result.frame.iloc[:5].equals(whole.iloc[:5])
    with pytest.raises(EvaluatorError, match=r"failed for every architecture, .* ZeroDivisionError"):
        run(space, cost, lambda arch: 1 / 0, budget, trials=4)
    with pytest.raises(EvaluatorError, match="the evaluator cannot be used: MissingDependency: needs x"):
        run(space, cost, lambda arch: missing(), budget, trials=4)


def missing():
    raise MissingDependency("needs x")


def pruned():
    raise optuna.TrialPruned


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (lambda: -float("inf"), "PRUNED"),
        (pruned, "PRUNED"),
        (lambda: None, "FAIL"),
        (lambda: float("nan"), "FAIL"),
        (lambda: float("inf"), "FAIL"),
        (lambda: True, "FAIL"),
        (lambda: np.bool_(True), "FAIL"),
        (lambda: "1.5", "FAIL"),
        (lambda: 1.5 + 0j, "FAIL"),
        (lambda: [1.5], "FAIL"),
        (lambda: np.ones(1), "FAIL"),
        (lambda: 10**400, "FAIL"),
        (lambda: sys.exit(3), "FAIL"),
        (lambda: 1, "COMPLETE"),
        (lambda: np.float32(1.5), "COMPLETE"),
        (lambda: np.array(1.5), "COMPLETE"),
        (lambda: Fraction(3, 2), "COMPLETE"),
    ],
)
def test_return_values_of_evaluators(search, answer, state):
    space, cost, budget, table = search
    first = []

    def evaluator_(arch):
        first[:] = first or [arch]
        return answer() if arch == first[0] else table(arch)

    result = run(space, cost, evaluator_, budget, trials=4)
    assert [trial.state.name for trial in result.study.trials] == [state, *["COMPLETE"] * 3]
    assert len(result.failures) == (state == "FAIL")
    assert len(result.frame) == 3 + (state == "COMPLETE")


def test_evaluators_that_yield_are_pruned(search):
    space, cost, budget, table = search

    def brief(arch):
        for step in range(4):
            yield table(arch) * (step + 1) / 4

    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    result = run(space, cost, brief, budget, trials=20, pruner=pruner)
    assert 0 < result.frame["pruned"].sum() < 20
    kept = result.frame[~result.frame["pruned"]]
    assert table(result.best) == pytest.approx(kept["score"].max())


class InBulk:
    """Scores from a table, several at once; fails for whole batches that hold an architecture with o1 in s0."""

    identity = "in bulk"

    def __init__(self, table):
        self.table, self.batches, self.single = table, [], 0

    def __call__(self, arch):
        self.single += 1
        return self.score_many([arch])[0]

    def score_many(self, archs):
        self.batches.append(len(archs))
        if any(arch.choices["s0"] == "o1" for arch in archs):
            raise RuntimeError("no kernel for o1")
        return [self.table(arch) for arch in archs]


def test_architectures_are_evaluated_in_batches(search):
    space, cost, budget, table = search
    evaluator = InBulk(table)
    result = run(space, cost, evaluator, budget, trials=21, batch=4)
    assert len(result.frame) + len(result.failures) == 21
    assert set(result.failures) <= {"RuntimeError: no kernel for o1"}
    assert result.frame["score"].tolist() == [
        table(space.architecture(t.params)) for t in result.study.trials if t.values
    ]
    assert max(evaluator.batches) == 4 and evaluator.batches.count(4) >= 4
    assert not result.frame.duplicated(list(space.slots)).any()
    with pytest.raises(ConfigError, match="batch: this evaluator has no score_many"):
        run(space, cost, table, budget, trials=3, batch=4)
    with pytest.raises(ConfigError, match="batch: one process evaluates a batch; omit workers"):
        run(space, cost, evaluator, budget, trials=30, batch=4, workers=2)


def test_front_is_not_dominated(search):
    space, cost, budget, table = search
    front = run(space, cost, table, budget, trials=30).front
    for _, a in front.iterrows():
        for _, b in front.iterrows():
            no_worse = b["score"] >= a["score"] and all(b[c] <= a[c] for c in ("latency_ms", "memory_mb", "params"))
            assert not no_worse or a["score"] == b["score"]


def test_reevaluation_chooses_by_the_better_evaluator(search):
    space, cost, budget, table = search
    result = run(space, cost, table, budget, trials=15)
    second = result.top(3)[1]
    chosen = reevaluate_top_k(result, lambda arch: float(arch == second), k=3)
    assert chosen.best == second
    assert len(chosen.frame) == 3


def test_reevaluation_of_a_list_that_changed(search, tmp_path):
    """Each architecture of the list is scored, whatever the study contains; a trial left running is repeated."""
    space, cost, budget, table = search
    result, journal = run(space, cost, table, budget, trials=15), tmp_path / "reevaluate_top_k.journal"
    reevaluate_top_k(result, table, k=2, storage=journal)
    study = optuna.load_study(study_name="reevaluate_top_k", storage=open_storage(journal))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    worst = Result(result.study, space, cost, Budget(latency_ms=cost.predict(result.top(15)[-1]).latency_ms))
    chosen = reevaluate_top_k(worst, table, k=2, storage=journal)
    assert set(worst.top(2)) <= {space.architecture(t.params) for t in chosen.study.trials}
    again = reevaluate_top_k(result, table, k=4, storage=journal)
    assert set(result.top(4)) <= {space.architecture(t.params) for t in again.study.trials}
    assert "RUNNING" not in {trial.state.name for trial in again.study.trials}


def test_several_objectives():
    """Score against latency: most of the exact front's area after 40 trials, and far more than random proposals find."""
    space, cost, budget, table = make(1, 8, 5, share=0.2)
    front = pareto(space, cost, table.scores, budget=budget)
    whole = area(front["score"], front["latency_ms"], budget.latency_ms)
    shares = {}
    for name in ("budget", "random+repair"):
        sampler = make_sampler(name, Problem.build(space, cost, budget), 0)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for _ in range(40):
            trial = study.ask(distributions(sampler.problem))
            arch = space.architecture(trial.params)
            assert budget.holds(cost.predict(arch))
            study.tell(trial, (table(arch), cost.predict(arch).latency_ms))
        shares[name] = area(*zip(*(trial.values for trial in study.best_trials)), budget.latency_ms) / whole
    assert shares["budget"] > 0.8
    assert shares["budget"] > shares["random+repair"] + 0.1


def area(scores, latencies_ms, limit_ms):
    """What a front dominates between score 0 and the limit on latency (its hypervolume)."""
    order = np.argsort(latencies_ms)
    best = np.maximum.accumulate(np.array(scores)[order])
    return float(best @ np.diff(np.append(np.array(latencies_ms)[order], limit_ms)))


def test_pending_trials_are_not_proposed_again(search):
    space, cost, budget, table = search
    study = optuna.create_study(direction="maximize", sampler=BudgetSampler(space, cost, budget, startup=4, seed=0))
    slots = {slot: optuna.distributions.CategoricalDistribution(c) for slot, c in space.slots.items()}
    for _ in range(8):
        trial = study.ask(slots)
        study.tell(trial, table(space.architecture(trial.params)))
    asked = [tuple(study.ask(slots).params.values()) for _ in range(8)]
    assert len(set(asked)) == 8


def test_a_small_space_can_be_exhausted():
    space, cost, _, table = make(1, 2, 2)
    result = run(space, cost, table, Budget(latency_ms=1e9), trials=8)
    assert len(result.frame) == 8
    assert len(result.frame.drop_duplicates(list(space.slots))) == 4


def test_external_command(search, tmp_path):
    arch = search[0].random(seed=0)
    code = "import json, sys; a = json.load(open(sys.argv[1])); print('log'); print(json.dumps({'score': len(a['choices'])}))"
    (tmp_path / "score.py").write_text(code)
    assert parse_evaluator(f"{sys.executable} {tmp_path / 'score.py'} {{arch}}")(arch) == 6.0
    with pytest.raises(EvaluatorError, match="exit status 3: no GPU"):
        CommandEvaluator(f"{sys.executable} -c 'import sys; print(\"no GPU\"); sys.exit(3)' {{arch}}", retries=0)(arch)
    with pytest.raises(EvaluatorError, match=r"was killed by signal 9 \(Killed\)"):
        CommandEvaluator("sh -c 'kill -9 $$' {arch}", retries=0)(arch)
    with pytest.raises(EvaluatorError, match=r"no answer within 0\.2 s"):
        CommandEvaluator("sh -c 'sleep 5' {arch}", timeout_s=0.2, retries=0)(arch)
    with pytest.raises(EvaluatorError, match="last line must be JSON"):
        CommandEvaluator("echo {arch}", retries=0)(arch)
    with pytest.raises(ConfigError, match="score table"):
        parse_evaluator("python score.py")


def test_score_tables_from_files(search, tmp_path):
    arch = search[0].architecture({"s0": "o0", "s1": "o1"})
    (tmp_path / "t.csv").write_text("slot,choice,score\ns0,o0,1.5\ns1,o1,2\n")
    assert ScoreTable.load(tmp_path / "t.csv")(arch) == 3.5
    pair = '{"slots": ["s0", "s1"], "choices": ["o0", "o1"], "score": -1}'
    (tmp_path / "t.json").write_text(f'{{"scores": {{"s0": {{"o0": 1}}}}, "pairs": [{pair}]}}')
    assert ScoreTable.load(tmp_path / "t.json")(arch) == 0.0
    (tmp_path / "bad.csv").write_text("slot,choice,score\ns0,o0,high\n")
    with pytest.raises(ConfigError, match=r"bad\.csv:2: score: expected a number"):
        ScoreTable.load(tmp_path / "bad.csv")


DRIVER = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from tests.support.instances import make
    from nas.search import run
    space, cost, budget, table = make(0, 6, 4, share=0.3)
    def slow(arch):
        time.sleep({seconds})
        return table(arch)
    slow.identity = "slow"
    if __name__ == "__main__":
        result = run(space, cost, slow, budget, trials={trials}, storage={journal!r}, workers={workers})
"""


def start_search(journal, trials, seconds, workers=1):
    code = DRIVER.format(
        tests=str(Path(__file__).parents[2]), journal=str(journal), trials=trials, seconds=seconds, workers=workers
    )
    if workers == 1:
        return start_python(textwrap.dedent(code))
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])  # Ray does not start in a copy of a process


def finished(journal):
    if not journal.exists():
        return []
    trials = optuna.load_study(study_name="nas", storage=open_storage(journal)).trials
    return [trial for trial in trials if trial.state.name == "COMPLETE"]


def wait_for(journal, count, process):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        try:
            if len(finished(journal)) >= count:
                return
        except KeyError:  # the study is not there yet
            continue
    raise AssertionError("the search ended too early")


def check_after_kill(journal, workers):
    trials = optuna.load_study(study_name="nas", storage=open_storage(journal)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert all(len(trial.params) == 6 for trial in trials)


@pytest.mark.slow
def test_a_killed_search_keeps_its_finished_trials(tmp_path):
    journal = tmp_path / "study.journal"
    process = start_search(journal, 12, 0.1)
    wait_for(journal, 4, process)
    process.kill()
    process.wait()
    before = {trial.number: trial.value for trial in finished(journal)}
    assert start_search(journal, 12, 0.0).wait(timeout=600) == 0
    after = {trial.number: trial.value for trial in finished(journal)}
    assert before.items() <= after.items()
    check_after_kill(journal, 1)


def test_searching_needs_no_torch_and_no_ray():
    code = "import sys; from nas.search import run, optimum, explain; assert not {'torch', 'ray'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
