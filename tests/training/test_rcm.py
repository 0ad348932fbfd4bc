"""Score-regularized consistency: a known answer, the derivative against forward-mode differentiation, resuming, options."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import nas
from nas.data.batches import Batch, Batches
from nas.data.latent_cache import LatentCache
from nas.diffusion.predictions import Objective, predict_x0, velocity_fn
from nas.errors import ConfigError
from nas.models import build
from nas.testing.stages import StageCase, StageTestCase
from nas.training import AdversarialConfig
from nas.training.optimization import Optimization
from nas.training.reflow import TeacherSampler
from nas.training.stages import adversarial
from nas.training.stages.few_step_methods import Dmd2Config, RcmConfig
from nas.training.stages.rcm import RcmTrainer, consistency_loss, difference

FAST = Optimization(lr=0.05, warmup=0, betas=(0.0, 0.9), weight_decay=0.0)
CONFIG = AdversarialConfig(
    method="rcm",
    steps=6,
    batch=4,
    image_batch_size=4,
    image_share=0.4,
    dmd2=Dmd2Config(critic_steps=3),
    eval_steps=(),
    control_eval_steps=(),
    save_every=2,
)
MEAN, STD = 0.7, 0.4


class Gaussian(nn.Module):
    """A denoiser of clips whose numbers are independent and normal: exact, or the exact consistency function.

    With s the deviation of x_t, the trajectory from x ends at mean + std (x - (1 - t) mean) / s; the clean clip expected
    at x is mean + (1 - t) std^2 (x - (1 - t) mean) / s^2.
    """

    def __init__(self, mean: float, std: float, consistent: bool) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor([mean])), nn.Parameter(torch.tensor([std]))
        self.consistent = consistent

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        t = timestep.view(-1, 1, 1, 1, 1) / 1000
        s = ((1 - t).square() * self.std.square() + t.square()).sqrt()
        normal = (x - (1 - t) * self.mean) / s
        factor = self.std if self.consistent else (1 - t) * self.std.square() / s
        return (x - self.mean - factor * normal) / t


def gaussian_trainer(decoder: Path, student: Gaussian, **options) -> RcmTrainer:
    exact = Gaussian(MEAN, STD, consistent=False).requires_grad_(False).to(student.mean.dtype)
    teacher = TeacherSampler(exact, LatentCache(decoder / "train").empty, guidance=1.0, times=(1.0, 0.5, 0.0))
    options = {"rcm": RcmConfig(time_step=1e-4), **options}
    config = replace(CONFIG, image_share=0.0, generator=FAST, dmd2=Dmd2Config(2, FAST), **options)
    trainer = RcmTrainer(student, teacher, config)
    trainer.fake_score.module.consistent = False  # a copy of the student
    return trainer


@pytest.fixture
def batch(decoder: Path) -> Batch:
    return Batches(decoder, seed=1, videos=16, images=4, caption_dropout=0.0, other_contexts=True).of_videos(0)


def tangent(trainer: RcmTrainer, batch: Batch, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's velocity at the batch's latents as noised clips, and the tangent there."""
    velocity = velocity_fn(trainer.student, batch.context)(batch.latents, t)
    return velocity, trainer.tangent(batch.latents, t, velocity, batch.context)


def test_at_the_exact_consistency_function_there_is_no_gradient(decoder, batch):
    batch = replace(batch, latents=batch.latents.double())
    t, gradients = torch.linspace(0.02, 1.0, len(batch.latents), dtype=torch.float64), []
    for mean, std in ((MEAN, STD), (MEAN + 0.1, STD), (MEAN, STD + 0.1)):
        trainer = gaussian_trainer(decoder, Gaussian(mean, std, consistent=True).double())
        velocity, direction = tangent(trainer, batch, t)
        consistency_loss(velocity, direction)[0].backward()
        gradients.append(torch.cat([trainer.student.mean.grad, trainer.student.std.grad]).abs())
    assert gradients[0].max() < 5e-3
    assert gradients[1][0] > 0.05 and gradients[2][1] > 0.05


def test_the_tangent_is_the_change_of_the_clip_along_the_teachers_trajectory(decoder, batch):
    """By hand: the clip predicted a little later on the trajectory, less the one a little earlier."""
    batch = replace(batch, latents=batch.latents.double())
    trainer = gaussian_trainer(decoder, Gaussian(-0.3, 0.8, consistent=True).double())
    x, t, h = batch.latents, torch.full((len(batch.latents),), 0.6, dtype=torch.float64), 1e-4
    along = velocity_fn(trainer.teacher.denoiser, batch.context)(x, t)
    student = velocity_fn(trainer.student, batch.context)
    later, earlier = (predict_x0(x + d * along, student(x + d * along, t + d), t + d) for d in (h, -h))
    torch.testing.assert_close(tangent(trainer, batch, t)[1], (later - earlier) / (2 * h), atol=1e-2, rtol=0)


def test_training_moves_one_step_samples_to_the_teachers_distribution(decoder, batch):
    trainer = gaussian_trainer(decoder, Gaussian(-0.5, 1.0, consistent=True), steps=160, rcm=RcmConfig())
    rows = [trainer.step(batch, number) for number in range(160)]
    noise = torch.randn(len(batch.latents), *batch.latents.shape[1:], generator=torch.Generator().manual_seed(0))
    samples = predict_x0(
        noise, trainer.student(noise, torch.full((len(noise),), 1000.0), batch.context), torch.ones(16)
    )
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert samples.std().item() == pytest.approx(STD, abs=0.05)
    assert trainer.fake_score.module.mean.item() == pytest.approx(MEAN, abs=0.1)
    assert math.isnan(rows[0]["tangent"]) and rows[-1]["tangent"] < 0.1 * rows[1]["tangent"]


def test_in_the_warm_up_the_derivative_gains_its_weight(decoder, batch):
    """Without it, the student is moved to the teacher's velocity."""
    trainer = gaussian_trainer(decoder, Gaussian(-0.5, 1.0, consistent=True))
    t = torch.full((len(batch.latents),), 0.7)
    velocity = velocity_fn(trainer.student, batch.context)(batch.latents, t)
    first, half, full = (trainer.tangent(batch.latents, t, velocity, batch.context, ramp) for ramp in (0.0, 0.5, 1.0))
    torch.testing.assert_close(first, trainer.teacher.denoiser(batch.latents, 1000 * t, batch.context) - velocity)
    torch.testing.assert_close(half, (first + full) / 2)
    assert (full - first).abs().mean() > 0.1


def random_denoiser(space: nas.SearchSpace, objective: Objective) -> nn.Module:
    torch.manual_seed(3)
    model = build(space, space.architecture({"mid.0/0": "SelfAttention1D", "up.1.1/0": "Conv1D"}))
    for parameter in model.parameters():  # zero-initialized layers too
        nn.init.normal_(parameter, std=0.05)
    model.objective = objective
    return model.double().requires_grad_(False)


@pytest.mark.parametrize("objective", [Objective(), Objective("v"), Objective("epsilon")], ids=lambda o: o.prediction)
def test_the_difference_agrees_with_forward_mode_differentiation(space, objective):
    """In float64, within 2%: the numbers inside the embedding of timesteps are float32."""
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 3, *space.input_shape()[1:], generator=generator, dtype=torch.float64)
    context = torch.randn(3, *space.context_shape()[1:], generator=generator, dtype=torch.float64)
    t = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)
    velocity = velocity_fn(random_denoiser(space, objective), context)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward-mode derivative
        _, exact = torch.func.jvp(velocity, (x, t), (direction, torch.ones_like(t)))
    error = difference(velocity, velocity(x, t), x, t, direction, 1e-5) - exact
    assert error.flatten(1).norm(dim=1).div(exact.flatten(1).norm(dim=1)).max() < 0.02


@pytest.mark.slow
class TestStage(StageTestCase):
    @pytest.fixture(scope="class")
    def case(self, finetuned) -> StageCase:
        return StageCase("adversarial", adversarial.adversarial, CONFIG, replace(CONFIG, seed=1), finetuned)

    @pytest.fixture(scope="class")
    def straight(self, case, tmp_path_factory):  # one for all tests
        return case.run(tmp_path_factory.mktemp("straight") / "straight")

    def test_the_students_steps_are_in_the_history(self, straight):
        rows = nas.training.read_history(straight.folder)
        assert [math.isnan(row["tangent"]) for row in rows] == [True, True, False] * 2
        assert "heads_loss" not in rows[0]


def test_a_step_costs_what_its_passes_do():
    """An update in every step: 4.8 passes of the fake score and 11 of the student, of which fine-tuning takes 3."""
    assert replace(CONFIG, dmd2=Dmd2Config(critic_steps=1)).step_cost == pytest.approx(15.8 / 3)
    assert CONFIG.step_cost == pytest.approx((4.8 + 11 / 3) / 3)
    assert AdversarialConfig(method="dmd2").step_cost == pytest.approx(7.3 / 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "rcn"}, "method: unknown method 'rcn'; did you mean 'rcm'?"),
        ({"method": "rcm", "steps": 7}, "steps: 7 is not a multiple of dmd2.critic_steps, 5"),
        ({"rcm": {"matching": 0.0}}, "matching: must be"),
        ({"rcm": {"warmup": 1.5}}, "warmup: must be"),
        ({"rcm": {"time_step": 0.0}}, "time_step: must be"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        options = {**options, "rcm": RcmConfig(**options.get("rcm", {}))}
        AdversarialConfig(**options)
