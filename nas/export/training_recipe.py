"""The training recipe of a checkpoint: what a training cluster needs to make it again, or to go on from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

import nas
from nas.config import build
from nas.costs import LookupTable
from nas.export import manifest, standalone
from nas.files import copy_atomic, read_json, write_atomic
from nas.training import STAGES, objective
from nas.training import checkpoint as checkpoints
from nas.training.recipe import BEFORE

COMMANDS = """#!/bin/sh
# Trains {what} from data to a {steps}-step model. Started again, it goes on where it stopped.
# usage: train.sh OUT    (needs: pip install 'nas-video[demo]')
set -eu
here=$(dirname "$0")
out=${{1:?give a folder for the stages}}
for stage in {stages}; do
    nas train "$stage" --config "$here/recipe.yaml" --out "$out"
done
"""


def recipe(checkpoint: str | Path, out: str | Path, table: LookupTable | None = None) -> list[Path]:
    """Write the folder `recipe`.

    It holds `space.yaml`, `architecture.json`, `recipe.yaml` (every stage's config: those of the checkpoint and of the
    stages beside it in its run, defaults for the rest), `train.sh`, and the model as it is: `model.py`, which needs
    torch and numpy alone, and its weights `denoiser.safetensors`.

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
    contents = {"space": "space.yaml", "architecture": "architecture.json"}
    contents |= {"objective": asdict(objective.of(loaded.denoiser)), "stages": stages}
    write_atomic(folder / "recipe.yaml", yaml.safe_dump(contents, sort_keys=False))
    write_atomic(folder / "model.py", standalone.source(loaded.space, loaded.architecture, nas.__version__))
    copy_atomic(loaded.folder / "denoiser.safetensors", folder / "denoiser.safetensors")
    commands = COMMANDS.format(what=loaded.architecture, steps=loaded.info.steps, stages=" ".join(BEFORE))
    write_atomic(folder / "train.sh", commands).chmod(0o755)
    return [folder, manifest.record(out, "recipe", [folder], loaded, table)]


def _config(checkpoint: Path, stage: str) -> Any:
    """The config of a stage: that of the checkpoint or of its neighbour in the run, or else the default."""
    for folder in (checkpoint, checkpoint.parent / stage):
        path = folder / "stage.json"
        if path.exists():
            asked = read_json(path, "stage")
            if asked.get("stage") == stage:
                return build(STAGES[stage].config, asked["config"], str(path), "config")
    return STAGES[stage].config()


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML can say."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
