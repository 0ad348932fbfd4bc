"""Every stage, tiny and real, on one core: resumes to the bit after kill -9, refuses what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas
from nas import checkpoint
from nas.diffusion import ddpm
from nas.diffusion.predictions import Objective, get_objective
from nas.diffusion.schedules import sampling_schedule
from nas.errors import ConfigError
from nas.models import safetensors_io
from nas.training import (
    STAGES,
    AdversarialConfig,
    DecoderConfig,
    DistillConfig,
    FinetuneConfig,
    Inputs,
    SupernetConfig,
    SupernetEvaluator,
    read_history,
    retrain,
    run_stage,
)

STEPS = 20
FINETUNE = FinetuneConfig(
    steps=STEPS, batch=2, image_batch_size=4, validation=4, eval_steps=(1, 2), eval_clips=40, save_every=5
)
CONFIGS = {
    "decoder": DecoderConfig(
        steps=STEPS, batch=2, channels=(8, 16, 16), videos=8, images=8, held_out=4, classifier_steps=60, save_every=5
    ),
    "distill": DistillConfig(steps=STEPS, batch=4, validation=4, save_every=5),
    "supernet": SupernetConfig(steps=STEPS, batch=2, image_batch_size=4, image_share=0.2, validation=4, paths=1, save_every=5),
    "finetune": FINETUNE,
    "adversarial": AdversarialConfig(
        steps=STEPS, batch=2, image_batch_size=4, teacher_batches=6, eval_steps=(1,), control_eval_steps=(1,), eval_clips=40, save_every=5,
        control=FINETUNE, control_steps=4,
    ),
}  # fmt: skip
WEIGHTS = {"decoder": "decoder.safetensors", "supernet": "supernet.safetensors"}


def arch_of(space: nas.SearchSpace) -> nas.Architecture:
    return space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "SelfAttention1D"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, space: nas.SearchSpace, decoder: Path) -> dict[str, Inputs]:
    """The inputs of each stage, from stages that ran straight through; their folders lie under `root`."""
    root = tmp_path_factory.mktemp("straight")
    inputs, start = {"decoder": Inputs(space)}, None
    for name in ("distill", "supernet", "finetune", "adversarial"):
        inputs[name] = Inputs(space, decoder, start, arch_of(space) if name == "finetune" else None)
        start = run_stage(name, root / name, CONFIGS[name], inputs[name]).folder
    inputs["root"] = root
    return inputs


def test_a_finished_stage_is_read_and_not_run_again(finished):
    folder = finished["root"] / "finetune"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = run_stage("finetune", folder, CONFIGS["finetune"], finished["finetune"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [quality["steps"] for quality in result.metrics["quality"]] == [1, 2]
    assert result.metrics["validation_loss"] > 0
    assert [row["step"] for row in read_history(result.folder)] == list(range(1, STEPS + 1))


def test_the_checkpoint_is_self_contained_and_gives_the_trained_model(finished, space):
    folder = finished["root"] / "adversarial"
    loaded = checkpoint.load(folder)
    assert loaded.space.hash == space.hash and loaded.architecture == arch_of(space)
    assert (loaded.info.steps, loaded.info.guidance, loaded.info.stage) == (4, 1.0, "adversarial")
    assert loaded.info.provenance["library"] == nas.__version__
    x = torch.randn(loaded.space.input_shape())
    out = loaded.denoiser(x, torch.tensor([500.0]), torch.randn(loaded.space.context_shape()))
    assert out.shape == x.shape
    assert loaded.autoencoder.decode(out).shape == (1, 1, 8, 32, 32)
    before = safetensors_io.load(finished["root"] / "finetune/denoiser.safetensors")
    moved = [key for key, value in loaded.denoiser.state_dict().items() if not torch.equal(value, before[key])]
    assert any("temporal" in key for key in moved) and any("down_blocks" in key for key in moved)


def test_another_configuration_or_architecture_is_refused(finished, space):
    folder, inputs = finished["root"] / "finetune", finished["finetune"]
    with pytest.raises(ConfigError, match=r"begun with another config.optimization.lr \(0.002, now 0.1\)"):
        run_stage("finetune", folder, replace(FINETUNE, optimization=replace(FINETUNE.optimization, lr=0.1)), inputs)
    with pytest.raises(ConfigError, match="begun with another architecture"):
        run_stage("finetune", folder, FINETUNE, replace(inputs, architecture=space.architecture({})))
    with pytest.raises(ConfigError, match="there is no stage 'fine'; did you mean 'finetune'"):
        run_stage("fine", folder, FINETUNE, inputs)
    with pytest.raises(ConfigError, match="is no finished 'supernet' stage"):
        run_stage("finetune", folder.parent / "new", FINETUNE, replace(inputs, start=folder.parent / "nothing"))


def test_the_supernets_evaluator_agrees_with_the_extracted_model(finished, space):
    inputs = Inputs(space, finished["finetune"].decoder, finished["root"] / "supernet")
    evaluator = SupernetEvaluator(inputs, clips=6)
    first = evaluator(arch_of(space))
    assert first < 0 and evaluator(arch_of(space)) == first
    assert evaluator(space.architecture({"mid.0/0": "SelfAttention1D"})) != first


def test_retraining_lowers_the_loss_and_is_remembered(finished, space, tmp_path):
    inputs = Inputs(space, finished["finetune"].decoder, finished["root"] / "supernet", arch_of(space))
    config = replace(FINETUNE, steps=30, image_share=0.0, batch=4)
    loss = retrain(tmp_path / "r", inputs, config)
    assert loss < -SupernetEvaluator(inputs, clips=config.validation)(inputs.architecture)
    assert retrain(tmp_path / "r", inputs, config) == loss


CHILD = """
import sys, torch, pickle
torch.set_num_threads(1)
from nas.training import run_stage
name, folder, pickled = sys.argv[1:]
run_stage(name, folder, *pickle.load(open(pickled, "rb")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STAGES))
def test_killed_and_started_again_it_ends_bitwise_where_a_straight_run_does(name, finished, decoder, tmp_path):
    """kill -9 once the history has passed step 10; then the rest in this process."""
    import pickle

    inputs, config, folder = finished[name], CONFIGS[name], tmp_path / "killed"
    straight = finished["root"] / name
    if name == "decoder":
        straight = run_stage(name, tmp_path / "straight", config, inputs).folder
    if name == "supernet":  # a folder that pretends to have been killed while it saved
        folder.mkdir()
        (folder / ".state.safetensors.torn").write_bytes(b"torn")
    (tmp_path / "pickled").write_bytes(pickle.dumps((config, inputs)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, name, str(folder), str(tmp_path / "pickled")],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600  # on a machine that does much else besides
    while len(read_history(folder)) < 10 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(read_history(folder)) >= 10 and not (folder / "result.json").exists()
    run_stage(name, folder, config, inputs)
    weights = WEIGHTS.get(name, "denoiser.safetensors")
    a, b = safetensors_io.load(straight / weights), safetensors_io.load(folder / weights)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert (straight / "history.csv").read_text() == (folder / "history.csv").read_text()


@pytest.mark.slow
def test_a_denoiser_that_predicts_v_goes_through_every_stage(space, decoder, tmp_path):
    """Each stage trains and samples it as what it is, and its checkpoint says so."""
    asked, start = Objective("v", min_snr=5.0), None
    for name in ("distill", "supernet", "finetune", "adversarial"):
        config = replace(CONFIGS[name], steps=4)
        inputs = Inputs(space, decoder, start, arch_of(space) if name == "finetune" else None, asked)
        start = run_stage(name, tmp_path / name, config, inputs).folder
    loaded = checkpoint.load(start)
    assert get_objective(loaded.denoiser) == asked and loaded.info.objective == "v"
    assert sampling_schedule(loaded.denoiser, 4, (8, 8))[0] == pytest.approx(ddpm.max_time())
    with pytest.raises(ConfigError, match=r"begun with another objective.prediction \('v', now 'flow'\)"):
        run_stage("distill", tmp_path / "distill", replace(CONFIGS["distill"], steps=4), Inputs(space, decoder))


def test_a_folder_begun_before_an_option_existed_goes_on(finished):
    """An option that its stage.json does not know had its default."""
    path = finished["root"] / "distill/stage.json"
    text = path.read_text()
    there = json.loads(text)
    del there["objective"], there["config"]["caption_dropout"]
    path.write_text(json.dumps(there))
    try:
        run_stage("distill", path.parent, CONFIGS["distill"], finished["distill"])
        with pytest.raises(ConfigError, match=r"another config.caption_dropout \(0.1, now 0.5\)"):
            run_stage("distill", path.parent, replace(CONFIGS["distill"], caption_dropout=0.5), finished["distill"])
    finally:
        path.write_text(text)
