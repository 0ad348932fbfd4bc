"""Scheduler configs of diffusers checkpoints: honored, or refused by name; zero terminal SNR against diffusers."""

from __future__ import annotations

import pytest
import torch

from nas.diffusion import ddpm
from nas.diffusion.losses import denoising_loss
from nas.diffusion.predictions import Objective, add_noise, model_input, to_velocity, velocity_fn
from nas.diffusion.sampling import sample_euler
from nas.diffusion.scheduler_config import scheduler_objective
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.errors import ConfigError
from nas.files import write_json

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
ZERO_SNR = SD | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def write(folder, config):
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "DDPMScheduler",
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ],
)
def test_every_scheduler_that_diffusers_saves_is_read(kind, tmp_path):
    import diffusers  # takes seconds, which only the process that runs these tests should spend

    for config, objective in (({}, Objective("epsilon")), ({"prediction_type": "v_prediction"}, Objective("v"))):
        getattr(diffusers, kind)(**SD, **config).save_pretrained(tmp_path / "scheduler")
        assert scheduler_objective(tmp_path) == objective


def test_without_a_scheduler_it_is_stable_diffusion(tmp_path):
    assert scheduler_objective(tmp_path) == Objective("epsilon")


def test_zero_terminal_snr_is_honored_for_v(tmp_path):
    import diffusers

    diffusers.DDIMScheduler(**ZERO_SNR).save_pretrained(tmp_path / "scheduler")
    assert scheduler_objective(tmp_path) == Objective("v", zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"prediction_type": "sample"}, "unknown prediction_type 'sample'; known: epsilon, v_prediction"),
        ({"prediction_type": ["epsilon"]}, "unknown prediction_type"),
        ({"beta_schedule": "linear"}, "beta_schedule: 'linear' is not implemented"),
        ({"beta_start": 0.0001}, "beta_start: 0.0001 is not implemented"),
        ({"beta_end": 0.02}, "beta_end: 0.02"),
        ({"num_train_timesteps": 4000}, "num_train_timesteps: 4000"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"snr_offset": 1}, "unknown key 'snr_offset'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr: true: zero_terminal_snr: applies to 'v' only"),
        ([1], "expected an object"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(config, named, tmp_path):
    with pytest.raises(ConfigError, match=f"scheduler_config.json.*{named}"):
        scheduler_objective(write(tmp_path, config))


class Answers(torch.nn.Module):
    """A fixed nonlinear function in a denoiser's place."""

    objective = Objective("v", zero_terminal_snr=True)

    def forward(self, x, timestep, context):
        return torch.tanh(0.7 * x + 0.3 * context.view(-1, 1, 1, 1, 1)) + timestep.view(-1, 1, 1, 1, 1) / 3000


def clips(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 3, 4, 4, generator=stream), torch.randn(count, 4, 3, 4, 4, generator=stream)


def test_inputs_targets_and_loss_at_zero_terminal_snr_are_those_of_diffusers():
    import diffusers

    scheduler = diffusers.DDPMScheduler(**ZERO_SNR)
    steps = torch.tensor([0, 1, 100, 500, 998, 999])
    (x0, noise), objective = clips(6), Answers.objective
    t = ddpm.flow_time(steps, zero_snr=True)
    assert t[-1] == 1 == ddpm.max_time(zero_snr=True)
    x, timestep = model_input(objective, add_noise(x0, noise, t), t)
    assert torch.allclose(timestep, steps.float(), atol=2e-3)
    assert torch.allclose(x, scheduler.add_noise(x0, noise, steps), atol=2e-5)
    target = scheduler.get_velocity(x0, noise, steps)
    assert torch.allclose(to_velocity(objective, target, add_noise(x0, noise, t), t), noise - x0, atol=1e-4)
    context = torch.linspace(-1, 1, 6)
    answer = Answers()(scheduler.add_noise(x0, noise, steps), steps.float(), context)
    loss = denoising_loss(Answers(), x0, context, noise, t)
    assert loss.item() == pytest.approx((answer - target).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_sampling_at_zero_terminal_snr_is_ddim_from_pure_noise(steps):
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        **ZERO_SNR, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    model, context, noise = Answers(), torch.tensor([0.5, -0.5]), clips(2)[1]
    expected = noise
    for timestep in scheduler.timesteps:
        answer = model(expected, timestep.float().expand(2), context)
        expected = scheduler.step(answer, timestep, expected).prev_sample
    times = sampling_schedule(model, steps, (4, 4))
    assert times[0] == 1
    got = sample_euler(velocity_fn(model, context), scale_noise(noise, times[0]), times)
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_zero_terminal_snr_is_refused_where_it_would_be_silently_wrong(prediction):
    with pytest.raises(ConfigError, match="zero_terminal_snr: applies to 'v' only"):
        Objective(prediction, zero_terminal_snr=True)
