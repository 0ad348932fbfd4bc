"""The training loop of all stages: takes steps, writes the history, saves the state, resumes bit for bit.

The inputs of a step (data, noise, timesteps, paths) are a function of (seed, step), so the training state consists of
weights, optimizer moments, EMA weights and the number of steps; no random state is saved. A stage folder holds::

    stage.json          the stage and its configuration; another configuration is refused
    state.safetensors   weights, moments, EMA weights and the step, written atomically; removed when the stage is finished
    state-STEP/         the same, saved by several workers; see `nas.training.states`
    state-STEP...       older states, if `ExecutionConfig.keep` is above 1; to go back, rename one to state.safetensors, or remove
                        the newer folders
    history.csv         step, loss, ...; one row per step
    warnings.txt        the warnings of the monitors, if any
    throughput.csv      clips per second, parts of a step, FLOP/s, memory: see `nas.training.telemetry.throughput`
    tensorboard/        both for TensorBoard, if it is installed; see `nas.training.telemetry.loggers` for others
    profile/            the trace of a few steps, if `ExecutionConfig.profile_steps` asks for it
    result.json         written last: the stage is finished
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from nas import distributed
from nas.errors import NasError
from nas.progress import progress
from nas.training import states
from nas.training.learner import Learner
from nas.training.monitors import HistoryMonitor
from nas.training.telemetry.history import History, by_share, read_history
from nas.training.telemetry.recorder import Recorder

WARNINGS = "warnings.txt"


def run(
    title: str,
    folder: Path,
    steps: int,
    learners: Mapping[str, Learner],
    step: Callable[[int], Mapping[str, float]],
    save_every: int,
) -> float:
    """Take steps 0 .. steps-1, resuming from the state in the folder, and save the state every `save_every` steps.

    All workers take the steps; rank 0 writes the files, but each worker its part of the states.

    Args:
        step: takes the step of this number and returns its row of the history, which is averaged over the workers.

    Returns:
        Seconds spent, including earlier interrupted runs up to their last saved state.

    Raises:
        ConfigError: the folder's state is of another model, or damaged.
        NasError: the training diverged: the weights are not finite when the state is to be saved, or the loss is not
            finite at the last step. That state is not saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, before = states.restore(folder, learners)
    started = time.monotonic()

    def seconds() -> float:
        return before + time.monotonic() - started

    with states.StateWriter(folder, learners) as writer:

        def save_at(number: int, row: Mapping[str, float]) -> None:
            if number + 1 == steps:
                _check_end(title, row, learners)
            if (number + 1) % save_every == 0 or number + 1 == steps:
                writer.save(number + 1, seconds())

        if distributed.is_main():
            _take_and_record(title, folder, range(done, steps), learners, step, save_at)
        else:
            for number in range(done, steps):
                save_at(number, by_share(distributed.mean_over_workers(step(number))))
    distributed.barrier()  # the other workers read what rank 0 wrote
    return seconds()


def _take_and_record(
    title: str,
    folder: Path,
    numbers: range,
    learners: Mapping[str, Learner],
    step: Callable[[int], Mapping[str, float]],
    after: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Take the steps of these numbers; write their history, warnings and throughput; call `after` with each row."""
    history, recorder = History(folder, numbers.start), Recorder(title, folder, numbers, learners)
    monitor, failed = HistoryMonitor(read_history(folder)), True
    try:
        bar = progress(numbers, title, numbers.stop, numbers.start)
        for number in bar:
            with recorder.step(number):
                row = step(number)
            row = by_share(distributed.mean_over_workers(row))
            history.append(number + 1, row)
            for line in monitor.check({"step": number + 1, **row}):
                _warn(folder, f"{title}: {line}")
            if text := recorder.add(number + 1, row):
                bar.set_postfix_str(text, refresh=False)
            after(number, row)
        failed = False
    finally:
        recorder.close(failed)
        history.close()


def _check_end(title: str, last: Mapping[str, float], learners: Mapping[str, Learner]) -> None:
    """Raise if the loss of the last step is not finite, or if every step of a learner was skipped."""
    losses = [name for name, value in last.items() if name.endswith("loss") and not math.isfinite(value)]
    idle = [name for name, learner in learners.items() if learner.skipped[1] >= learner.steps > 0]
    if losses or idle:
        what = (
            f"'{losses[0]}' is {last[losses[0]]} at the last step" if losses else f"no step of '{idle[0]}' was finite"
        )
        raise NasError(f"{title}: {what}: the training diverged; lower the learning rate and train in another folder")


def _warn(folder: Path, line: str) -> None:
    tqdm.write(f"warning: {line}", file=sys.stderr)
    with (folder / WARNINGS).open("a") as file:
        file.write(line + "\n")
