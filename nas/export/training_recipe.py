"""The training recipe of a checkpoint: what a training cluster needs to make it again, or to go on from it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

import nas
from nas import checkpoint as checkpoints
from nas.config import build
from nas.costs import LookupTable
from nas.diffusion import objective
from nas.export import manifest, standalone
from nas.files import copy_atomic, read_json, write_atomic
from nas.spaces import Text
from nas.training import STAGES, DecoderConfig, DistillConfig, Inputs
from nas.training.recipe import BEFORE
from nas.training.stage import BASE
from nas.training.stages.distill import local_or_hub

COMMANDS = """#!/bin/sh
# Trains {what} from data to a {steps}-step model. Started again, it goes on where it stopped.
# usage: train.sh OUT [DATA]    (needs: pip install 'nas-video[demo]')
# OUT gets a folder for each stage; DATA: the folder of the clips, where it is not the one in recipe.yaml
set -eu
here=$(dirname "$0")
out=${{1:?give a folder for the stages}}
data=${{2:-{data}}}
{checks}for stage in {stages}; do
    nas train "$stage" --config "$here/recipe.yaml" --out "$out" --data "$data"
done
"""


def recipe(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write the folder `recipe`.

    It holds `space.yaml`, `architecture.json`, `recipe.yaml` (every stage's config: those of the checkpoint and of the
    stages beside it in its run, defaults for the rest), `train.sh`, and the model as it is: `model.py`, which needs
    torch and numpy alone, and its weights `denoiser.safetensors`. Folders of clips, of a teacher and of a text encoder do
    not come along: `train.sh` says where it looks for them, and stops in one line where they are not.

    Args:
        checkpoint: the folder of a finished stage.
        out: the export folder; its manifest is brought up to date.
        table: a lookup table of the device, to predict latency from.

    Returns:
        The recipe's folder and the manifest.

    Raises:
        ConfigError: the checkpoint is not one, or a stage beside it cannot be read.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    folder = out / "recipe"
    loaded.space.save(folder / "space.yaml")
    loaded.architecture.save(folder / "architecture.json")
    stages = {name: _plain(asdict(_config(loaded.folder, name))) for name in BEFORE}
    needed = _bring(stages, loaded.space.text, folder)
    contents = {"space": "space.yaml", "architecture": "architecture.json"}
    contents |= {"objective": asdict(objective.of(loaded.denoiser)), "stages": stages}
    write_atomic(folder / "recipe.yaml", yaml.safe_dump(contents, sort_keys=False))
    write_atomic(folder / "model.py", standalone.source(loaded.space, loaded.architecture, nas.__version__))
    copy_atomic(loaded.folder / "denoiser.safetensors", folder / "denoiser.safetensors")
    commands = COMMANDS.format(
        what=" ".join(str(loaded.architecture).split()),
        steps=loaded.info.steps,
        stages=" ".join(BEFORE),
        data=shlex.quote(stages["decoder"]["data"]),
        checks="".join(needed),
    )
    write_atomic(folder / "train.sh", commands).chmod(0o755)
    return [folder, manifest.record(out, "recipe", [folder], loaded, table)]


CHECK = "[ -d {folder} ] || {{ echo {message} >&2; exit 2; }}\n"


def _bring(stages: dict[str, dict[str, Any]], text: Text, folder: Path) -> list[str]:
    """Copy what the stages need into the recipe's folder, where it is small; else lines that check that it is there."""
    needed = []
    if stages["decoder"]["data"] != "digits":
        message = '"train.sh: there is no folder $data; give that of the clips: train.sh OUT DATA"'
        needed.append(CHECK.format(folder='"$data"', message=message))
    pruned, teacher = (stages["distill"][name] for name in ("pruned", "teacher"))
    if pruned is not None:
        found = Path(pruned) / "unet" if (Path(pruned) / "unet").is_dir() else Path(pruned)
        for path in sorted(path for path in found.iterdir() if path.is_file()):
            copy_atomic(path, folder / "pruned" / "unet" / path.name)
        stages["distill"]["pruned"] = "pruned"
    others = {"stages.distill.teacher in recipe.yaml": teacher, "text.encoder in space.yaml": text.encoder}
    for field, name in others.items():
        if name is not None and Path(name).is_absolute():
            message = shlex.quote(f"train.sh: there is no folder {name}; change {field}")
            needed.append(CHECK.format(folder=shlex.quote(name), message=message))
    return needed


def _located(config: Any, base: str | None) -> Any:
    """A config with absolute paths for those that start in `base` (the working folder if it is not known)."""
    inputs = Inputs(None, base=Path(base) if base else None)
    if isinstance(config, DecoderConfig) and config.data != "digits":
        return replace(config, data=str(inputs.path(config.data)))
    if isinstance(config, DistillConfig):
        pruned = None if config.pruned is None else str(inputs.path(config.pruned))
        teacher = None if config.teacher is None else local_or_hub(config.teacher, inputs)
        return replace(config, pruned=pruned, teacher=teacher)
    return config


def _config(checkpoint: Path, stage: str) -> Any:
    """The config of a stage: that of the checkpoint or of its neighbour in the run, or else the default."""
    for folder in (checkpoint, checkpoint.parent / stage):
        path = folder / "stage.json"
        if path.exists():
            asked = read_json(path, "stage", dict)
            if isinstance(asked, dict) and asked.get("stage") == stage:
                config = build(STAGES[stage].config, asked.get("config"), str(path), "config")
                return _located(config, asked.get(BASE))
    return STAGES[stage].config()


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML can say."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
