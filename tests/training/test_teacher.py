"""Distillation from a larger backbone: it learns, it resumes bit for bit, and its losses are those of BK-SDM."""

from dataclasses import replace

import pytest
import torch

import nas
from nas.data.batches import Batches
from nas.diffusion import ddpm
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError
from nas.files import write_json
from nas.models import UNet, safetensors_io
from nas.models.diffusers_checkpoint import save_unet
from nas.training import DistillConfig, Inputs, read_history, run_stage
from nas.training.optimization import Optimization
from nas.training.prune import prune_checkpoint
from nas.training.teacher import Student, block_features, distillation_losses, load_teacher

CONFIG = DistillConfig(steps=16, batch=4, validation=8, save_every=5)


@pytest.fixture(scope="module")
def wide(tmp_path_factory, space):
    """A checkpoint as diffusers has it, wider and deeper than the space's backbone, that gives more than noise."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    backbone = replace(space.backbone, channels=(32, 48), layers_per_block=2, attention_levels=(0, 1), norm_groups=8)
    save_unet(UNet(backbone, 4, 384), folder / "unet")
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory, space, wide):
    folder = tmp_path_factory.mktemp("narrow")
    path = folder / "space.yaml"
    space_of_two_widths(space).save(path)
    prune_checkpoint(wide, nas.SearchSpace.load(path), folder / "pruned")
    return nas.SearchSpace.load(path), folder / "pruned"


def space_of_two_widths(space):
    return replace(space, backbone=replace(space.backbone, channels=(16, 24)))


def test_a_pruned_backbone_approaches_its_teacher(wide, narrow, decoder, tmp_path):
    space, pruned = narrow
    config = replace(CONFIG, steps=60, output_weight=4.0, teacher=str(wide), pruned=str(pruned))
    inputs = Inputs(space, decoder)
    before = run_stage(
        "distill", tmp_path / "none", replace(config, steps=1, optimization=Optimization(lr=0.0)), inputs
    )
    after = run_stage("distill", tmp_path / "some", config, inputs)
    assert after.metrics["teacher_loss"] < 0.7 * before.metrics["teacher_loss"]
    history = read_history(tmp_path / "some")
    for name in ("loss", "features"):
        first, last = (sum(row[name] for row in part) for part in (history[:10], history[-10:]))
        assert last < first, name
    state = safetensors_io.load(after.folder / "denoiser.safetensors")
    assert set(state) == set(UNet(space.backbone, 4, 384).state_dict())  # no adapters in what is kept


def test_interrupted_it_ends_bitwise_where_a_straight_run_does(wide, narrow, decoder, tmp_path, monkeypatch):
    space, pruned = narrow
    config, inputs = replace(CONFIG, teacher=str(wide), pruned=str(pruned)), Inputs(space, decoder)
    straight = run_stage("distill", tmp_path / "straight", config, inputs).folder
    read = Batches.joint_on_host

    def stop(self, step):
        if step == 12:
            raise KeyboardInterrupt
        return read(self, step)

    monkeypatch.setattr(Batches, "joint_on_host", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stage("distill", tmp_path / "stopped", config, inputs)
    monkeypatch.undo()
    again = run_stage("distill", tmp_path / "stopped", config, inputs).folder
    a, b = (safetensors_io.load(folder / "denoiser.safetensors") for folder in (straight, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (straight / "history.csv").read_text() == (again / "history.csv").read_text()


def test_the_losses_are_those_of_the_paper(wide, narrow, decoder, space):
    """Against the two models run apart; the teacher predicts noise at Stable Diffusion's timesteps and scale."""
    small, _ = narrow
    teacher = load_teacher(wide, small)
    torch.manual_seed(1)
    denoiser = UNet(small.backbone, 4, 384)
    student = Student(denoiser, teacher)
    batch = Batches(decoder, 0, 0, 3, objective=Objective("epsilon")).of_images(0)
    found = distillation_losses(student, teacher, batch)

    x0, noise, t = (value[:, :, 0] if value.dim() == 5 else value for value in (batch.latents, batch.noise, batch.t))
    x = (1 - t)[:, None, None, None] * x0 + t[:, None, None, None] * noise
    with torch.no_grad():
        velocity = denoiser(x, 1000 * t, batch.context)
        scale = ((1 - t) ** 2 + t**2).sqrt()[:, None, None, None]
        epsilon = teacher.unet(x / scale, ddpm.timestep(t), batch.context)
    # the noise that the student's velocity means: v = eps - x0 and x = (1 - t) x0 + t eps
    own_epsilon = x + (1 - t)[:, None, None, None] * velocity
    torch.testing.assert_close(found["output"], (own_epsilon - epsilon).square().mean(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found["task"], (velocity - (noise - x0)).square().mean())

    features = {}
    for unet, at, timestep in ((denoiser, x, 1000 * t), (teacher.unet, x / scale, ddpm.timestep(t))):
        with torch.no_grad():
            skips = unet.encode(at, unet.embed_time(timestep, batch.context), batch.context, lambda site, value: value)
        features[unet] = list(skips.values())[unet.config.layers_per_block]  # conv_in, then those of level 0
    mapped = student.adapters["down_0"](features[denoiser])
    teachers = features[teacher.unet]
    _, given = block_features(teacher.unet, (x / scale)[:, :, None], ddpm.timestep(t), batch.context)
    torch.testing.assert_close(given["down.0"], teachers)
    assert set(student.blocks) == {"down.0", "down.1", "mid", "up.1", "up.0"}
    assert found["features"] > torch.nn.functional.mse_loss(mapped, teachers)  # one of five


def test_a_teacher_that_does_not_fit_is_refused(space, wide, tmp_path):
    save_unet(UNet(space.backbone, 4, 12), tmp_path / "unet")
    with pytest.raises(ConfigError, match=r"the teacher's text.dim is 12, the search space says 384"):
        load_teacher(tmp_path, space)
    write_json(tmp_path / "scheduler" / "scheduler_config.json", {"prediction_type": "sample"})
    with pytest.raises(ConfigError, match="prediction_type"):
        load_teacher(tmp_path, space)
    assert load_teacher(wide, space).objective == Objective("epsilon")
