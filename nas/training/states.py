"""Training states in a stage's folder: written in the background, and restored by any number of workers.

One process writes the file `state.safetensors`. Several write a folder `state-STEP` of safetensors files: each worker its
shards and, of the tensors that several workers hold alike, an equal part. So each of W workers copies about 1 / W of the
state, and none ever holds a sharded module whole.

A state is copied to the host before training continues. A thread writes it under a temporary name and renames it when all
of it is on disk, so that a killed run has the state before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from nas import distributed
from nas.errors import ConfigError
from nas.files import link_or_copy, sync_folder
from nas.models import safetensors_io
from nas.training.learner import Learner

STATE = "state.safetensors"


def current(folder: Path) -> Path | None:
    """The file or folder of the state that a run resumes from; None if there is none."""
    folders = sorted(path for path in folder.glob("state-*") if path.is_dir())
    return folder / STATE if (folder / STATE).exists() else folders[-1] if folders else None


def older_states(folder: Path) -> list[Path]:
    """The kept older states, oldest first."""
    newest = current(folder)
    return [path for path in sorted(folder.glob("state-*")) if path != newest]


def remove(folder: Path) -> None:
    """Remove all states of a folder."""
    (folder / STATE).unlink(missing_ok=True)
    _remove_older(folder, 0, None)


class StateWriter:
    """Writes the states of a run, one at a time; leaving its context waits for the last one.

    All workers must call its methods.
    """

    def __init__(self, folder: Path, learners: Mapping[str, Learner]) -> None:
        self.folder, self.learners = folder, learners
        self.keep = max(learner.execution.keep for learner in learners.values())
        self._pending: Callable[[], object] | None = None
        self._thread = ThreadPoolExecutor(1, "save")
        self._saver: Any = None

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*([] if raised is None else [Exception])):
            self._wait()
        self._thread.shutdown()
        if self._saver is not None:
            self._saver.close()

    def save(self, step: int, seconds: float) -> None:
        """Save the state after a step, as soon as the state before is on disk.

        Raises:
            NasError: a value is not finite; nothing is written.
            OSError: the state before could not be written.
        """
        self._wait()
        state = {
            f"{name}/{key}": value for name, learner in self.learners.items() for key, value in learner.state().items()
        }
        _check_finite(self.folder, state)
        if distributed.world_size() == 1:
            copies = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
            self._pending = self._thread.submit(_write_file, self.folder, copies, step, seconds, self.keep).result
            return
        if self._saver is None:
            from nas.training.state_folders import FolderSaver

            self._saver = FolderSaver()
        publish = partial(_publish, self.folder / f"state-{step:08d}", self.keep)
        self._pending = self._saver.save(self.folder, state, step, seconds, publish)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()


def _write_file(folder: Path, state: Mapping[str, Tensor], step: int, seconds: float, keep: int) -> None:
    if keep > 1:
        _keep_file(folder)
    safetensors_io.write(folder / STATE, state, {"step": str(step), "seconds": repr(seconds)})
    _remove_older(folder, keep - 1, None)


def _publish(path: Path, keep: int, written: Path) -> None:
    """Give the folder of a state its name, and remove older ones."""
    if path.exists():  # of a run that went back to an older state
        shutil.rmtree(path)
    os.rename(written, path)
    sync_folder(path.parent)
    if keep > 1:
        _keep_file(path.parent)
    (path.parent / STATE).unlink(missing_ok=True)
    _remove_older(path.parent, keep - 1, path)


def _keep_file(folder: Path) -> None:
    """Keep the state of one process, which is about to be replaced, under another name."""
    if (folder / STATE).exists():
        step = int(safetensors_io.metadata(folder / STATE)["step"])
        link_or_copy(folder / STATE, folder / f"state-{step:08d}.safetensors")


def _remove_older(folder: Path, kept: int, newest: Path | None) -> None:
    older = [path for path in sorted(folder.glob("state-*")) if path != newest]
    for path in older[: max(0, len(older) - kept)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_finite(folder: Path, state: Mapping[str, Tensor]) -> None:
    broken = safetensors_io.not_finite({name: distributed.local_tensor(value) for name, value in state.items()})
    if distributed.mean_over_workers({"broken": float(broken is not None)})["broken"]:
        safetensors_io.check_finite(folder / STATE, broken or "a tensor of another worker")


def restore(folder: Path, learners: Mapping[str, Learner]) -> tuple[int, float]:
    """Restore the state in a folder, which any number of workers has saved. All workers must call this.

    Returns:
        The number of steps taken, and the training time in seconds; 0 and 0 if there is no state.

    Raises:
        ConfigError: the state is of another model, or damaged.
    """
    path = current(folder)
    if distributed.is_main():
        for unfinished in folder.glob(".state-*.*"):  # of a killed run
            shutil.rmtree(unfinished, ignore_errors=True)
    if path is None:
        return 0, 0.0
    state = _open(path)
    try:
        for name, learner in learners.items():
            names = [key.removeprefix(f"{name}/") for key in state.names if key.startswith(f"{name}/")]
            learner.load(names, lambda tensors: state.fill({f"{name}/{key}": t for key, t in tensors.items()}))  # noqa: B023
        return state.progress()
    except ConfigError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path}: is the state of another model ({reason}); give another folder, or remove it"
        ) from None


def _open(path: Path) -> Any:
    if not path.is_dir():
        return _StateFile(path)
    from nas.training.state_folders import StateFolder

    return StateFolder(path)


class _StateFile:
    """A state that one process has saved."""

    def __init__(self, path: Path) -> None:
        self._file = safetensors_io.TensorFile(path, "training state")
        self.names = list(self._file)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the saved values into tensors, which may be sharded."""
        for name, tensor in tensors.items():
            shape = list(self._file.shape(name)) or [1]
            if shape != list(tensor.shape):
                raise ValueError(f"'{name}' is {shape}, expected {list(tensor.shape)}")
            distributed.copy_full_tensor(tensor, self._file, name)

    def progress(self) -> tuple[int, float]:
        """The steps taken, and the seconds."""
        return max(0, int(self._file.metadata["step"])), float(self._file.metadata["seconds"])
