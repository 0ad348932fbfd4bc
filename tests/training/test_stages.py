"""Every stage at a tiny size on one core: it passes the conformance suite, and resumes after kill -9."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nas
from nas import checkpoint
from nas.diffusion import ddpm
from nas.diffusion.predictions import Objective, get_objective
from nas.diffusion.schedules import sampling_schedule
from nas.errors import ConfigError
from nas.models import safetensors_io
from nas.testing.stages import StageCase, StageTestCase, check_resume, check_same_results
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
from nas.training.learner import Learner
from nas.training.loop import run
from tests.support.forked import start_python

STEPS = 8
FINETUNE = FinetuneConfig(
    steps=STEPS, batch=2, image_batch_size=4, validation=4, eval_steps=(1, 2), eval_clips=8, save_every=3
)
CONFIGS = {
    "decoder": DecoderConfig(
        steps=STEPS, batch=2, frames=5, image_steps=4, channels=(8, 16, 16), videos=8, images=8, held_out=4,
        classifier_steps=20, save_every=3,
    ),
    "distill": DistillConfig(steps=STEPS, batch=4, validation=4, save_every=3),
    "supernet": SupernetConfig(
        steps=STEPS, batch=2, image_batch_size=4, image_share=0.2, validation=4, paths=1, save_every=3
    ),
    "finetune": FINETUNE,
    "adversarial": AdversarialConfig(
        steps=STEPS, batch=2, image_batch_size=4, teacher_batches=3, eval_steps=(1,), control_eval_steps=(1,), eval_clips=8,
        save_every=3, control=FINETUNE, control_steps=2,
    ),
}  # fmt: skip


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
    (root / "decoder").mkdir()
    for classifier in decoder.glob("classifier-*"):  # trained once in a session
        shutil.copy(classifier, root / "decoder")
    run_stage("decoder", root / "decoder", CONFIGS["decoder"], inputs["decoder"])
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
    with pytest.raises(ConfigError, match=r"started with another config.optimization.lr \(0.002, now 0.1\)"):
        run_stage("finetune", folder, replace(FINETUNE, optimization=replace(FINETUNE.optimization, lr=0.1)), inputs)
    with pytest.raises(ConfigError, match="started with another architecture"):
        run_stage("finetune", folder, FINETUNE, replace(inputs, architecture=space.architecture({})))
    with pytest.raises(ConfigError, match="unknown stage 'fine'; did you mean 'finetune'"):
        run_stage("fine", folder, FINETUNE, inputs)
    with pytest.raises(ConfigError, match="not a finished 'supernet' stage"):
        run_stage("finetune", folder.parent / "new", FINETUNE, replace(inputs, start=folder.parent / "nothing"))


def test_the_supernets_evaluator_agrees_with_the_extracted_model(finished, space):
    inputs = Inputs(space, finished["finetune"].decoder, finished["root"] / "supernet")
    evaluator = SupernetEvaluator(inputs, clips=6)
    first = evaluator(arch_of(space))
    assert first < 0 and evaluator(arch_of(space)) == first
    other = space.architecture({"mid.0/0": "SelfAttention1D"})
    assert evaluator(other) != first
    assert evaluator.score_many([other, arch_of(space), other]) == [evaluator(other), first, evaluator(other)]
    assert evaluator.score_many([other], seed=1) == [evaluator.score(other, seed=1)] != [evaluator(other)]


def test_retraining_lowers_the_loss_and_is_not_repeated(finished, space, tmp_path):
    inputs = Inputs(space, finished["finetune"].decoder, finished["root"] / "supernet", arch_of(space))
    config = replace(FINETUNE, steps=15, image_share=0.0, batch=4)
    loss = retrain(tmp_path / "r", inputs, config)
    assert loss < -SupernetEvaluator(inputs, clips=config.validation)(inputs.architecture)
    assert retrain(tmp_path / "r", inputs, config) == loss


class TestStages(StageTestCase):
    @pytest.fixture(params=list(STAGES))
    def case(self, request, finished) -> StageCase:
        config = CONFIGS[request.param]
        other = replace(config, seed=5)
        return StageCase(request.param, STAGES[request.param].function, config, other, finished[request.param])

    @pytest.fixture
    def straight(self, case, finished):
        return case.run(finished["root"] / case.name)


def test_the_suite_finds_a_stage_that_does_not_resume(finished, tmp_path):
    """A stage that draws its data from a generator whose state is not saved."""

    def forgetful(folder: Path, config: DistillConfig, inputs: Inputs) -> tuple[dict, float]:
        torch.manual_seed(config.seed)
        learner = Learner(nn.Linear(3, 1), config.optimization, config.steps)

        def step(number: int) -> dict[str, float]:
            loss = learner.module(torch.randn(4, 3)).square().mean()
            return {"loss": loss.item(), "grad_norm": learner.update(loss, number)}

        seconds = run("forgetful", folder, config.steps, {"model": learner}, step, config.save_every)
        safetensors_io.save(folder / "model.safetensors", learner.ema_state())
        return {}, seconds

    config = CONFIGS["distill"]
    case = StageCase("forgetful", forgetful, config, replace(config, seed=5), finished["decoder"])
    with pytest.raises(AssertionError, match=r"forgetful: model.safetensors: resumed, '.*' has other values"):
        check_resume(case, case.run(tmp_path / "straight").folder, tmp_path / "resumed")


CHILD = """
import sys, torch, pickle
torch.set_num_threads(1)
from nas.training import run_stage
name, folder, pickled = sys.argv[1:]
run_stage(name, folder, *pickle.load(open(pickled, "rb")))
"""


@pytest.mark.slow
def test_killed_and_started_again_it_ends_bitwise_where_a_straight_run_does(finished, tmp_path):
    """kill -9 once the history has passed step 4; then the rest in this process."""
    inputs, config, folder = finished["supernet"], replace(CONFIGS["supernet"], steps=20), tmp_path / "killed"
    folder.mkdir()
    (folder / ".state.safetensors.torn").write_bytes(b"torn")  # as if killed earlier while it saved
    (tmp_path / "pickled").write_bytes(pickle.dumps((config, inputs)))
    child = start_python(CHILD, "supernet", folder, tmp_path / "pickled")
    deadline = time.monotonic() + 600  # on a machine that does much else besides
    while len(read_history(folder)) < 4 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert len(read_history(folder)) >= 4 and not (folder / "result.json").exists()
    run_stage("supernet", folder, config, inputs)
    check_same_results("supernet", run_stage("supernet", tmp_path / "straight", config, inputs).folder, folder)


@pytest.mark.slow
def test_a_denoiser_that_predicts_v_goes_through_every_stage(space, decoder, tmp_path):
    """Each stage trains and samples it under its objective, which its checkpoint records."""
    asked, start = Objective("v", min_snr=5.0), None
    for name in ("distill", "supernet", "finetune", "adversarial"):
        config = replace(CONFIGS[name], steps=4)
        inputs = Inputs(space, decoder, start, arch_of(space) if name == "finetune" else None, asked)
        start = run_stage(name, tmp_path / name, config, inputs).folder
    loaded = checkpoint.load(start)
    assert get_objective(loaded.denoiser) == asked and loaded.info.objective == "v"
    assert sampling_schedule(loaded.denoiser, 4, (8, 8))[0] == pytest.approx(ddpm.max_time())
    with pytest.raises(ConfigError, match=r"started with another objective.prediction \('v', now 'flow'\)"):
        run_stage("distill", tmp_path / "distill", replace(CONFIGS["distill"], steps=4), Inputs(space, decoder))


def test_a_folder_started_before_an_option_existed_is_read(finished):
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
