"""Run or resume a search as an Optuna study, and re-evaluate its best architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.costs import Budget, CostModel, Costs
from nas.errors import ConfigError
from nas.search.constraints import Constraints
from nas.search.exact import infeasible, solve
from nas.search.load_study import add_known_scores, load_or_create_study
from nas.search.optimize_loop import OptimizeLoop, is_ended
from nas.search.problem import Problem
from nas.search.result import Result
from nas.search.samplers import make_sampler
from nas.search.samplers.base import distributions
from nas.search.solver.early_stop import early_stop_rule
from nas.search.storage import check_trials, open_storage, storage_errors, without_password
from nas.search.study_lock import lock_study
from nas.search.workers import BulkPool, Evaluator, LocalPool, Pool, RayPool
from nas.spaces import Architecture, SearchSpace


def run(
    space: SearchSpace,
    cost: Costs | Mapping[str, CostModel],
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
    join: bool = False,
    warm_start: str | Path | Sequence[str | Path] = (),
    batch: int = 1,
    constraints: Constraints | None = None,
    early_stop: bool = False,
    strict: bool = False,
) -> Result:
    """Search for the architecture within the budget that the evaluator scores highest.

    A study in the storage is resumed: `trials` includes the finished trials of earlier runs, and trials interrupted by
    a kill are evaluated again under their own numbers. With another budget, table, device or constraint and the same
    evaluator, a separate study with the known scores is created in the storage, and `trials` counts its new trials.

    Outcomes of an evaluation:

    - a finite number: the score;
    - -inf, or `optuna.TrialPruned` raised: the trial is pruned, and counts;
    - an exception, or a worker that dies: two retries, then the trial fails. None, NaN, infinity and anything else that
      is not a number fail at once. A failed trial counts, and its architecture is not evaluated again;
      `Result.failures` has the reasons;
    - 10 consecutive failures, or failures only: the evaluator is assumed to be broken and the search ends. These
      failures are not recorded; the next run evaluates their architectures again.

    Args:
        cost: a cost model, or one by each device's name: the budget then holds on all of them.
        evaluator: `Architecture -> float`, higher is better, or a generator of intermediate scores for the pruner. Its
            string attribute `identity` tells which evaluators have comparable scores; the default is
            `nas.search.identity.evaluator_identity`.
        trials: number of trials in total.
        sampler: a name in `nas.search.samplers.SAMPLERS`, optionally with the suffix `+repair`, or an Optuna sampler.
        storage: a journal file, an Optuna RDB URL (`sqlite:///...`), or None to keep the study in memory.
        workers: number of concurrent evaluations. One runs in this process, several are Ray actors.
        seed: with one worker and a named sampler the search is reproducible, whether or not it was interrupted.
        name: the study's name in the storage.
        pruner: for evaluators that yield intermediate scores.
        address: address of a Ray cluster; None starts Ray on this machine if there are several workers.
        gpus: GPUs per worker.
        join: share the study with other running searches; together they run `trials` trials. On a database server,
            where searches cannot detect one another, all of them must set it.
        warm_start: scores that are known already: CSV files of scored architectures, or storages of other searches; see
            `nas.search.load_study.add_known_scores`. They do not count as trials.
        batch: number of architectures that are proposed, and then evaluated together in this process by the evaluator's
            method `score_many`, as that of a supernet, which runs the layers that they share once.
        constraints: fixed choices, excluded choices and counts, which every sampler's proposals satisfy.
        early_stop: end before `trials` once no better architecture can exist: the best one reaches the exact solver's
            bound (the evaluator is a score table), or the evaluator's attribute `upper_bound`, or every architecture
            within the budget was evaluated.
        strict: refuse another budget, table, device or constraint than the study was begun with, instead of creating a
            separate study with the known scores.

    Raises:
        BudgetError: no architecture meets the budget; the message names the cheapest one.
        ConfigError: the study has another space or evaluator, or if `strict` another budget, or is broken; an unknown
            sampler; no architecture satisfies the constraints; or scores for a warm start that cannot be used.
        EvaluatorError: the evaluator is broken.
        LockedError: another search uses the same file, and `join` is not set.
        StorageError: the storage failed, such as on a full disk; finished trials are kept.
    """
    for what, number, least in (("trials", trials, 0), ("workers", workers, 1), ("batch", batch, 1)):
        if number < least:
            raise ConfigError(f"{what}: must be {least} or more, not {number}")
    problem = Problem.build(space, cost, budget, constraints)
    sources = [warm_start] if isinstance(warm_start, str | Path) else list(warm_start)
    return _search(
        problem,
        evaluator,
        trials,
        sampler,
        storage,
        name,
        seed,
        pruner,
        join,
        workers,
        address,
        gpus,
        sources,
        batch,
        early_stop,
        strict,
    )


def _search(
    problem: Problem,
    evaluator: Evaluator,
    trials: int,
    sampler: str | optuna.samplers.BaseSampler,
    storage: str | Path | None,
    name: str,
    seed: int | None,
    pruner: optuna.pruners.BasePruner | None,
    join: bool,
    workers: int,
    address: str | None,
    gpus: float,
    sources: Sequence[str | Path] = (),
    batch: int = 1,
    early_stop: bool = False,
    strict: bool = False,
) -> Result:
    if seed is not None and seed < 0:
        raise ConfigError(f"seed: must be 0 or more, not {seed}")
    if solve(problem, np.zeros(len(problem.slot))) is None:
        raise infeasible(problem)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = make_sampler(sampler, problem, seed)
    with lock_study(storage, join) as lock, storage_errors(storage):
        where = without_password(storage)
        study = load_or_create_study(open_storage(storage), name, problem, evaluator, where, strict)
        check_trials(study, problem.space, where)
        for source in sources:
            add_known_scores(study, source, problem, evaluator)
        study.sampler, study.pruner = sampler, pruner or optuna.pruners.NopPruner()
        loop = OptimizeLoop(study, problem, lock)
        loop.is_best_possible = early_stop_rule(study, problem, evaluator) if early_stop else None
        lock.allow_joins()
        if isinstance(sampler, ArchitectureListSampler):
            trials = sampler.trials(loop)
        if loop.finished() < trials:
            pool = _pool(evaluator, workers, address, gpus, batch)
            try:
                loop.run(pool, trials)
            finally:
                pool.close()
    return Result(study, problem.space, problem.cost, problem.budget, problem.constraints)


def _pool(evaluator: Evaluator, workers: int, address: str | None, gpus: float, batch: int) -> Pool:
    local = workers == 1 and address is None and gpus == 0
    if batch > 1:
        if not local:
            raise ConfigError("batch: one process evaluates a batch; omit workers, address and gpus, or batch")
        return BulkPool(evaluator, batch)
    return LocalPool(evaluator) if local else RayPool(evaluator, workers, address, gpus)


def reevaluate_top_k(
    result: Result,
    evaluator: Evaluator,
    k: int = 3,
    storage: str | Path | None = None,
    workers: int = 1,
    name: str = "reevaluate_top_k",
    address: str | None = None,
    gpus: float = 0.0,
    join: bool = False,
) -> Result:
    """Evaluate the `k` best architectures of a search with a better evaluator, such as brief training.

    This is a study of its own, `name`, and is resumed like any other. `reevaluate_top_k(...).best` is the final choice.
    """
    problem = Problem.build(result.space, result.cost, result.budget, result.constraints)
    listed = ArchitectureListSampler(result.top(k), problem)
    return _search(problem, evaluator, 0, listed, storage, name, 0, None, join, workers, address, gpus)


class ArchitectureListSampler(optuna.samplers.BaseSampler):
    """Proposes the architectures of a list, in order."""

    def __init__(self, architectures: list[Architecture], problem: Problem) -> None:
        self.choices, self.problem = [architecture.choices for architecture in architectures], problem

    def trials(self, loop: OptimizeLoop) -> int:
        """Number of finished trials once every architecture of the list has been evaluated."""
        ended = [trial.params for trial in loop.study.get_trials(deepcopy=False) if is_ended(trial)]
        others = [trial for trial in loop.left if trial.params not in self.choices]
        return len(ended) + len(others) + sum(choices not in ended for choices in self.choices)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(distributions(self.problem))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        begun = [t.params for t in others if t.state == TrialState.RUNNING or is_ended(t)]
        return next((choices for choices in self.choices if choices not in begun), self.choices[0])

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        raise RuntimeError(f"the architectures of the list have no parameter '{name}'")
