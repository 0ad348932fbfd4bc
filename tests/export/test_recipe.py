"""The training recipe: a model file that stands alone, and configs that training reads back."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from nas.config import build, load
from nas.export import recipe, standalone
from nas.files import write_json
from nas.spaces import SearchSpace
from nas.training import STAGES, checkpoint
from nas.training.recipe import BEFORE, Recipe


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    return recipe(tiny_checkpoint, tmp_path_factory.mktemp("recipe"))[0]


ALONE = """
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
    subprocess.run([sys.executable, "-c", ALONE, *paths], cwd=folder, check=True)
    outputs = load_file(paths[1])
    for name, output in outputs.items():
        with torch.no_grad():
            wanted = denoiser(inputs[name], inputs["timestep"], inputs["context"])
        assert torch.equal(output, wanted), name


@pytest.mark.parametrize("name", ["demo", "snapgen_v"])
def test_any_architecture_can_be_written_out(name):
    """The file defines no name twice, needs no other, and has the parameters that nas gives the architecture."""
    from nas.models import build as build_model

    space = SearchSpace.load(name)
    for seed in range(3):
        arch = space.random(seed)
        scope = {"__name__": "model"}
        with torch.device("meta"):
            exec(compile(standalone.source(space, arch, "0"), "model.py", "exec"), scope)
            alone, ours = scope["Denoiser"](), build_model(space, arch)
        shapes = {key: value.shape for key, value in alone.state_dict().items()}
        assert shapes == {key: value.shape for key, value in ours.state_dict().items()}


def test_the_model_file_is_clean_python(folder):
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "F,I", "--line-length", "120", "model.py"]
    done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_training_reads_the_recipe_back(folder, tiny_checkpoint):
    asked = load(Recipe, folder / "recipe.yaml", "recipe")
    loaded = checkpoint.load(tiny_checkpoint)
    space = SearchSpace.load(folder / asked.space)
    assert space.hash == loaded.space.hash
    assert list(asked.stages) == list(BEFORE) and set(BEFORE) == set(STAGES)
    for stage, options in asked.stages.items():
        assert build(STAGES[stage].config, options, "recipe.yaml") == STAGES[stage].config()


def test_the_configs_of_the_run_are_kept(tiny_checkpoint, tmp_path):
    import shutil

    run = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoint, run / "adversarial")
    used = STAGES["decoder"].config(steps=77)
    write_json(run / "decoder" / "stage.json", {"stage": "decoder", "config": asdict(used)})
    folder = recipe(run / "adversarial", tmp_path / "out")[0]
    stages = load(Recipe, folder / "recipe.yaml", "recipe").stages
    assert build(STAGES["decoder"].config, stages["decoder"], "recipe.yaml") == used
    assert build(STAGES["distill"].config, stages["distill"], "recipe.yaml") == STAGES["distill"].config()
