"""The loop of a search: asks for architectures, has them scored, and records what came of each."""

from __future__ import annotations

import math
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.progress import progress
from nas.search.ask_tell import as_failed, sample_params, tell, unsaved_trial
from nas.search.evaluators import EvaluatorError
from nas.search.problem import Problem
from nas.search.result import COSTS
from nas.search.samplers.base import distributions
from nas.search.storage import KEPT
from nas.search.study_lock import StudyLock
from nas.search.trial_history import is_reused
from nas.search.workers import EvaluationReport, LocalPool, RayPool
from nas.spaces import Architecture

RETRIES = 2
"""How often an evaluation is repeated that raised an error, or whose worker died, before its trial fails."""

FAILURES = 10
"""After as many failed trials in a row the evaluator is taken to be broken, and the search ends."""

WORST_EXCESS = 10.0
"""Constraints are relative excesses over the bounds; what cannot run at all exceeds by this much."""


class OptimizeLoop:
    """One search of a study.

    A trial is stored in one step, with its architecture, costs and constraints, before its evaluation begins, and its
    score and state in another. So a search that is killed leaves whole trials that run: the next one repeats them under
    their own numbers, and with one worker goes on as if it had not been killed.

    Failures in a row are recorded once a trial succeeds: a broken tool says nothing about the architectures that met it,
    and the next search repeats them.
    """

    def __init__(self, study: optuna.Study, problem: Problem, lock: StudyLock) -> None:
        self.study, self.problem, self.lock = study, problem, lock
        self.storage = study._storage
        self.slots = distributions(problem)
        self.running: dict[int, FrozenTrial] = {}
        self.attempts: dict[int, int] = {}
        self.steps: dict[int, int] = {}
        self.failures: list[tuple[FrozenTrial, str]] = []
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if lock.exclusive else []
        self.left = sorted(left, key=lambda trial: trial.number)

    def finished(self) -> int:
        """Trials that this study's searches have ended; not those whose scores come from another study."""
        return sum(is_ended(trial) for trial in self.study.get_trials(deepcopy=False)) + len(self.failures)

    def run(self, pool: LocalPool | RayPool, trials: int) -> None:
        """
        Raises:
            EvaluatorError: the evaluator failed for `FAILURES` architectures in a row, or for every one.
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

    def _begin_trials(self, pool: LocalPool | RayPool, trials: int) -> None:
        while len(self.running) < pool.workers:
            with self.lock.starting_trial():
                if self.finished() + self._in_progress() >= trials:
                    return
                trial, arch = self._next()
            self.running[trial.number] = trial
            pool.begin(trial.number, arch)

    def _in_progress(self) -> int:
        """Trials that are being evaluated, here or by searches that share the study."""
        if self.lock.exclusive and not self.lock.is_shared():
            return len(self.running)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(running) - len(self.failures) - len(self.left)

    def _next(self) -> tuple[FrozenTrial, Architecture]:
        """The trial to evaluate, and its architecture: one that was interrupted, one that was queued, or a new one."""
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
        """A trial of the storage, with what it lacks written."""
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
        """Give a draft its architecture, and that one's costs and constraints."""
        sample_params(self.study, trial, self.slots, [as_failed(*failure) for failure in self.failures])
        arch = self.problem.space.architecture({slot: trial.params[slot] for slot in self.slots})
        set_costs(trial, arch, self.problem)
        return arch

    def _handle(self, pool: LocalPool | RayPool, number: int, report: EvaluationReport) -> None:
        """Record what a worker says."""
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
        """Store the next of several scores. An evaluation that is repeated was not pruned where it had gone on before."""
        step = self.steps[trial.number] = self.steps.get(trial.number, -1) + 1
        self.storage.set_trial_intermediate_value(trial._trial_id, step, score)
        known = self.storage.get_trial(trial._trial_id)
        if known.last_step is not None and known.last_step > step:
            return False
        study = optuna.pruners._filter_study(self.study, known)
        return self.study.pruner.prune(study, known)

    def _end(self, trial: FrozenTrial, state: TrialState, score: float | None = None) -> None:
        self._record_failures()
        self._forget(trial)
        if state == TrialState.PRUNED:  # as Optuna does: its last score counts
            known = self.storage.get_trial(trial._trial_id)
            last = known.intermediate_values.get(known.last_step)
            score = last if last is not None and math.isfinite(last) else None
        tell(self.study, self.storage.get_trial(trial._trial_id), state, score)

    def _fail(self, pool: LocalPool | RayPool, trial: FrozenTrial, report: EvaluationReport) -> None:
        """Repeat the evaluation, or note that its trial fails.

        Raises:
            EvaluatorError: the evaluator is broken, not this architecture.
        """
        number = trial.number
        if report.broken:
            raise EvaluatorError(f"the evaluator cannot be used: {report.error}; {KEPT}")
        self.attempts[number] = self.attempts.get(number, 0) + 1
        if report.again and self.attempts[number] <= RETRIES:
            self.steps.pop(number, None)
            arch = self.problem.space.architecture({slot: trial.params[slot] for slot in self.slots})
            pool.begin(number, arch)
            return
        self._forget(trial)
        self.failures.append((trial, report.error))
        if len(self.failures) >= FAILURES:
            raise self._broken(f"{len(self.failures)} architectures in a row")

    def _record_failures(self, last: bool = False) -> None:
        """
        Raises:
            EvaluatorError: it is the end, and nothing has succeeded.
        """
        if last and self.failures and not any(is_scored(trial) for trial in self.study.get_trials(deepcopy=False)):
            raise self._broken("every architecture")
        while self.failures:
            trial, reason = self.failures[0]
            if trial.user_attrs.get("error") != reason:
                self.storage.set_trial_user_attr(trial._trial_id, "error", reason)
            tell(self.study, self.storage.get_trial(trial._trial_id), TrialState.FAIL)
            self.failures.pop(0)

    def _broken(self, what: str) -> EvaluatorError:
        return EvaluatorError(f"the evaluator failed for {what}, the last time with: {self.failures[-1][1]}; {KEPT}")

    def _forget(self, trial: FrozenTrial) -> None:
        del self.running[trial.number]
        self.attempts.pop(trial.number, None)
        self.steps.pop(trial.number, None)


def set_costs(trial: FrozenTrial, arch: Architecture, problem: Problem) -> None:
    """Give a draft its architecture's costs, and how far they exceed the budget."""
    costs = problem.cost.predict(arch)
    runs = math.isfinite(costs.latency_ms)
    trial.user_attrs["choices"] = arch.choices
    for name in COSTS:
        value = getattr(costs, name)
        trial.user_attrs[name] = value if runs or name != "latency_ms" else None
    trial.set_constraint("runs", -1.0 if runs else WORST_EXCESS)
    for name, bound in problem.budget.bounds().items():
        trial.set_constraint(name, min(getattr(costs, name) / bound - 1.0, WORST_EXCESS))


def is_ended(trial: FrozenTrial) -> bool:
    """Whether a trial counts as one of a search's: scored, pruned, or failed because of its architecture."""
    failed = trial.state == TrialState.FAIL and "error" in trial.user_attrs
    return not is_reused(trial) and (failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED))


def is_scored(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
