"""The optimization loop of a study: ask for architectures, evaluate them in a pool, tell the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.costs.budget import cost_of
from nas.progress import progress
from nas.search.ask_tell import as_failed, sample_params, tell, unsaved_trial
from nas.search.evaluators import EvaluatorError
from nas.search.problem import Problem
from nas.search.result import COSTS
from nas.search.samplers.base import distributions
from nas.search.storage import KEPT
from nas.search.study_lock import StudyLock
from nas.search.trial_history import is_reused
from nas.search.workers import EvaluationReport, Pool
from nas.spaces import Architecture

RETRIES = 2
"""Retries of an evaluation that raised an error or whose worker died, before its trial fails."""

FAILURES = 10
"""Consecutive failures after which the evaluator is assumed to be broken and the search ends."""

WORST_EXCESS = 10.0
"""Upper limit of a constraint, which is the relative excess over a bound; the value for what cannot run."""


class OptimizeLoop:
    """One run of a search on a study.

    A trial is written with its architecture, costs and constraints before its evaluation, and its score and state after
    it. A killed search therefore leaves complete trials in the state RUNNING; the next run evaluates them again under
    their own numbers and, with one worker, continues as if it had not been killed.

    Failures are recorded only once a later trial succeeds: a broken evaluator says nothing about its architectures,
    which the next run evaluates again.
    """

    def __init__(self, study: optuna.Study, problem: Problem, lock: StudyLock) -> None:
        self.study, self.problem, self.lock = study, problem, lock
        self.storage = study._storage
        self.slots = distributions(problem)
        self.running: dict[int, FrozenTrial] = {}
        self.attempts: dict[int, int] = {}
        self.steps: dict[int, int] = {}
        self.failures: list[tuple[FrozenTrial, str]] = []
        self.is_best_possible: Callable[[], bool] | None = None
        """Whether no better architecture exists than the best one so far, which ends the search; None: not asked."""
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if lock.exclusive else []
        self.left = sorted(left, key=lambda trial: trial.number)

    def finished(self) -> int:
        """Number of finished trials, without those whose scores come from another study."""
        return sum(is_ended(trial) for trial in self.study.get_trials(deepcopy=False)) + len(self.failures)

    def run(self, pool: Pool, trials: int) -> None:
        """
        Raises:
            EvaluatorError: the evaluator failed for `FAILURES` architectures in a row, or for all.
        """
        done = self.finished()
        with progress(None, "search", trials, done, unit="trial") as bar:
            while True:
                self._begin_trials(pool, trials)
                if not self.running:
                    break
                number, report = pool.wait()
                self._handle(pool, number, report)
                finished = self.finished()
                bar.update(finished - done)
                done = finished
        self._record_failures(last=True)

    def _begin_trials(self, pool: Pool, trials: int) -> None:
        while len(self.running) < pool.workers:
            with self.lock.starting_trial():
                if self.finished() + self._in_progress() >= trials:
                    return
                if self.is_best_possible is not None and self.is_best_possible():
                    return
                trial, arch = self._next()
            if reason := self._known_failure(trial):
                self._tell_failed(trial, reason)
                continue
            self.running[trial.number] = trial
            pool.begin(trial.number, arch)

    def _in_progress(self) -> int:
        """Number of trials being evaluated, by this search and those that share the study."""
        if self.lock.exclusive and not self.lock.is_shared():
            return len(self.running)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(running) - len(self.failures) - len(self.left)

    def _next(self) -> tuple[FrozenTrial, Architecture]:
        """The next trial and its architecture: interrupted, enqueued or new, in this order."""
        if self.left:
            return self._completed(self.left.pop(0))
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:
            if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return self._completed(trial)
        number = self.storage.get_n_trials(self.study._study_id)
        trial = unsaved_trial(number)
        arch = self._fill(trial)
        trial.datetime_start = datetime.now()
        trial_id = self.storage.create_new_trial(self.study._study_id, template_trial=trial)
        return self.storage.get_trial(trial_id), arch

    def _completed(self, trial: FrozenTrial) -> tuple[FrozenTrial, Architecture]:
        """A stored trial, after its missing parameters and attributes were written."""
        full = unsaved_trial(trial.number, trial)
        arch = self._fill(full)
        for slot, distribution in self.slots.items():
            if slot not in trial.params:
                value = distribution.to_internal_repr(full.params[slot])
                self.storage.set_trial_param(trial._trial_id, slot, value, distribution)
        for key, value in full.user_attrs.items():
            if trial.user_attrs.get(key) != value:
                self.storage.set_trial_user_attr(trial._trial_id, key, value)
        for key, value in full.system_attrs.items():
            if trial.system_attrs.get(key) != value:
                self.storage.set_trial_system_attr(trial._trial_id, key, value)
        return self.storage.get_trial(trial._trial_id), arch

    def _fill(self, trial: FrozenTrial) -> Architecture:
        """Sample the architecture of an unsaved trial, and set its costs and constraints."""
        sample_params(self.study, trial, self.slots, [as_failed(*failure) for failure in self.failures])
        arch = self.problem.space.architecture({slot: trial.params[slot] for slot in self.slots})
        set_costs(trial, arch, self.problem)
        return arch

    def _handle(self, pool: Pool, number: int, report: EvaluationReport) -> None:
        """Record a worker's report."""
        trial = self.running[number]
        if report.error:
            self._fail(pool, trial, report)
        elif report.pruned:
            self._end(trial, TrialState.PRUNED)
        elif report.final:
            self._end(trial, TrialState.COMPLETE, report.score)
        elif self._is_pruned_at(trial, report.score):
            pool.stop(number)
            self._end(trial, TrialState.PRUNED)
        else:
            pool.resume(number)

    def _is_pruned_at(self, trial: FrozenTrial, score: float) -> bool:
        """Store an intermediate score and ask the pruner. A repeated evaluation is not pruned before the step it had reached."""
        step = self.steps[trial.number] = self.steps.get(trial.number, -1) + 1
        self.storage.set_trial_intermediate_value(trial._trial_id, step, score)
        known = self.storage.get_trial(trial._trial_id)
        if known.last_step is not None and known.last_step > step:
            return False
        study = optuna.pruners._filter_study(self.study, known)
        return self.study.pruner.prune(study, known)

    def _end(self, trial: FrozenTrial, state: TrialState, score: float | None = None) -> None:
        self._record_failures()
        self._remove_running(trial)
        if state == TrialState.PRUNED:  # as in Optuna, the last intermediate value is the score
            known = self.storage.get_trial(trial._trial_id)
            step = known.last_step
            last = None if step is None else known.intermediate_values.get(step)
            score = last if last is not None and math.isfinite(last) else None
        tell(self.study, self.storage.get_trial(trial._trial_id), state, score)

    def _fail(self, pool: Pool, trial: FrozenTrial, report: EvaluationReport) -> None:
        """Retry the evaluation, or count its trial as failed.

        Raises:
            EvaluatorError: the evaluator is broken.
        """
        number = trial.number
        if report.broken:
            raise EvaluatorError(f"the evaluator cannot be used: {report.error}; {KEPT}")
        self.attempts[number] = self.attempts.get(number, 0) + 1
        if report.retryable and self.attempts[number] <= RETRIES:
            self.steps.pop(number, None)
            arch = self.problem.space.architecture({slot: trial.params[slot] for slot in self.slots})
            pool.begin(number, arch)
            return
        self._remove_running(trial)
        self.failures.append((trial, report.error))
        if len(self.failures) >= FAILURES:
            raise self._broken(f"{len(self.failures)} architectures in a row")

    def _record_failures(self, last: bool = False) -> None:
        """
        Raises:
            EvaluatorError: at the end of the search, if no trial has succeeded.
        """
        if last and self.failures and not any(is_scored(trial) for trial in self.study.get_trials(deepcopy=False)):
            raise self._broken("every architecture")
        while self.failures:
            self._tell_failed(*self.failures[0])
            self.failures.pop(0)

    def _tell_failed(self, trial: FrozenTrial, reason: str) -> None:
        if trial.user_attrs.get("error") != reason:
            self.storage.set_trial_user_attr(trial._trial_id, "error", reason)
        tell(self.study, self.storage.get_trial(trial._trial_id), TrialState.FAIL)

    def _known_failure(self, trial: FrozenTrial) -> str:
        """Why an earlier trial of the same architecture failed; empty if none did, or if a user enqueued this one.

        Optuna's samplers may propose it again.
        """
        if "fixed_params" in trial.system_attrs:
            return ""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        reasons = (other.user_attrs.get("error", "") for other in failed if other.params == trial.params)
        return next(filter(None, reasons), "")

    def _broken(self, what: str) -> EvaluatorError:
        return EvaluatorError(f"the evaluator failed for {what}, the last time with: {self.failures[-1][1]}; {KEPT}")

    def _remove_running(self, trial: FrozenTrial) -> None:
        del self.running[trial.number]
        self.attempts.pop(trial.number, None)
        self.steps.pop(trial.number, None)


def set_costs(trial: FrozenTrial, arch: Architecture, problem: Problem) -> None:
    """Set the attributes and constraints of an unsaved trial: the costs, and their relative excess over the budget."""
    costs = problem.cost.predict(arch)
    runs = math.isfinite(costs.latency_ms)
    trial.user_attrs["choices"] = arch.choices
    for name in [*COSTS, *(f"{name}@{device}" for device in costs.devices for name in COSTS)]:
        value = cost_of(costs, name)
        trial.user_attrs[name] = value if math.isfinite(value) or not name.startswith("latency_ms") else None
    trial.set_constraint("runs", -1.0 if runs else WORST_EXCESS)
    for name, bound in problem.budget.bounds().items():
        trial.set_constraint(name, min(cost_of(costs, name) / bound - 1.0, WORST_EXCESS))
    if problem.constraints:
        columns = problem.columns(problem.space.encode(arch))
        for count in problem.counts:
            trial.set_constraint(count.text, float(count.excess(columns[None])[0]))
        trial.set_constraint("choices", float((~problem.permitted[columns]).sum()) or -1.0)


def is_ended(trial: FrozenTrial) -> bool:
    """Whether a trial counts toward `trials`: complete, pruned, or failed because of its architecture."""
    failed = trial.state == TrialState.FAIL and "error" in trial.user_attrs
    return not is_reused(trial) and (failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED))


def is_scored(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
