"""The training recipe: a standalone model file, and configs that training can load."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from nas import checkpoint
from nas.config import build, load
from nas.export import recipe, standalone
from nas.files import write_json
from nas.spaces import SearchSpace
from nas.training import STAGES
from nas.training.recipe import PREVIOUS_STAGE, Recipe
from tests.support.forked import run_python


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    return recipe(tiny_checkpoint, tmp_path_factory.mktemp("recipe"))[0]


STANDALONE = """
import sys
sys.modules["nas"] = None  # importing it fails
import torch
from safetensors.torch import load_file, save_file
import model
denoiser = model.load("denoiser.safetensors")
inputs = load_file(sys.argv[1])
with torch.no_grad():
    outputs = {
        name: denoiser(inputs[name], inputs["timestep"], inputs["context"]).contiguous()
        for name in ("clip", "long", "image")
    }
save_file(outputs, sys.argv[2])
"""


def test_the_model_file_computes_the_same_without_this_library(folder, tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    denoiser = checkpoint.load(tiny_checkpoint).denoiser
    inputs = {
        "clip": torch.randn(2, 4, 4, 8, 8),
        "long": torch.randn(2, 4, 7, 8, 16),
        "image": torch.randn(2, 4, 1, 8, 8),
        "timestep": torch.tensor([999.7, 250.0]),
        "context": torch.randn(2, 8, 32),
    }
    save_file(inputs, tmp_path / "inputs.safetensors")
    paths = [str(tmp_path / "inputs.safetensors"), str(tmp_path / "outputs.safetensors")]
    done = run_python(STANDALONE, *paths, folder=folder)
    assert done.returncode == 0, done.stderr
    outputs = load_file(paths[1])
    for name, output in outputs.items():
        with torch.no_grad():
            expected = denoiser(inputs[name], inputs["timestep"], inputs["context"])
        assert torch.equal(output, expected), name


@pytest.mark.parametrize("name", ["demo", "snapgen_v"])
def test_any_architecture_can_be_written(name):
    """The file runs on its own and has the same parameter names and shapes as the model built by nas."""
    from nas.models import build as build_model

    space = SearchSpace.load(name)
    for seed in range(3):
        arch = space.random(seed)
        scope = {"__name__": "model"}
        with torch.device("meta"):
            exec(compile(standalone.source(space, arch, "0"), "model.py", "exec"), scope)
            standalone_model, library_model = scope["Denoiser"](), build_model(space, arch)
        shapes = {key: value.shape for key, value in standalone_model.state_dict().items()}
        assert shapes == {key: value.shape for key, value in library_model.state_dict().items()}


def test_the_model_file_is_clean_python(folder):
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "F,I", "--line-length", "120", "model.py"]
    result = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_training_loads_the_recipe(folder, tiny_checkpoint):
    loaded_recipe = load(Recipe, folder / "recipe.yaml", "recipe")
    loaded = checkpoint.load(tiny_checkpoint)
    space = SearchSpace.load(folder / loaded_recipe.space)
    assert space.hash == loaded.space.hash
    assert set(PREVIOUS_STAGE) == set(STAGES)
    assert loaded_recipe.stages == {}, "the checkpoint's run has no stage configs, so every stage uses the defaults"


def test_the_script_calls_every_stage_in_order_and_stops_at_a_failure(folder, tmp_path):
    """Uses a fake `nas` that records its calls, and fails in the fourth stage the first time."""
    from tests.support.command_line import parse

    called, nas = tmp_path / "called", tmp_path / "bin" / "nas"
    nas.parent.mkdir()
    nas.write_text(f'#!/bin/sh\necho "$@" >> {called}\n[ "$2" != finetune ] || [ -e {tmp_path}/again ]\n')
    nas.chmod(0o755)
    environment = {"PATH": f"{nas.parent}:/usr/bin:/bin"}

    def train() -> tuple[int, list[list[str]]]:
        called.unlink(missing_ok=True)
        result = subprocess.run(["sh", folder / "train.sh", "out dir"], cwd=tmp_path, env=environment)
        return result.returncode, called.read_text().splitlines()

    status, calls = train()
    assert status and [call.split()[1] for call in calls] == ["decoder", "distill", "supernet", "finetune"]
    (tmp_path / "again").touch()
    status, calls = train()
    assert status == 0 and [call.split()[1] for call in calls] == list(PREVIOUS_STAGE)
    parsed = parse([*calls[0].split(" --out ")[0].split(), "--out", "out dir"]).params
    assert Path(parsed["config"]).samefile(folder / "recipe.yaml") and calls[0].endswith("--out out dir --data digits")
    usage = subprocess.run(["sh", folder / "train.sh"], env=environment, capture_output=True, text=True)
    assert usage.returncode == 2 and "give a folder for the stages" in usage.stderr


def test_the_configs_of_the_run_are_kept(tiny_checkpoint, tmp_path):
    import shutil

    run = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoint, run / "adversarial")
    used = STAGES["decoder"].config(steps=77)
    write_json(run / "decoder" / "stage.json", {"stage": "decoder", "config": asdict(used)})
    folder = recipe(run / "adversarial", tmp_path / "out")[0]
    stages = load(Recipe, folder / "recipe.yaml", "recipe").stages
    assert build(STAGES["decoder"].config, stages["decoder"], "recipe.yaml") == used
    assert set(stages) == {"decoder"}, "the other stages use the defaults"
