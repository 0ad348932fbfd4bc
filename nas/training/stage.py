"""What every stage has in common: what it is given, how it starts, resumes and ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas.config import build
from nas.errors import ConfigError
from nas.files import read_json, read_text, short_hash, write_json
from nas.spaces import Architecture, SearchSpace
from nas.training import distributed
from nas.training.compute import Compute
from nas.training.grids import Watch
from nas.training.loop import STATE, older_states
from nas.training.objective import Objective


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
        compute: how steps are computed.
        watch: what `finetune` samples while it trains.
        table: hash of the lookup table that the architecture was chosen by, for the checkpoint's provenance.
    """

    space: SearchSpace
    decoder: Path | None = None
    start: Path | None = None
    architecture: Architecture | None = None
    objective: Objective = field(default_factory=Objective)
    compute: Compute = field(default_factory=Compute)
    watch: Watch = field(default_factory=Watch)
    table: str | None = None


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
    """
    done = folder / "result.json"
    same_or_new(name, folder, config, inputs, distributed.world_size())
    if not done.exists():
        metrics, seconds = stage(folder, config, inputs)
        if distributed.is_main():
            write_json(done, {"metrics": metrics, "seconds": seconds})
            for state in (folder / STATE, *older_states(folder)):
                state.unlink(missing_ok=True)  # the checkpoint holds the weights; moments are of no more use
        distributed.barrier()
    result = read_json(done, "stage result")
    return StageResult(folder, result["metrics"], result["seconds"])


def hash_of(file: str | Path) -> str:
    """12 hexadecimal digits that change whenever the file's text does."""
    return short_hash(read_text(file, "table"))


def finished(folder: Path | None, what: str) -> Path:
    """The folder itself, if it is a finished stage's.

    Raises:
        ConfigError: it was not given, or is not finished.
    """
    if folder is None:
        raise ConfigError(f"this stage needs the folder of the finished '{what}' stage")
    if not (Path(folder) / "result.json").exists():
        raise ConfigError(f"{folder}: is no finished '{what}' stage; run it (again) first")
    return Path(folder)


def same_or_new(name: str, folder: Path, config: Any, inputs: Inputs, workers: int) -> None:
    """Note in the folder what is begun in it, or check that it is what was begun there.

    A run that is not finished goes on with as many workers as it was begun with.

    Raises:
        ConfigError: it is not the same.
    """
    path, arch = folder / "stage.json", inputs.architecture
    asked = {
        "stage": name,
        "space_hash": inputs.space.hash,
        "architecture": arch.choices if arch else None,
        "objective": asdict(inputs.objective),
        "precision": inputs.compute.precision,
        "workers": workers,
        "config": asdict(config),
    }
    asked = json.loads(json.dumps(asked))
    if not path.exists():
        write_json(path, asked)
        return
    there = _completed(read_json(path, "stage"), path, config)
    if (folder / "result.json").exists():
        asked["workers"] = there["workers"]
    if there != asked:
        key = _difference(there, asked)
        raise ConfigError(f"{path}: was begun with another {key}; give the same again, or another folder")


def _completed(there: dict[str, Any], path: Path, config: Any) -> dict[str, Any]:
    """What a stage was begun with, options that did not exist then at the defaults they have now."""
    there = {"objective": asdict(Objective()), "precision": Compute().precision, "workers": 1, **there}
    try:
        there["config"] = asdict(build(type(config), there["config"], str(path), "config"))
    except ConfigError:  # another stage's config: the comparison will say so
        return there
    return json.loads(json.dumps(there))


def _difference(a: Any, b: Any, at: str = "") -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *b]:
            if a.get(key) != b.get(key):
                return _difference(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    return f"{at} ({a!r}, now {b!r})"
