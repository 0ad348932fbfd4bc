"""The common part of all stages: inputs, start, resuming, results and errors."""

from __future__ import annotations

import contextlib
import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
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
from nas.training import states
from nas.training.execution import ExecutionConfig, allow_tf32, memory_advice
from nas.training.optimization import Optimization
from nas.training.previews import PreviewConfig


@dataclass(frozen=True)
class Inputs:
    """Inputs of a stage beside its own config. Folders are stage folders, as in `StageResult.folder`.

    Attributes:
        space: the search space.
        decoder: the finished `decoder` stage with autoencoder, latents and text embeddings of the data; required by
            every other stage.
        start: the finished stage whose weights this one starts from: `distill` for `supernet`, `supernet` for
            `finetune` (or `distill`, to train without a search), `finetune` for `adversarial`.
        architecture: the architecture that `finetune` trains.
        objective: what the denoiser predicts; the same in all stages up to `finetune`, which stores it in its checkpoint.
        execution: how steps are computed.
        previews: the clips that `finetune` samples while it trains.
        table: hash of the lookup table used in the search, for the checkpoint's provenance.
        base: absolute folder that relative paths in the config are resolved against; None: the working directory.
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
        """The absolute path of a file or folder named in the config."""
        return ((self.base or Path()) / Path(name).expanduser()).absolute()


@dataclass(frozen=True)
class StageResult:
    """Result of a finished stage.

    Attributes:
        folder: the stage folder, with the checkpoint and history.csv.
        metrics: final metrics, JSON values; listed in the docstring of each stage's module.
        seconds: training time, summed over interrupted runs.
    """

    folder: Path
    metrics: dict[str, Any]
    seconds: float


Stage = Callable[[Path, Any, Inputs], tuple[dict[str, Any], float]]
"""(folder, config, inputs) -> (metrics, seconds). Resumes from the state in the folder."""


def run_in_folder(name: str, stage: Stage, folder: Path, config: Any, inputs: Inputs) -> StageResult:
    """Run a stage, resume it, or return the result of a finished one.

    Raises:
        ConfigError: the folder belongs to another stage, configuration, space or architecture.
        LockedError: another process uses the folder.
        NasError: the training diverged, or ran out of memory or disk space; the saved state is kept.
    """
    done, single = folder / "result.json", distributed.world_size() == 1
    if needs_run(folder, config):
        with distributed.use_device(inputs.execution.device), contextlib.ExitStack() as held:
            inputs.execution.check(distributed.device())
            if single:  # of several workers none takes the lock: the process that started them holds it
                held.enter_context(output_lock(folder, folder=True))
                extend(name, folder, config, inputs)
            if distributed.is_main():
                check_or_record_config(name, folder, config, inputs, distributed.world_size())
            if not done.exists():
                allow_tf32(distributed.device())
                advice = memory_advice(name, config, inputs.execution, distributed.device())
                with _explain_resource_errors(folder, advice):
                    _finish(name, stage, folder, config, inputs)
    if distributed.is_main():
        check_or_record_config(name, folder, config, inputs, distributed.world_size())
    result = build(_ResultFile, read_json(done, "stage result"), str(done))
    return StageResult(folder, result.metrics, result.seconds)


@dataclass(frozen=True)
class _ResultFile:
    """The contents of `result.json`; see `StageResult`."""

    metrics: dict[str, Any]
    seconds: float


def _finish(name: str, stage: Stage, folder: Path, config: Any, inputs: Inputs) -> None:
    metrics, seconds = stage(folder, config, inputs)
    if distributed.is_main():
        for metric, value in metrics.items():
            if isinstance(value, float):
                check_finite(value, f"{name}: {metric}")
        write_json(folder / "result.json", asdict(_ResultFile(metrics, seconds)))
        if inputs.execution.keep == 1:  # more are kept to go back to, and to extend the stage
            for trained in (folder, folder / "control"):
                states.remove(trained)
    distributed.barrier()


def check_finite(value: float, what: str) -> float:
    """Return the value.

    Raises:
        NasError: it is NaN or infinite, because the training diverged.
    """
    if not math.isfinite(value):
        raise NasError(f"{what} is {value}: the training diverged; lower the learning rate and train in another folder")
    return value


@contextlib.contextmanager
def _explain_resource_errors(folder: Path, advice: str) -> Iterator[None]:
    """Turn out-of-disk and out-of-memory errors into a NasError that says how to continue; `advice` is for the latter."""
    kept = "the saved state is kept, and the same command resumes from it"
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
        fix = FIXES.get(error.errno, "check the disk and run again")
        raise NasError(f"{error.filename or folder}: cannot be written: {error.strerror}; {fix}: {kept}") from None
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise NasError(f"{folder}: out of memory; {kept}; {advice}") from None


def file_hash(file: str | Path) -> str:
    """A hash of the file's text, 12 hexadecimal digits."""
    return short_hash(read_text(file, "table"))


def require_finished(folder: Path | None, what: str) -> Path:
    """Return the folder if it is that of a finished stage.

    Raises:
        ConfigError: it is None, or the stage is not finished.
    """
    if folder is None:
        raise ConfigError(f"this stage needs the folder of the finished '{what}' stage")
    if not (Path(folder) / "result.json").exists():
        raise ConfigError(f"{folder}: not a finished '{what}' stage; run that stage first")
    return Path(folder)


def extend(name: str, folder: Path, config: Any, inputs: Inputs) -> None:
    """Let a finished stage that is asked for more steps continue from its training state. The caller holds the lock.

    Its learning rate schedule spans the new number of steps.

    Raises:
        ConfigError: its training state was not kept, or it was started with another configuration.
    """
    before = _steps_before(folder, config)
    if before is None:
        return
    path = folder / "stage.json"
    check_or_record_config(name, folder, replace(config, steps=before), inputs, distributed.world_size())
    reason = None
    if name == "decoder":
        reason = "its latents would have to be encoded again"
    elif states.current(folder) is None:
        reason = "its training state was not kept; next time, set execution.keep above 1"
    if reason is not None:
        raise ConfigError(
            f"{path}: finished its {before} steps and cannot be extended to {config.steps}: {reason}; give another folder"
        )
    (folder / "result.json").unlink()
    for evaluation in folder.glob("quality-*.jsonl"):
        evaluation.unlink()
    recorded = read_json(path, "stage", dict)
    write_json(path, {**recorded, "config": asdict(_resolve_config(config, inputs.space))})


def needs_run(folder: Path, config: Any) -> bool:
    """Whether a stage is not finished, or is asked for more steps than it has taken."""
    return not (folder / "result.json").exists() or _steps_before(folder, config) is not None


def _steps_before(folder: Path, config: Any) -> int | None:
    """The steps of a finished stage that `config` asks for more of; otherwise None."""
    path, asked = folder / "stage.json", getattr(config, "steps", None)
    if asked is None or not (path.exists() and (folder / "result.json").exists()):
        return None
    recorded = read_json(path, "stage", dict)
    options = recorded.get("config") if isinstance(recorded, dict) else None
    steps = options.get("steps") if isinstance(options, dict) else None
    return steps if isinstance(steps, int) and steps < asked else None


def check_or_record_config(name: str, folder: Path, config: Any, inputs: Inputs, workers: int) -> None:
    """Record the configuration in a new folder, or check that a folder has the same one. The caller holds the lock.

    A run may resume with another number of workers than it was started with.

    Raises:
        ConfigError: the folder was started with another configuration.
    """
    path, arch = folder / "stage.json", inputs.architecture
    config = _resolve_config(config, inputs.space)
    requested = {
        "stage": name,
        "space_hash": inputs.space.hash,
        "architecture": arch.choices if arch else None,
        "objective": asdict(inputs.objective),
        "precision": inputs.execution.precision,
        "workers": workers,
        "config": asdict(config),
    }
    requested = json.loads(json.dumps(requested))
    if not path.exists():
        write_json(path, {**requested, BASE: str(inputs.path("."))})
        return
    recorded = read_json(path, "stage", dict)
    if not isinstance(recorded, dict):
        raise ConfigError(
            f"{path}: expected a mapping, found {type(recorded).__name__}; remove it if the folder is yours"
        )
    recorded.pop(BASE, None)  # a recipe and its data may be moved together
    recorded = _with_defaults(recorded, path, config, inputs.space)
    requested["workers"] = recorded["workers"]
    if recorded != requested:
        key = _difference(recorded, requested)
        raise ConfigError(f"{path}: was started with another {key}; use the same value, or another folder")


def _resolve_config(config: Any, space: SearchSpace) -> Any:
    """The config with defaults taken from the search space, if it has any, and from the number of steps."""
    return _with_ema(config.with_space_defaults(space) if hasattr(config, "with_space_defaults") else config)


def _with_ema(config: Any, steps: int = 0) -> Any:
    """The config with the horizon of the EMA in each of its `Optimization`s, of a run of these or its own steps."""
    steps, changed = getattr(config, "steps", steps), {}
    for name, value in vars(config).items():
        if isinstance(value, Optimization):
            changed[name] = value.with_ema(steps)
        elif is_dataclass(value):
            changed[name] = _with_ema(value, steps)
    return replace(config, **changed) if changed else config


def _with_defaults(recorded: dict[str, Any], path: Path, config: Any, space: SearchSpace) -> dict[str, Any]:
    """A recorded configuration in which options that did not exist then have their present defaults."""
    recorded = {"precision": ExecutionConfig().precision, "workers": 1, **recorded}
    recorded["objective"] = asdict(Objective()) | recorded.get("objective", {})
    try:
        stored = build(type(config), recorded.get("config"), str(path), "config")
        recorded["config"] = asdict(_resolve_config(stored, space))
    except ConfigError:  # another stage's config: the comparison will say so
        return recorded
    return json.loads(json.dumps(recorded))


def _difference(a: Any, b: Any, at: str = "") -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *b]:
            if a.get(key) != b.get(key):
                return _difference(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    return f"{at} ({a!r}, now {b!r})"
