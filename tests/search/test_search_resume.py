"""A search that is killed anywhere and resumed equals an uninterrupted one: same proposals, numbers and scores."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from nas.search import open_storage, run
from nas.search.samplers import SAMPLERS
from nas.search.storage import Journal
from tests.support.instances import make

PAIRS = [
    *((name, "journal") for name in ("budget", "evolution", "nsga2", "qmc", "tpe+repair")),
    *((name, "sqlite") for name in ("budget", "random")),
]
"""Each way to keep state between trials, with each storage; the other samplers share one of these."""

NAMES = [*sorted(set(SAMPLERS) - {"cmaes", "gp"}), "tpe+repair", "nsga2+repair"]
WRITES = [name for name in vars(optuna.storages.BaseStorage) if name.startswith(("set_", "create_"))]


class Killed(BaseException):
    """No code of the library catches it, as if the process ended."""


def small():
    space, cost, budget, table = make(0, 4, 4, share=0.4, pairs=True)

    def evaluator(arch):
        if arch.choices["s0"] == "o1" and arch.choices["s1"] != "o2":
            raise RuntimeError("this one fails")
        return table(arch)

    return space, cost, evaluator, budget


def where(kind, folder):
    return folder / "study.journal" if kind == "journal" else f"sqlite:///{folder / 'study.db'}"


def proposals(storage, name="nas"):
    """Number, architecture, state and score of each trial."""
    trials = optuna.load_study(study_name=name, storage=open_storage(storage)).trials
    return [(trial.number, trial.params, trial.state.name, trial.values) for trial in trials]


def dying_after(writes, monkeypatch):
    """Make a search end right after `writes` writes to its storage."""
    left = [writes]

    def counted(method):
        def write(*args, **kwargs):
            result = method(*args, **kwargs)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return write

    monkeypatch.setattr(Journal, "append_logs", counted(Journal.append_logs))
    for name in WRITES:
        monkeypatch.setattr(optuna.storages.RDBStorage, name, counted(getattr(optuna.storages.RDBStorage, name)))


def in_pieces(search, trials, writes, monkeypatch, **options):
    """Run a search that ends after `writes` writes repeatedly, until it is complete."""
    for _ in range(1000):
        with monkeypatch.context() as patch:
            dying_after(writes, patch)
            try:
                return run(*search, trials=trials, **options)
            except Killed:
                pass
    raise AssertionError("the search makes no progress")


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "kind"), PAIRS)
def test_a_search_that_dies_after_every_write(sampler, kind, tmp_path, monkeypatch):
    search, last = small(), 52 if sampler.startswith("nsga") else 12
    (tmp_path / "whole").mkdir()
    whole, parts = where(kind, tmp_path / "whole"), where(kind, tmp_path)
    run(*search, trials=last, sampler=sampler, storage=whole, seed=3)
    run(*search, trials=last - 3, sampler=sampler, storage=parts, seed=3)  # to learn from
    in_pieces(search, last, 1, monkeypatch, sampler=sampler, storage=parts, seed=3)
    assert proposals(parts) == proposals(whole)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", NAMES)
def test_every_sampler_resumes(sampler, tmp_path):
    """In a second run with a new sampler object."""
    search, last = small(), 54 if sampler.startswith("nsga") else 12
    run(*search, trials=last, sampler=sampler, storage=tmp_path / "whole.journal", seed=3)
    for trials in (last - 4, last):
        run(*search, trials=trials, sampler=sampler, storage=tmp_path / "parts.journal", seed=3)
    assert proposals(tmp_path / "parts.journal") == proposals(tmp_path / "whole.journal")


@pytest.mark.parametrize(("sampler", "kind"), [("budget", "journal"), ("tpe+repair", "sqlite")])
def test_a_search_that_dies_in_each_evaluation(sampler, kind, tmp_path):
    space, cost, evaluator, budget = small()
    (tmp_path / "whole").mkdir()
    run(space, cost, evaluator, budget, trials=9, sampler=sampler, storage=where(kind, tmp_path / "whole"))
    seen = []

    def dying(arch):
        if arch.choices not in seen:
            seen.append(arch.choices)
            raise Killed
        return evaluator(arch)

    dying.identity = evaluator.identity = "the same"
    parts = tmp_path / "parts"
    parts.mkdir()
    run(space, cost, evaluator, budget, trials=1, sampler=sampler, storage=where(kind, parts))
    for _ in range(30):
        try:
            run(space, cost, dying, budget, trials=9, sampler=sampler, storage=where(kind, parts))
            break
        except Killed:
            assert proposals(where(kind, parts))[-1][2] == "RUNNING"
    assert proposals(where(kind, parts)) == proposals(where(kind, tmp_path / "whole"))
    assert len(seen) > 5


def test_pruning_resumes(tmp_path, monkeypatch):
    space, cost, budget, table = make(0, 4, 4, share=0.4)

    def in_steps(arch):
        for step in range(4):
            yield table(arch) * (step + 1) / 4

    search, pruner = (space, cost, in_steps, budget), optuna.pruners.MedianPruner(n_startup_trials=2)
    run(*search, trials=10, storage=tmp_path / "whole.journal", pruner=pruner)
    in_pieces(search, 10, 7, monkeypatch, storage=tmp_path / "parts.journal", pruner=pruner)
    assert proposals(tmp_path / "parts.journal") == proposals(tmp_path / "whole.journal")
    assert any(state == "PRUNED" for _, _, state, _ in proposals(tmp_path / "whole.journal"))


def test_a_trial_left_by_another_host_is_repeated(tmp_path):
    """Including one that an earlier version left incomplete, with the id of a running process."""
    space, cost, evaluator, budget = small()
    journal = tmp_path / "study.journal"
    run(space, cost, evaluator, budget, trials=3, storage=journal)
    study = optuna.load_study(study_name="nas", storage=open_storage(journal))
    trial = study.ask({"s0": optuna.distributions.CategoricalDistribution(space.slots["s0"])})
    trial.set_user_attr("driver", {"host": "another", "pid": os.getpid(), "token": "gone"})
    run(space, cost, evaluator, budget, trials=4, storage=journal)
    number, choices, state, _ = proposals(journal)[-1]
    assert len(proposals(journal)) == 4 and number == trial.number and state in ("COMPLETE", "FAIL")
    assert choices["s0"] == trial.params["s0"]  # what is stored already cannot be drawn again


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "kind"), [("budget", "journal"), ("evolution", "sqlite")])
def test_killed_processes(sampler, kind, tmp_path):
    """SIGKILL at times spread over the whole run, in processes forked from one that has imported everything."""
    script = Path(__file__).with_name("killed_search.py")
    command = [sys.executable, str(script), sampler, str(where(kind, tmp_path)), "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    kills = int(done.stdout.split()[-1])
    assert kills >= 5
    (tmp_path / "whole").mkdir()
    whole = where(kind, tmp_path / "whole")
    run(*small(), trials=10, sampler=sampler, storage=whole, seed=3)
    assert proposals(where(kind, tmp_path)) == proposals(whole)
