"""What every stage has in common: what it is given, how it starts, resumes and ends."""

from __future__ import annotations

import contextlib
import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas import distributed
from nas.checkpoint import BASE
from nas.config import build
from nas.diffusion.predictions import Objective
from nas.errors import FIXES, ConfigError, NasError
from nas.failures import lacks_memory
from nas.files import read_json, read_text, short_hash, write_json
from nas.locks import output_lock
from nas.spaces import Architecture, SearchSpace
from nas.training.execution import ExecutionConfig
from nas.training.loop import STATE, older_states
from nas.training.previews import PreviewConfig


@dataclass(frozen=True)
class Inputs:
    """What a stage builds on. Folders are stage folders, as `run_stage` returned them.

    Attributes:
        space: the search space.
        decoder: the finished `decoder` stage: autoencoder, latents and text embeddings of the data. Every other stage
            needs it.
        start: the finished stage whose weights this one starts from. `supernet` takes `distill`, `finetune` takes
            `supernet` (or `distill`, for training without a search), `adversarial` takes `finetune`.
        architecture: which architecture; `finetune` needs it.
        objective: what the denoiser predicts; the same for all stages up to `finetune`, whose checkpoint then says it.
        execution: how steps are computed.
        previews: the clips that `finetune` samples while it trains.
        table: hash of the lookup table that the architecture was chosen by, for the checkpoint's provenance.
        base: the folder of the file that the config was read from, absolute: relative paths in the config start there;
            None: in the working folder.
    """

    space: SearchSpace
    decoder: Path | None = None
    start: Path | None = None
    architecture: Architecture | None = None
    objective: Objective = field(default_factory=Objective)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    previews: PreviewConfig = field(default_factory=PreviewConfig)
    table: str | None = None
    base: Path | None = None

    def path(self, name: str) -> Path:
        """Where a file or folder that the config names lies, absolute."""
        return ((self.base or Path()) / Path(name).expanduser()).absolute()


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        folder: holds its checkpoint and history.csv.
        metrics: what was measured at its end, JSON values; each stage's module says what.
        seconds: spent training, over all runs that it took.
    """

    folder: Path
    metrics: dict[str, Any]
    seconds: float


Stage = Callable[[Path, Any, Inputs], tuple[dict[str, Any], float]]
"""(folder, config, inputs) -> (metrics, seconds). Resumes from what the folder holds."""


def run_in_folder(name: str, stage: Stage, folder: Path, config: Any, inputs: Inputs) -> StageResult:
    """Run a stage, or go on with it, or return what it gave when it is finished.

    Raises:
        ConfigError: the folder belongs to another stage, configuration, space, architecture or number of workers.
        LockedError: another process is at it.
        NasError: the training diverged, or memory or disk do not suffice; what was saved before that is kept.
    """
    done = folder / "result.json"
    if not done.exists():
        # Of several workers none takes the lock: the process that started them has it.
        alone = distributed.world_size() == 1
        with output_lock(folder, folder=True) if alone else contextlib.nullcontext():
            check_or_record_config(name, folder, config, inputs, distributed.world_size())
            if not done.exists():
                with _one_line(folder):
                    _finish(name, stage, folder, config, inputs)
    check_or_record_config(name, folder, config, inputs, distributed.world_size())
    result = build(StageEnd, read_json(done, "stage result"), str(done))
    return StageResult(folder, result.metrics, result.seconds)


@dataclass(frozen=True)
class StageEnd:
    """The contents of `result.json`. See `StageResult`."""

    metrics: dict[str, Any]
    seconds: float


def _finish(name: str, stage: Stage, folder: Path, config: Any, inputs: Inputs) -> None:
    metrics, seconds = stage(folder, config, inputs)
    if distributed.is_main():
        for metric, value in metrics.items():
            if isinstance(value, float):
                check_finite(value, f"{name}: {metric}")
        write_json(folder / "result.json", asdict(StageEnd(metrics, seconds)))
        for state in (folder / STATE, *older_states(folder)):
            state.unlink(missing_ok=True)  # the checkpoint holds the weights; moments are of no more use
    distributed.barrier()


def check_finite(value: float, what: str) -> float:
    """The value itself.

    Raises:
        NasError: it is NaN or infinite, which shows that the training diverged.
    """
    if not math.isfinite(value):
        raise NasError(f"{what} is {value}: the training diverged; lower the learning rate and train in another folder")
    return value


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Lack of disk or memory in the block as an error that says what is kept."""
    kept = "what was saved is kept, and the same command goes on from there"
    try:
        yield
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EMFILE,
            errno.ENFILE,
            errno.EFBIG,
            errno.EIO,
        ):
            raise
        fix = FIXES.get(error.errno, "see to the disk and run again")
        raise NasError(f"{error.filename or folder}: cannot be written: {error.strerror}; {fix}: {kept}") from None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise NasError(
            f"{folder}: the memory does not suffice; {kept}; raise execution.accumulate or set execution.checkpointing"
        ) from None


def file_hash(file: str | Path) -> str:
    """12 hexadecimal digits that change whenever the file's text does."""
    return short_hash(read_text(file, "table"))


def require_finished(folder: Path | None, what: str) -> Path:
    """The folder itself, if it is a finished stage's.

    Raises:
        ConfigError: it was not given, or is not finished.
    """
    if folder is None:
        raise ConfigError(f"this stage needs the folder of the finished '{what}' stage")
    if not (Path(folder) / "result.json").exists():
        raise ConfigError(f"{folder}: is no finished '{what}' stage; run it (again) first")
    return Path(folder)


def check_or_record_config(name: str, folder: Path, config: Any, inputs: Inputs, workers: int) -> None:
    """Note in the folder what is begun in it, or check that it is what was begun there. The caller holds its lock.

    A run that is not finished goes on with as many workers as it was begun with.

    Raises:
        ConfigError: it is not the same.
    """
    path, arch = folder / "stage.json", inputs.architecture
    config = _resolve_config(config, inputs.space)
    asked = {
        "stage": name,
        "space_hash": inputs.space.hash,
        "architecture": arch.choices if arch else None,
        "objective": asdict(inputs.objective),
        "precision": inputs.execution.precision,
        "workers": workers,
        "config": asdict(config),
    }
    asked = json.loads(json.dumps(asked))
    if not path.exists():
        write_json(path, {**asked, BASE: str(inputs.path("."))})
        return
    there = read_json(path, "stage", dict)
    if not isinstance(there, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(there).__name__}; remove it if the folder is yours")
    there.pop(BASE, None)  # files that lie together may be moved together
    there = _completed(there, path, config)
    if (folder / "result.json").exists():
        asked["workers"] = there["workers"]
    if there != asked:
        key = _difference(there, asked)
        raise ConfigError(f"{path}: was begun with another {key}; give the same again, or another folder")


def _resolve_config(config: Any, space: SearchSpace) -> Any:
    """The config with what the search space decides filled in; see `DecoderConfig.with_space_defaults`."""
    return config.with_space_defaults(space) if hasattr(config, "with_space_defaults") else config


def _completed(there: dict[str, Any], path: Path, config: Any) -> dict[str, Any]:
    """What a stage was begun with, options that did not exist then at the defaults they have now."""
    there = {"objective": asdict(Objective()), "precision": ExecutionConfig().precision, "workers": 1, **there}
    try:
        there["config"] = asdict(build(type(config), there.get("config"), str(path), "config"))
    except ConfigError:  # another stage's config: the comparison will say so
        return there
    return json.loads(json.dumps(there))


def _difference(a: Any, b: Any, at: str = "") -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *b]:
            if a.get(key) != b.get(key):
                return _difference(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    return f"{at} ({a!r}, now {b!r})"
