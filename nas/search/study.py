"""The driver: asks a sampler for architectures, has them scored, and keeps everything in an Optuna storage."""

from __future__ import annotations

import fcntl
import math
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.costs import Budget, CostModel
from nas.errors import ConfigError
from nas.progress import progress
from nas.search.evaluators import EvaluatorError
from nas.search.exact import infeasible, solve
from nas.search.placement import distributions
from nas.search.problem import Problem
from nas.search.result import COSTS, Result
from nas.search.samplers import make_sampler
from nas.search.workers import Evaluator, InProcess, RayPool, Report
from nas.spaces import Architecture, SearchSpace

RETRIES = 2
"""How often one architecture is tried again after its evaluation failed or its worker died."""

WORST_EXCESS = 10.0
"""Constraints are relative excesses over the bounds; what cannot run at all exceeds by this much."""

DRIVER = "driver:"
"""Prefix of the study's attributes that name its drivers, dead ones too."""

_active: set[str] = set()  # tokens of the drivers that run in this process


def run(
    space: SearchSpace,
    cost: CostModel,
    evaluator: Evaluator,
    budget: Budget,
    trials: int = 200,
    sampler: str | optuna.samplers.BaseSampler = "budget",
    storage: str | Path | None = None,
    workers: int = 1,
    seed: int | None = 0,
    name: str = "nas",
    pruner: optuna.pruners.BasePruner | None = None,
    address: str | None = None,
    gpus: float = 0.0,
) -> Result:
    """Search for the architecture within the budget that the evaluator scores highest.

    A study that is already in the storage is continued: `trials` counts finished trials, those of earlier runs too.
    Trials that were running when a driver or a worker was killed are failed and tried again.

    Args:
        evaluator: `Architecture -> float`, higher is better. A generator of scores may be pruned in between.
        sampler: a name of `nas.search.samplers.SAMPLERS`, with `+repair` if wanted, or an Optuna sampler.
        storage: a journal file, an Optuna RDB URL (`sqlite:///...`), or None to keep the study in memory.
        workers: evaluations at once. One runs in this process; several are actors on Ray.
        seed: with one worker the search is reproducible, whether or not it was interrupted, as far as the sampler is.
        name: of the study in the storage.
        pruner: for evaluators that yield scores at growing fidelity.
        address: of an existing Ray cluster; None starts Ray on this machine when there are several workers.
        gpus: per worker.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one.
        ConfigError: the storage holds a study of another space or budget, or of other steps where the budget bounds the time
            of a clip; or an unknown sampler.
        EvaluatorError: an architecture's evaluation failed each time it was tried.
    """
    problem = Problem.build(space, cost, budget)
    _check_feasible(problem)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=open_storage(storage),
        sampler=make_sampler(sampler, problem, seed),
        pruner=pruner or optuna.pruners.NopPruner(),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    _same_search(study, problem, storage)
    driver = _Driver(study, problem, storage is not None)
    driver.retry_stale()
    if driver.finished() < trials:
        local = workers == 1 and address is None and gpus == 0
        pool = InProcess(evaluator) if local else RayPool(evaluator, workers, address, gpus)
        try:
            driver.drive(pool, trials)
        finally:
            driver.close()
            pool.close()
    return Result(study, space, cost, budget)


def finals(
    result: Result,
    evaluator: Evaluator,
    k: int = 3,
    storage: str | Path | None = None,
    workers: int = 1,
    name: str = "finals",
    address: str | None = None,
    gpus: float = 0.0,
) -> Result:
    """Score the `k` best architectures of a search again with a better evaluator, such as training each for a while.

    Its own study, `name`, in the same kind of storage, and resumed like any other. `finals(...).best` is the choice.
    """
    problem = Problem.build(result.space, result.cost, result.budget)
    listed = _Listed(result.top(k), problem)
    return run(
        result.space,
        result.cost,
        evaluator,
        result.budget,
        trials=len(listed.architectures),
        sampler=listed,
        storage=storage,
        workers=workers,
        name=name,
        address=address,
        gpus=gpus,
    )


def open_storage(storage: str | Path | None) -> optuna.storages.BaseStorage:
    """An Optuna storage from an RDB URL or the path of a journal file; in memory for None.

    A last journal line that a crash or a full disk tore is dropped: Optuna could not read past it.

    Raises:
        ConfigError: it cannot be opened, or is no journal.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage()
    if "://" in str(storage):
        return _open_database(str(storage))
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the storage a file name, such as {path / 'study.journal'}")
    lock = _FileLock(path)
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()
    try:
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
    finally:
        lock.release()
    try:
        return optuna.storages.JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # Optuna checks nothing of what it reads
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{path}: not a study's journal, or a broken one ({reason}); restore it, or give another --storage"
        ) from None


def _open_database(url: str) -> optuna.storages.BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever SQLAlchemy or a driver raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{url}: cannot be opened ({reason}); give a journal file or another --storage") from None


class _FileLock(optuna.storages.journal._file.BaseJournalFileLock):
    """A lock that the kernel drops when its holder is killed; Optuna's own outlives it for 30 s."""

    def __init__(self, path: Path) -> None:
        self.path = f"{path}.lock"
        self.threads = threading.Lock()
        self.handle: int | None = None

    def acquire(self) -> bool:
        self.threads.acquire()
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self.handle)
        self.threads.release()


class _Driver:
    """One run's hold on a study."""

    def __init__(self, study: optuna.Study, problem: Problem, persistent: bool) -> None:
        self.study, self.problem, self.persistent = study, problem, persistent
        self.identity = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self.running: dict[int, Trial] = {}
        self.steps: dict[int, int] = {}
        _active.add(self.identity["token"])
        study.set_user_attr(DRIVER + self.identity["token"], self.identity)

    def close(self) -> None:
        _active.discard(self.identity["token"])

    def finished(self) -> int:
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return len(self.study.get_trials(deepcopy=False, states=states))

    def retry_stale(self) -> None:
        """Fail and queue again what a driver that no longer lives left running."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_stale(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self._queue_again(trial.number, trial.params, trial.user_attrs)

    def _is_stale(self, trial: FrozenTrial) -> bool:
        """A trial that names no driver was being asked for when its driver died, unless one that lives is asking."""
        driver = trial.user_attrs.get("driver")
        if driver is not None:
            return not _alive(driver, self.identity)
        drivers = [value for key, value in self.study.user_attrs.items() if key.startswith(DRIVER)]
        others = [driver for driver in drivers if driver["token"] != self.identity["token"]]
        asked = set(trial.params) == set(self.problem.space.slots)
        return not asked and not any(_alive(driver, self.identity) for driver in others)

    def drive(self, pool: InProcess | RayPool, trials: int) -> None:
        done = self.finished()
        with progress(None, "search", trials, done, unit="trial") as bar:
            while done < trials:
                while len(self.running) < min(pool.workers, trials - done):
                    trial, arch = self._ask()
                    self.running[trial.number] = trial
                    pool.begin(trial.number, arch)
                number, report = pool.wait()
                finished = self._hear(pool, number, report)
                done += finished
                bar.update(finished)

    def _ask(self) -> tuple[Trial, Architecture]:
        """A new trial and its architecture; the costs and constraints are stored before it runs."""
        trial = self.study.ask(distributions(self.problem))
        space, bounds = self.problem.space, self.problem.budget.bounds()
        arch = space.architecture({slot: trial.params[slot] for slot in space.slots})
        costs = self.problem.cost.predict(arch)
        runs = math.isfinite(costs.latency_ms)
        trial.set_user_attr("driver", self.identity)
        trial.set_user_attr("choices", arch.choices)
        for name in COSTS:
            trial.set_user_attr(name, getattr(costs, name) if runs or name != "latency_ms" else None)
        trial.set_constraint("runs", -1.0 if runs else WORST_EXCESS)
        for name, bound in bounds.items():
            trial.set_constraint(name, min(getattr(costs, name) / bound - 1.0, WORST_EXCESS))
        return trial, arch

    def _hear(self, pool: InProcess | RayPool, number: int, report: Report) -> int:
        """Record what a worker says; 1 when that finished a trial, else 0."""
        trial = self.running[number]
        if report.error or not math.isfinite(report.score):
            del self.running[number]
            self._fail(trial, report)
            return 0
        if report.final:
            del self.running[number]
            self.study.tell(trial, report.score)
            return 1
        step = self.steps[number] = self.steps.get(number, -1) + 1
        trial.report(report.score, step)
        if not trial.should_prune():
            pool.resume(number)
            return 0
        del self.running[number]
        pool.stop(number)
        self.study.tell(trial, state=TrialState.PRUNED)
        return 1

    def _fail(self, trial: Trial, report: Report) -> None:
        """
        Raises:
            EvaluatorError: it had been tried before as often as it may be.
        """
        reason = report.error or f"the score is {report.score}, not a finite number"
        attempts = trial.user_attrs.get("attempt", 0)
        trial.set_user_attr("error", reason)
        params, attributes = trial.params, trial.user_attrs
        self.study.tell(trial, state=TrialState.FAIL)
        if attempts >= RETRIES:
            kept = "; what finished is kept, run again to go on" if self.persistent else ""
            raise EvaluatorError(f"search: trial {trial.number} failed {attempts + 1} times: {reason}{kept}")
        self._queue_again(trial.number, params, attributes)

    def _queue_again(self, number: int, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Nothing is queued for a trial that was killed before its architecture was complete: nothing ran."""
        if set(params) == set(self.problem.space.slots):
            attempt = attributes.get("attempt", 0) + ("error" in attributes)
            self.study.enqueue_trial(params, user_attrs={"retry_of": number, "attempt": attempt})


class _Listed(optuna.samplers.BaseSampler):
    """Proposes given architectures in turn."""

    def __init__(self, architectures: list[Architecture], problem: Problem) -> None:
        self.architectures, self.problem = architectures, problem

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(distributions(self.problem))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:
            return {}
        started = [t.params for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
        return next(a.choices for a in self.architectures if a.choices not in started)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        raise RuntimeError(f"no listed architecture has the parameter '{name}'")


def _check_feasible(problem: Problem) -> None:
    if solve(problem, np.zeros(len(problem.slot))) is None:
        raise infeasible(problem)


def _same_search(study: optuna.Study, problem: Problem, storage: str | Path | None) -> None:
    """Refuse to mix searches: trials of another space or budget mean something else.

    So do those whose clips are generated in other steps, where the budget bounds the time of a clip.
    """
    here = {"space": problem.space.name, "space_hash": problem.space.hash, "budget": str(problem.budget)}
    if problem.budget.generation_s is not None:
        here |= {"steps": problem.cost.steps, "guidance": problem.cost.guidance}
    for key, value in here.items():
        stored = study.user_attrs.get(key)
        if stored is None:
            study.set_user_attr(key, value)
        elif stored != value and key != "space":
            raise ConfigError(
                f"{storage}: study '{study.study_name}' was searched with {key} {stored}, not {value}; "
                "give another storage or another study name"
            )


def _alive(driver: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether a driver still runs. One on another machine is taken to."""
    if driver["host"] != here["host"]:
        return True
    if driver["pid"] == here["pid"]:
        return driver["token"] in _active
    try:
        os.kill(driver["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
