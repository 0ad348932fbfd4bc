"""A search, begun or continued: everything that it finds is in an Optuna storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.costs import Budget, CostModel
from nas.errors import ConfigError
from nas.search.exact import infeasible, solve
from nas.search.load_study import load_or_create_study
from nas.search.optimize_loop import OptimizeLoop, is_ended
from nas.search.problem import Problem
from nas.search.result import Result
from nas.search.samplers import make_sampler
from nas.search.samplers.base import distributions
from nas.search.storage import check_trials, open_storage, storage_errors, without_password
from nas.search.study_lock import lock_study
from nas.search.workers import Evaluator, LocalPool, RayPool
from nas.spaces import Architecture, SearchSpace


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
    join: bool = False,
) -> Result:
    """Search for the architecture within the budget that the evaluator scores highest.

    A study that is already in the storage is continued: `trials` counts ended trials, those of earlier runs too. Trials
    that ran when the search was killed are evaluated again, under their own numbers. With another budget or another table,
    and the same evaluator, a study of its own is begun in the storage with the scores that are known, and `trials` new ones.

    What an evaluation may come to:

    - a finite number: the score;
    - -inf, or `optuna.TrialPruned` raised: the architecture is not worth a score. The trial is pruned, and counts;
    - an error raised, or a worker that dies: the evaluation is repeated twice, then the trial fails. So it does at once
      for None, NaN, infinity or what is no number. A failed trial counts, is no candidate, and is not proposed again by
      the samplers of this library; `Result.failures` has the reasons;
    - 10 failures in a row, or nothing but failures: the evaluator is taken to be broken and the search ends. Those
      failures are not recorded; the next search evaluates their architectures again.

    Args:
        evaluator: `Architecture -> float`, higher is better. A generator of scores may be pruned in between. Its attribute
            `identity`, a text, says what makes its scores comparable; else see `nas.search.identity.evaluator_identity`.
        sampler: a name of `nas.search.samplers.SAMPLERS`, with `+repair` if wanted, or an Optuna sampler.
        storage: a journal file, an Optuna RDB URL (`sqlite:///...`), or None to keep the study in memory.
        workers: evaluations at once. One runs in this process; several are actors on Ray.
        seed: with one worker and a sampler by name, the search is reproducible, whether or not it was interrupted.
        name: of the study in the storage.
        pruner: for evaluators that yield scores at growing fidelity.
        address: of an existing Ray cluster; None starts Ray on this machine when there are several workers.
        gpus: per worker.
        join: share the study with other searches that run on it now; together they end `trials` trials. On a database
            server, where searches do not see one another, all of them must say so.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one.
        ConfigError: the storage holds a study of another space or evaluator, or is broken; or an unknown sampler.
        EvaluatorError: the evaluator is broken.
        LockedError: another search runs on the same file, and `join` is not set.
        StorageError: the storage failed, such as on a full disk; what finished is kept.
    """
    problem = Problem.build(space, cost, budget)
    return _search(problem, evaluator, trials, sampler, storage, name, seed, pruner, join, workers, address, gpus)


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
) -> Result:
    if seed is not None and seed < 0:
        raise ConfigError(f"seed: must be 0 or more, not {seed}")
    if solve(problem, np.zeros(len(problem.slot))) is None:
        raise infeasible(problem)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = make_sampler(sampler, problem, seed)
    with lock_study(storage, join) as lock, storage_errors(storage):
        study = load_or_create_study(open_storage(storage), name, problem, evaluator, without_password(storage))
        check_trials(study, problem.space, without_password(storage))
        study.sampler, study.pruner = sampler, pruner or optuna.pruners.NopPruner()
        loop = OptimizeLoop(study, problem, lock)
        lock.allow_joins()
        if isinstance(sampler, ArchitectureListSampler):
            trials = sampler.trials(loop)
        if loop.finished() < trials:
            local = workers == 1 and address is None and gpus == 0
            pool = LocalPool(evaluator) if local else RayPool(evaluator, workers, address, gpus)
            try:
                loop.run(pool, trials)
            finally:
                pool.close()
    return Result(study, problem.space, problem.cost, problem.budget)


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
    """Score the `k` best architectures of a search again with a better evaluator, such as training each for a while.

    Its own study, `name`, in the same kind of storage, and resumed like any other. `reevaluate_top_k(...).best` is the choice.
    """
    problem = Problem.build(result.space, result.cost, result.budget)
    listed = ArchitectureListSampler(result.top(k), problem)
    return _search(problem, evaluator, 0, listed, storage, name, 0, None, join, workers, address, gpus)


class ArchitectureListSampler(optuna.samplers.BaseSampler):
    """Proposes given architectures in turn."""

    def __init__(self, architectures: list[Architecture], problem: Problem) -> None:
        self.choices, self.problem = [architecture.choices for architecture in architectures], problem

    def trials(self, loop: OptimizeLoop) -> int:
        """How many trials the study has ended when each architecture of the list has been evaluated."""
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
        raise RuntimeError(f"no listed architecture has the parameter '{name}'")
