"""Epsilon and v prediction against diffusers' schedulers; timestep shift; min-SNR."""

from __future__ import annotations

import math

import pytest
import torch

import nas
from nas.diffusion import ddpm
from nas.diffusion.losses import denoising_loss, validation_loss
from nas.diffusion.predictions import (
    Objective,
    add_noise,
    guided_velocity_fn,
    model_input,
    per_clip,
    to_velocity,
    velocity_fn,
)
from nas.diffusion.sampling import sample_euler
from nas.diffusion.schedules import draw_timesteps, sampling_schedule, scale_noise, shift_timesteps, timesteps
from nas.diffusion.seeding import generator
from nas.errors import ConfigError

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


class Answers(torch.nn.Module):
    """A fixed nonlinear function in a denoiser's place; keeps what it was given."""

    def __init__(self, prediction: str, **options) -> None:
        super().__init__()
        self.objective = Objective(prediction, **options)

    def forward(self, x, timestep, context):
        self.x, self.timestep = x, timestep
        return torch.tanh(0.7 * x + 0.3 * context.view(-1, 1, 1, 1, 1)) + timestep.view(-1, 1, 1, 1, 1) / 3000


@pytest.fixture(scope="module")
def ddpm_scheduler():
    import diffusers  # takes seconds, which only the process that runs these tests should spend

    return diffusers.DDPMScheduler(**SD)


def clips(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 3, 4, 4, generator=stream), torch.randn(count, 4, 3, 4, 4, generator=stream)


TIMESTEPS = torch.tensor([0, 1, 100, 500, 998, 999])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_inputs_and_targets_are_those_of_diffusers(prediction, ddpm_scheduler):
    """The denoiser sees DDPM's x_k at k; a perfect prediction has the true velocity and no loss."""
    (x0, noise), model = clips(6), Answers(prediction)
    t = ddpm.flow_time(TIMESTEPS)
    x, timestep = model_input(model.objective, add_noise(x0, noise, t), t)
    assert torch.allclose(timestep, TIMESTEPS.float(), atol=2e-3)
    assert torch.allclose(x, ddpm_scheduler.add_noise(x0, noise, TIMESTEPS), atol=1e-5)
    target = noise if prediction == "epsilon" else ddpm_scheduler.get_velocity(x0, noise, TIMESTEPS)
    velocity = to_velocity(model.objective, target, add_noise(x0, noise, t), t)
    assert torch.allclose(velocity, noise - x0, atol=1e-4)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_that_of_the_prediction_weighted_by_min_snr(prediction, gamma, ddpm_scheduler):
    """By diffusers' training scripts: mse of the prediction, times min(SNR, gamma) / SNR or / (SNR + 1)."""
    from diffusers.training_utils import compute_snr

    (x0, noise), model, context = clips(6), Answers(prediction, min_snr=gamma), torch.linspace(-1, 1, 6)
    steps = torch.tensor([3, 100, 300, 500, 800, 999])
    got = denoising_loss(model, x0, context, noise, ddpm.flow_time(steps))
    target = noise if prediction == "epsilon" else ddpm_scheduler.get_velocity(x0, noise, steps)
    answer = model(ddpm_scheduler.add_noise(x0, noise, steps), steps.float(), context)
    each = (answer - target).square().flatten(1).mean(1)
    if gamma:
        snr = compute_snr(ddpm_scheduler, steps)
        each = each * snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)
    assert got.item() == pytest.approx(each.mean().item(), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_euler_in_the_flows_time_is_ddim(prediction, steps):
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        **SD,
        prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(steps)
    model, context = Answers(prediction), torch.tensor([0.5, -0.5])
    noise = clips(2)[1]
    expected = noise
    for timestep in scheduler.timesteps:
        answer = model(expected, timestep.float().expand(2), context)
        expected = scheduler.step(answer, timestep, expected).prev_sample
    times = sampling_schedule(model, steps, (4, 4))
    got = sample_euler(velocity_fn(model, context), scale_noise(noise, times[0]), times)
    # At timestep 999 x_0 is 15 times the error of eps away, so float32 is good for about 1e-4 of it.
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


def test_guidance_of_a_prediction_is_guidance_of_its_velocity():
    model, x, t = Answers("epsilon"), clips(2)[0], torch.tensor([0.3, 0.8])
    context, empty = torch.tensor([[[1.0]], [[2.0]]]), torch.zeros(1, 1, 1)
    got = guided_velocity_fn(model, context, empty, 3.0)(x, t)
    scaled, timestep = model_input(model.objective, x, t)
    without, with_text = (model(scaled, timestep, c) for c in (empty.expand(2, 1, 1), context))
    expected = to_velocity(model.objective, without + 3 * (with_text - without), x, t)
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_shift_is_that_of_flow_match_euler():
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = shift_timesteps(torch.arange(1000, 0, -1) / 1000, 3.0)
    assert torch.allclose(ours, scheduler.sigmas[:1000], atol=1e-6)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    assert torch.allclose(torch.tensor(timesteps(4, 3.0)), scheduler.sigmas, atol=1e-6)


def test_the_shift_grows_with_the_resolution_in_training_and_in_sampling():
    model = Answers("flow", shift=2.0, shift_base=64)
    assert sampling_schedule(model, 4, (8, 8)) == timesteps(4, 2.0)
    assert sampling_schedule(model, 4, (16, 16)) == timesteps(4, 4.0)
    plain, moved = Objective(), model.objective
    a, b = (draw_timesteps(o, torch.randn(64, generator=generator(0)), (16, 16)) for o in (plain, moved))
    assert torch.allclose(torch.logit(b) - torch.logit(a), torch.tensor(math.log(4.0)), atol=1e-4)


def test_ddpm_timesteps_are_drawn_evenly_from_the_whole_range():
    t = draw_timesteps(Objective("epsilon"), torch.randn(20000, generator=generator(0)), (8, 8))
    timestep = ddpm.timestep(t)
    assert torch.allclose(timestep, timestep.round(), atol=2e-3)
    counts = torch.histc(timestep.round(), 10, 0, 1000)
    assert counts.min() > 1800 and counts.max() < 2200


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prediction": "epsilion"}, "did you mean 'epsilon'"),
        ({"min_snr": 5.0}, "min_snr: applies to 'epsilon'"),
        ({"prediction": "v", "shift": 3.0}, "remove it for 'v'"),
        ({"shift": 0.0}, "above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        nas.config.build(Objective, options, "recipe.yaml")


@pytest.mark.parametrize(
    "options", [{}, {"shift": 3.0, "shift_base": 4}, {"prediction": "epsilon"}, {"prediction": "v"}]
)
def test_a_model_learns_one_clip_and_the_sampler_finds_it(options):
    """End to end on the simplest data there is: the best prediction for a single clip is known in closed form."""
    clip = clips(1)[0]

    class Knows(torch.nn.Module):
        objective = Objective(**options)

        def forward(self, x, timestep, context):
            if self.objective.prediction == "flow":
                return (x - clip) / per_clip(timestep / 1000)
            t = per_clip(ddpm.flow_time(timestep.round().long()))
            scale = ddpm.scale(t)
            eps = (x * scale - (1 - t) * clip) / t
            return eps if self.objective.prediction == "epsilon" else ((1 - t) * eps - t * clip) / scale

    model = Knows()
    assert validation_loss(model, clip.expand(8, -1, -1, -1, -1), torch.zeros(8, 1, 1)) < 1e-4
    times = sampling_schedule(model, 4, (4, 4))
    end = sample_euler(velocity_fn(model, None), scale_noise(clips(1)[1], times[0]), times)
    assert torch.allclose(end, clip, atol=1e-2)
