"""What rank 0 writes and prints about the steps of a run, beside their history."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from nas.training.telemetry import throughput
from nas.training.telemetry.history import History
from nas.training.telemetry.loggers import Loggers, Run
from nas.training.telemetry.throughput import THROUGHPUT, WINDOW, StepTimer, long_text, short_text
from nas.training.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from nas.training.learner import Learner


class Recorder:
    """Throughput, experiment loggers and a profiler's trace.

    Args:
        title: of the stage.
        numbers: the steps that will be taken.
        learners: report to its timer what they begin; the first one's execution says what to record.
    """

    def __init__(self, title: str, folder: Path, numbers: range, learners: Mapping[str, Learner]) -> None:
        first = next(iter(learners.values()))
        execution, device = first.execution, first.device
        peak = execution.peak_tflops or throughput.peak_tflops(device, execution.precision)
        self._title, self._numbers, self._last = title, numbers, {}
        self._timer = StepTimer(device, peak, execution.compile)
        for learner in learners.values():
            learner.timer = self._timer
        self._throughput = History(folder, numbers.start, THROUGHPUT)
        self._loggers = Loggers(execution.loggers, Run(folder, title, numbers.start))
        self._tracer = Tracer(folder, execution.profile_steps, numbers, device)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Time and trace the step that is taken inside."""
        with self._tracer.step(number), self._timer.step():
            yield

    def add(self, step: int, row: Mapping[str, float]) -> str:
        """Log a row of the history.

        Returns:
            The throughput in a few words, where a window of steps ends; otherwise nothing.
        """
        self._loggers.add(step, row)
        measured = self._timer.row() if step % WINDOW == 0 or step == self._numbers.stop else {}
        if not measured:
            return ""
        self._throughput.append(step, measured)
        self._loggers.add(step, {f"throughput/{name}": value for name, value in measured.items()})
        self._last = measured
        return short_text(measured)

    def close(self, failed: bool) -> None:
        """Close the files, end the logged runs, and print the throughput of the last window."""
        self._loggers.close(failed)
        self._throughput.close()
        if self._last and not failed:
            tqdm.write(f"{self._title}: {long_text(self._last)}", file=sys.stderr)
