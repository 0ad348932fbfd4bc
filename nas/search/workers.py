"""Where evaluators run: in this process for one worker, as Ray actors for several.

Both pools have the same four methods, so the driver in `nas.search.study` knows one way to wait for a score.
An evaluator that returns a generator of scores at growing fidelity is resumed step by step, so that the driver can
prune it in between.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nas.errors import ConfigError
from nas.spaces import Architecture

CONNECT_S = 5.0
"""How long a Ray cluster may take to answer at its address; Ray itself would wait for two minutes."""

Evaluator = Callable[[Architecture], "float | Generator[float, None, None]"]


@dataclass(frozen=True)
class Report:
    """What a worker says of a trial: a score, the last one when `final`; or an error, with `lost` when it died."""

    score: float = float("nan")
    final: bool = True
    error: str = ""
    lost: bool = False


class Worker:
    """Runs one evaluation at a time; the class of the Ray actors, too."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.steps: Generator[float, None, None] | None = None
        self.last = float("nan")

    def begin(self, arch: Architecture) -> tuple[float, bool]:
        """The score and True, or the first of several scores and False."""
        score = self.evaluator(arch)
        if isinstance(score, Generator):
            self.steps = score
            return self.resume()
        return float(score), True

    def resume(self) -> tuple[float, bool]:
        """The next score and False, or the last one again and True."""
        try:
            self.last = float(next(self.steps))
        except StopIteration:
            return self.last, True
        return self.last, False

    def stop(self) -> None:
        self.steps.close()


class InProcess:
    """One worker: this process. An evaluation runs while the driver waits for it."""

    workers = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self.worker = Worker(evaluator)
        self.task: tuple[int, Callable[[], tuple[float, bool]]] | None = None

    def begin(self, trial: int, arch: Architecture) -> None:
        self.task = (trial, lambda: self.worker.begin(arch))

    def resume(self, trial: int) -> None:
        self.task = (trial, self.worker.resume)

    def stop(self, trial: int) -> None:
        self.worker.stop()

    def wait(self) -> tuple[int, Report]:
        """The next trial that has something to say, and what."""
        trial, task = self.task
        try:
            return trial, Report(*task())
        except Exception as error:
            return trial, Report(error=describe(error))

    def close(self) -> None:
        pass


class RayPool:
    """Actors on a Ray cluster: one that this process starts, or an existing one by its address.

    An actor that dies is replaced; its trial is reported as lost. The evaluator is pickled once into the object store.

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
                    _knock(address)
                ray.init(address=address, log_to_driver=True, logging_level="warning", configure_logging=False, **local)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"no Ray cluster at '{address}' ({describe(error)}); start one with 'ray start --head', or leave "
                    "the address out to run on this machine"
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

    def wait(self) -> tuple[int, Report]:
        """The next trial that has something to say, and what."""
        ready, _ = self.ray.wait(list(self.tasks), num_returns=1)
        trial = self.tasks.pop(ready[0])
        try:
            report = Report(*self.ray.get(ready[0]))
        except self.ray.exceptions.RayActorError as error:
            self.busy[trial] = self.actor.remote(self.evaluator)
            report = Report(error=describe(error), lost=True)
        except self.ray.exceptions.RayTaskError as error:
            report = Report(error=describe(error.cause or error))
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


def _knock(address: str) -> None:
    """
    Raises:
        OSError: nothing answers where an address with a host and a port points.
        ValueError: its port is no port.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()


def describe(error: BaseException) -> str:
    """One line: the kind of error and its text."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
