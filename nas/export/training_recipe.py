"""Export the training recipe of a checkpoint: the files to train it again, or to continue training, on a cluster."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

import nas
from nas import checkpoint as checkpoints
from nas.costs import LookupTable
from nas.data import GENERATED
from nas.diffusion.predictions import get_objective
from nas.errors import ConfigError
from nas.export import manifest, standalone
from nas.files import copy_atomic, local_or_hub, read_json, write_atomic
from nas.spaces import SearchSpace

COMMANDS = """#!/bin/sh
# Trains {what} from data to a {steps}-step model. If run again, it resumes where it stopped.
# usage: train.sh OUT [DATA]    (needs: pip install 'nas-video[demo]')
# OUT: folder for the stages; DATA: folder of the clips, if it is not the one in recipe.yaml
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

    It contains `space.yaml`, `architecture.json`, `recipe.yaml` (the configs of the checkpoint's stage and of the other
    stages in its run; missing stages use the defaults), `train.sh`, and the model itself: `model.py`, which requires
    only torch and numpy, and its weights `denoiser.safetensors`. Folders of clips, of a teacher, of a text encoder
    and of a public autoencoder are not copied: `train.sh` stops with a one-line error if one is missing.

    Args:
        checkpoint: folder of a finished stage.
        out: export folder; its manifest is updated.
        table: lookup table of the device, to predict latency.

    Returns:
        The recipe's folder and the manifest.

    Raises:
        ConfigError: `checkpoint` is not a checkpoint, or another stage of its run cannot be read.
    """
    loaded, out = checkpoints.load(checkpoint), Path(out)
    folder = out / "recipe"
    loaded.space.save(folder / "space.yaml")
    loaded.architecture.save(folder / "architecture.json")
    stages = _stage_configs(loaded.folder)
    checks = _copy_inputs(stages, loaded.space, folder)
    contents = {"space": "space.yaml", "architecture": "architecture.json"}
    contents |= {"objective": asdict(get_objective(loaded.denoiser)), "stages": stages}
    write_atomic(folder / "recipe.yaml", yaml.safe_dump(contents, sort_keys=False))
    write_atomic(folder / "model.py", standalone.source(loaded.space, loaded.architecture, nas.__version__))
    copy_atomic(loaded.folder / "denoiser.safetensors", folder / "denoiser.safetensors")
    commands = COMMANDS.format(
        what=" ".join(str(loaded.architecture).split()),
        steps=loaded.info.steps,
        stages=" ".join(checkpoints.STAGE_ORDER),
        data=shlex.quote(stages.get("decoder", {}).get("data", "digits")),
        checks="".join(checks),
    )
    write_atomic(folder / "train.sh", commands).chmod(0o755)
    return [folder, manifest.record(out, "recipe", [folder], loaded, table)]


CHECK = "[ -{kind} {folder} ] || {{ echo {message} >&2; exit 2; }}\n"


def _copy_inputs(stages: dict[str, dict[str, Any]], space: SearchSpace, folder: Path) -> list[str]:
    """Copy the small inputs of the stages into the recipe's folder; return shell checks that the others exist."""
    checks = []
    decoder, distill = stages.get("decoder", {}), stages.get("distill", {})
    if decoder.get("data", "digits") not in GENERATED:
        message = '"train.sh: folder $data not found; pass the folder of the clips: train.sh OUT DATA"'
        checks.append(CHECK.format(kind="e", folder='"$data"', message=message))  # scenes are a file
    pruned = distill.get("pruned")
    if pruned is not None:
        unet = Path(pruned) / "unet" if (Path(pruned) / "unet").is_dir() else Path(pruned)
        for path in sorted(path for path in unet.iterdir() if path.is_file()):
            copy_atomic(path, folder / "pruned" / "unet" / path.name)
        distill["pruned"] = "pruned"
    others = {
        "stages.distill.teacher in recipe.yaml": distill.get("teacher"),
        "text.encoder in space.yaml": space.text.encoder,
        "decoder.vae.encoder in space.yaml": space.autoencoder.encoder,
    }
    for field, name in others.items():
        if name is not None and Path(name).is_absolute():
            message = shlex.quote(f"train.sh: folder {name} not found; change {field}")
            checks.append(CHECK.format(kind="d", folder=shlex.quote(name), message=message))
    return checks


def _stage_configs(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The configs of the trained stages in the checkpoint's run; `nas train` has defaults for the others.

    Paths in the configs become absolute. Relative paths start in the folder named in `stage.json`, else in the working
    folder.
    """
    configs = {}
    for stage in checkpoints.STAGE_ORDER:
        for folder in (checkpoint, checkpoint.parent / stage):
            path = folder / "stage.json"
            record = read_json(path, "stage", dict) if path.exists() else {}
            if record.get("stage") == stage:
                config, base = record.get("config"), record.get(checkpoints.BASE) or "."
                if not isinstance(config, dict) or not isinstance(base, str):
                    raise ConfigError(f"{path}: config: expected a mapping; train the stage again, or restore the file")
                configs[stage] = _with_absolute_paths(config, Path(base), str(path))
                break
    return configs


def _with_absolute_paths(config: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """A stage's config with absolute paths; relative paths start in `base`."""
    located = dict(config)
    for field in ("data", "pruned", "teacher"):
        name = config.get(field)
        if name is None or (field == "data" and name in GENERATED):
            continue
        if not isinstance(name, str):
            raise ConfigError(f"{where}: config.{field}: expected text; train the stage again, or restore the file")
        located[field] = local_or_hub(name, base) if field == "teacher" else str((base / name).absolute())
    return located
