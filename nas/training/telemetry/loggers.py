"""Experiment loggers: TensorBoard, Weights & Biases and MLflow get each row of the history and of the throughput.

A stage that is resumed continues its run of W&B and of MLflow: it is found by the id in `run-id.txt` of the stage's folder.
Where they send it to is theirs to say: `wandb login`, WANDB_PROJECT and WANDB_MODE; MLFLOW_TRACKING_URI and
MLFLOW_EXPERIMENT_NAME. Both the project and the experiment are `nas` by default.

A logger that fails while a stage trains is left out from then on, with a warning.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nas.errors import ConfigError, MissingDependency, suggestion
from nas.files import read_json, read_text, write_atomic

RUN_ID = "run-id.txt"
PROJECT = "nas"
FLUSH_ROWS, FLUSH_S = 50, 10.0
"""MLflow gets so many rows at once, or those of so many seconds: each time is a request."""


@dataclass(frozen=True)
class Run:
    """The training run that is logged.

    Attributes:
        folder: of the stage.
        title: its name.
        steps_done: the step of the saved state; later steps are repeated, with the same values.
    """

    folder: Path
    title: str
    steps_done: int

    def id(self) -> str:
        """What stays the same however often the stage is resumed."""
        path = self.folder / RUN_ID
        if not path.exists():
            write_atomic(path, f"{uuid.uuid4().hex[:16]}\n")
        return read_text(path, "id of the logged run").strip()

    def name(self) -> str:
        """The name to show: the stage and the folder that it is in."""
        return f"{self.folder.absolute().parent.name}/{self.title}"

    def config(self) -> dict[str, Any]:
        """What the stage was started with."""
        path = self.folder / "stage.json"
        return read_json(path, "stage", dict) if path.exists() else {}


class Logger(Protocol):
    """A run in the making."""

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Log values of a step."""

    def close(self, failed: bool) -> None:
        """End the run."""


class TensorBoardLog:
    """Event files in the stage's folder `tensorboard`; steps that are repeated are replaced."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _without_tensorboard  # its writer thread prints a traceback when the disk is full
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.steps_done + 1)

    def add(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases."""

    def __init__(self, run: Run) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id(),
            name=run.name(),
            dir=str(run.folder),
            config=run.config(),
            resume="allow",
        )

    def add(self, step: int, row: Mapping[str, float]) -> None:
        if step >= self._run.step:  # it refuses a step again
            self._run.log(dict(row), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MlflowLog:
    """A run of MLflow, which it finds by the tag `nas_run`."""

    def __init__(self, run: Run) -> None:
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.nas_run = '{run.id()}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
        else:
            created = self._client.create_run(experiment, tags={"nas_run": run.id()}, run_name=run.name())
            self._id = created.info.run_id
            for key, value in _flat(run.config()).items():
                self._client.log_param(self._id, key, str(value)[:500])
        self._rows: list[Any] = []
        self._sent = time.monotonic()

    def add(self, step: int, row: Mapping[str, float]) -> None:
        now, metric = int(time.time() * 1000), self._entities.Metric
        self._rows += [metric(name, value, now, step) for name, value in row.items() if math.isfinite(value)]
        if len(self._rows) >= FLUSH_ROWS * max(1, len(row)) or time.monotonic() - self._sent > FLUSH_S:
            self._send()

    def close(self, failed: bool) -> None:
        self._send()
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _send(self) -> None:
        for start in range(0, len(self._rows), 1000):  # what it accepts at once
            self._client.log_batch(self._id, metrics=self._rows[start : start + 1000])
        self._rows, self._sent = [], time.monotonic()


@dataclass(frozen=True)
class _Kind:
    open: type[Logger]
    module: str


KINDS = {
    "tensorboard": _Kind(TensorBoardLog, "torch.utils.tensorboard"),
    "wandb": _Kind(WandbLog, "wandb"),
    "mlflow": _Kind(MlflowLog, "mlflow"),
}


def check_installed(names: Sequence[str], where: str = "") -> None:
    """Check the loggers before other work.

    Args:
        where: what errors begin with, such as the file and the key that hold the options.

    Raises:
        ConfigError: an unknown logger.
        MissingDependency: one that is not installed.
    """
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"{where}loggers: unknown logger '{name}'{suggestion(name, KINDS)}")
        if not _is_installed(name):
            raise MissingDependency(f"{where}loggers: {name} is not installed; run: pip install {name}")


class Loggers:
    """The loggers of a run.

    Args:
        names: None for TensorBoard if it is installed.

    Raises:
        MissingDependency: as `check_installed`.
        ConfigError: as `check_installed`, or a run cannot be opened.
    """

    def __init__(self, names: Sequence[str] | None, run: Run) -> None:
        self._folder, self._open = run.folder, {}
        if names is None:
            names = ("tensorboard",) if _is_installed("tensorboard") else ()
        check_installed(names)
        for name in names:
            try:
                self._open[name] = KINDS[name].open(run)
            except OSError as error:
                self._leave_out(name, error)
            except Exception as error:  # whatever the package raises, such as that nobody is logged in
                raise ConfigError(f"loggers: {name}: {_reason(error)}; log in, or leave it out") from None

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Log values of a step."""
        for name, logger in list(self._open.items()):
            try:
                logger.add(step, row)
            except Exception as error:  # training must not end because of it
                self._leave_out(name, error)

    def close(self, failed: bool = False) -> None:
        """End the runs."""
        for name, logger in list(self._open.items()):
            try:
                logger.close(failed)
            except Exception as error:  # likewise
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        what = f"warning: {self._folder}: {name}: cannot be written and is not updated any more: {_reason(error)}"
        tqdm.write(what, file=sys.stderr)


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(KINDS[name].module)
    except ImportError:
        return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _without_tensorboard(failed: threading.ExceptHookArgs) -> None:
    """The default hook, except for disk errors in tensorboard's thread, which are raised again where it is used."""
    module = type(failed.thread).__module__
    if not (module.startswith("tensorboard") and issubclass(failed.exc_type, OSError)):
        threading.__excepthook__(failed)
