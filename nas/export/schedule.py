"""How a clip is sampled, as numbers: what an app does at each step, without knowing any formula of diffusion."""

from __future__ import annotations

import itertools

import torch

from nas.checkpoint import Checkpoint
from nas.diffusion.predictions import Objective, get_objective, model_input, to_velocity
from nas.diffusion.schedules import resolution_shift, sampling_schedule, scale_noise
from nas.export.app import Sampling, Step


def sampling(checkpoint: Checkpoint) -> Sampling:
    """As `nas.diffusion.sampling.generate` samples the checkpoint by default."""
    info, model = checkpoint.info, checkpoint.denoiser
    asked = get_objective(model)
    size = checkpoint.space.input_shape()[-2:]
    schedule = sampling_schedule(model, info.steps, size)
    steps = [_step(asked, info.sampler, t, after) for t, after in itertools.pairwise(schedule)]
    start = scale_noise(torch.ones(()), schedule[0]).item()
    return Sampling(info.sampler, asked.prediction, info.guidance, resolution_shift(asked, size), start, tuple(steps))


def _step(asked: Objective, sampler: str, t: float, after: float) -> Step:
    """Both samplers and all predictions are affine in x and the prediction: their slopes are read off ones and zeros."""
    one, zero, time = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), torch.full((1,), t)
    given, timestep = model_input(asked, one, time)
    of_x = to_velocity(asked, zero, one, time).item()
    of_prediction = to_velocity(asked, one, zero, time).item()
    if sampler == "euler":
        keep, add, noise = 1 + (after - t) * of_x, (after - t) * of_prediction, 0.0
    else:
        keep, add, noise = (1 - after) * (1 - t * of_x), -(1 - after) * t * of_prediction, after
    return Step(t, timestep.item(), given.item(), keep, add, noise)
