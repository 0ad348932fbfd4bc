"""Worker pools that run evaluators: this process for one worker or for batches, Ray actors for several workers.

All pools have the same methods. An evaluator that returns a generator of intermediate scores is advanced step by step,
so that its trial can be pruned.
"""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nas.errors import ConfigError, MissingDependency, NasError, SpaceError
from nas.spaces import Architecture

CONNECT_S = 5.0
"""Connection timeout for a Ray cluster's address; Ray itself waits for two minutes."""

Evaluator = Callable[[Architecture], "float | Generator[float, None, None]"]


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of one step of an evaluation: a score (`final` or intermediate), pruned, or an error.

    Attributes:
        pruned: the evaluator raised `TrialPruned` or returned -inf.
        retryable: a repeated evaluation may succeed.
        broken: the error does not depend on the architecture, such as a package that is not installed.
    """

    score: float = float("nan")
    final: bool = True
    error: str = ""
    pruned: bool = False
    retryable: bool = False
    broken: bool = False


class Worker:
    """Runs one evaluation at a time, in this process or as a Ray actor."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.steps: Generator[float, None, None] | None = None
        self.last: Any = None

    def begin(self, arch: Architecture) -> EvaluationReport:
        """Start an evaluation; the report of its score, or of the first of several."""
        return self._report(lambda: self._begin(arch))

    def resume(self) -> EvaluationReport:
        """The report of the next score of a generator; of the last one again, as final, at its end."""
        return self._report(self._resume)

    def stop(self) -> None:
        if self.steps is not None:
            self.steps.close()

    def _begin(self, arch: Architecture) -> tuple[Any, bool]:
        self.last = None
        answer = self.evaluator(arch)
        if isinstance(answer, Generator):
            self.steps = answer
            return self._resume()
        return answer, True

    def _resume(self) -> tuple[Any, bool]:
        if self.steps is None:
            raise RuntimeError("no evaluation was started")
        try:
            self.last = next(self.steps)
        except StopIteration:
            return self.last, True
        return self.last, False

    def _report(self, step: Callable[[], tuple[Any, bool]]) -> EvaluationReport:
        try:
            answer, final = step()
            return read_score(answer, final)
        except NasError as error:
            broken = isinstance(error, ConfigError | MissingDependency) and not isinstance(error, SpaceError)
            return EvaluationReport(error=describe(error), broken=broken)
        except (Exception, SystemExit) as error:
            if is_pruned(error):
                return EvaluationReport(pruned=True)
            return EvaluationReport(error=describe(error), retryable=True)


def is_pruned(error: BaseException) -> bool:
    """Whether it is `optuna.TrialPruned`; workers need not import Optuna."""
    return any(kind.__module__.startswith("optuna.") and kind.__name__ == "TrialPruned" for kind in type(error).__mro__)


def read_score(answer: Any, final: bool = True) -> EvaluationReport:
    """The report of an evaluator's return value.

    A finite number (NumPy scalars and zero-dimensional tensors included) is a score, and -inf prunes the trial. None,
    NaN, infinity and anything that is not a number are errors, which are not retried.
    """
    if answer is None:
        return EvaluationReport(error="the score is None")
    kind = str(getattr(answer, "dtype", ""))
    no_number = isinstance(answer, bool | str | bytes | complex) or "bool" in kind or "complex" in kind
    if no_number or int(getattr(answer, "ndim", 0)) > 0 or not hasattr(answer, "__float__"):
        shown = " ".join(repr(answer).split())[:60]
        return EvaluationReport(error=f"the score must be a number, not {type(answer).__name__} {shown}")
    try:
        score = float(answer)
    except (TypeError, ValueError, OverflowError) as error:
        return EvaluationReport(error=f"the score must be a number: {describe(error)}")
    if score == -math.inf:
        return EvaluationReport(pruned=True)
    if not math.isfinite(score):
        return EvaluationReport(error=f"the score is {score}, not a finite number")
    return EvaluationReport(score, final)


class LocalPool:
    """One worker: this process. `wait` runs the evaluation."""

    workers = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self.worker = Worker(evaluator)
        self.task: tuple[int, Callable[[], EvaluationReport]] | None = None

    def begin(self, trial: int, arch: Architecture) -> None:
        self.task = (trial, lambda: self.worker.begin(arch))

    def resume(self, trial: int) -> None:
        self.task = (trial, self.worker.resume)

    def stop(self, trial: int) -> None:
        self.worker.stop()

    def wait(self) -> tuple[int, EvaluationReport]:
        """The number of the next trial with a report, and the report."""
        if self.task is None:
            raise RuntimeError("no evaluation was started")
        trial, task = self.task
        return trial, task()

    def close(self) -> None:
        pass


class BulkPool:
    """This process, with an evaluator whose method `score_many` scores a list of architectures.

    `wait` evaluates all architectures that were begun since the last time together. If that fails, each is evaluated by
    itself, so that a failure is that of one architecture.

    Args:
        batch: how many architectures are evaluated together.
    """

    def __init__(self, evaluator: Evaluator, batch: int) -> None:
        score_many = getattr(evaluator, "score_many", None)
        if not callable(score_many):
            raise ConfigError(
                "batch: this evaluator has no score_many, so it scores one architecture at a time; omit it"
            )
        self.workers, self.score_many, self.worker = batch, score_many, Worker(evaluator)
        self.begun: list[tuple[int, Architecture]] = []
        self.reports: list[tuple[int, EvaluationReport]] = []

    def begin(self, trial: int, arch: Architecture) -> None:
        self.begun.append((trial, arch))

    def resume(self, trial: int) -> None:
        raise RuntimeError("an evaluator with score_many returns scores, not generators of them")

    def stop(self, trial: int) -> None:
        pass

    def wait(self) -> tuple[int, EvaluationReport]:
        """The number of the next trial with a report, and the report."""
        if not self.reports:
            begun, self.begun = self.begun, []
            self.reports = self._evaluate(begun)
        return self.reports.pop(0)

    def _evaluate(self, begun: list[tuple[int, Architecture]]) -> list[tuple[int, EvaluationReport]]:
        try:
            scores = list(self.score_many([arch for _, arch in begun]))
        except Exception:
            scores = []
        if len(scores) == len(begun):
            return [(trial, read_score(score)) for (trial, _), score in zip(begun, scores)]
        return [(trial, self.worker.begin(arch)) for trial, arch in begun]

    def close(self) -> None:
        pass


class RayPool:
    """Actors on a Ray cluster: one that this process starts, or an existing one by its address.

    An actor that dies is replaced, and its trial reported as a retryable error. The evaluator is pickled once.

    Args:
        workers: how many evaluations run at once.
        address: of an existing cluster (`auto`, `ray://host:10001`); None starts one on this machine.
        gpus: per worker; fractions share one.
    """

    def __init__(self, evaluator: Evaluator, workers: int, address: str | None, gpus: float) -> None:
        import ray

        self.ray, self.workers, self.owner = ray, workers, not ray.is_initialized()
        if self.owner:
            # evaluators are unpickled by workers, which must find the modules that this process finds
            path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            local = {"num_cpus": workers, "include_dashboard": False, "runtime_env": {"env_vars": path}}
            local = {} if address else local
            try:
                if address:
                    _check_reachable(address)
                ray.init(address=address, log_to_driver=True, logging_level="warning", configure_logging=False, **local)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"no Ray cluster at '{address}' ({describe(error)}); start one with 'ray start --head', or omit "
                    "the address to run on this machine"
                ) from None
        resources = ray.cluster_resources()
        if gpus * workers > resources.get("GPU", 0):
            self._disconnect()
            raise ConfigError(
                f"{workers} workers with {gpus:g} GPU each need {gpus * workers:g} GPUs, "
                f"the Ray cluster has {resources.get('GPU', 0):g}; ask for fewer"
            )
        self.evaluator = ray.put(evaluator)
        self.actor = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus)
        self.idle: list[Any] = [self.actor.remote(self.evaluator) for _ in range(workers)]
        self.busy: dict[int, Any] = {}
        self.tasks: dict[Any, int] = {}

    def begin(self, trial: int, arch: Architecture) -> None:
        self.busy[trial] = self.idle.pop(0)
        self.tasks[self.busy[trial].begin.remote(arch)] = trial

    def resume(self, trial: int) -> None:
        self.tasks[self.busy[trial].resume.remote()] = trial

    def stop(self, trial: int) -> None:
        actor = self.busy.pop(trial)
        actor.stop.remote()
        self.idle.append(actor)

    def wait(self) -> tuple[int, EvaluationReport]:
        """The number of the next trial with a report, and the report."""
        ready, _ = self.ray.wait(list(self.tasks), num_returns=1)
        trial = self.tasks.pop(ready[0])
        try:
            report = self.ray.get(ready[0])
        except self.ray.exceptions.RayActorError as error:
            self.busy[trial] = self.actor.remote(self.evaluator)
            report = EvaluationReport(error=describe(error), retryable=True)
        except self.ray.exceptions.RayTaskError as error:
            report = EvaluationReport(error=describe(error.cause or error), retryable=True)
        if report.final:
            self.idle.append(self.busy.pop(trial))
        return trial, report

    def close(self) -> None:
        for actor in [*self.idle, *self.busy.values()]:
            self.ray.kill(actor)
        self._disconnect()

    def _disconnect(self) -> None:
        if self.owner:
            self.ray.shutdown()


Pool = LocalPool | BulkPool | RayPool


def _check_reachable(address: str) -> None:
    """
    Raises:
        OSError: nothing listens at the host and port.
        ValueError: an invalid port.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()


def describe(error: BaseException) -> str:
    """One line: the kind of error and its text."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
