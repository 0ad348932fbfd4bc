"""The sampling schedule of a checkpoint as coefficients per step, so that apps need no diffusion formulas."""

from __future__ import annotations

import itertools

import torch

from nas.checkpoint import Checkpoint
from nas.diffusion.predictions import Objective, get_objective, model_input, to_velocity
from nas.diffusion.schedules import resolution_shift, sampling_schedule, scale_noise
from nas.exported.app import Sampling, Step


def sampling(checkpoint: Checkpoint) -> Sampling:
    """The schedule that `nas.diffusion.sampling.generate` uses for the checkpoint by default."""
    info, model = checkpoint.info, checkpoint.denoiser
    objective = get_objective(model)
    size = checkpoint.space.input_shape()[-2:]
    schedule = sampling_schedule(model, info.steps, size)
    steps = [_step(objective, info.sampler, t, next_t) for t, next_t in itertools.pairwise(schedule)]
    start = scale_noise(torch.ones(()), schedule[0]).item()
    return Sampling(
        info.sampler, objective.prediction, info.guidance, resolution_shift(objective, size), start, tuple(steps)
    )


def _step(objective: Objective, sampler: str, t: float, next_t: float) -> Step:
    """Samplers and predictions are linear in x and the model output: ones and zeros give the coefficients."""
    one, zero, time = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), torch.full((1,), t)
    scaled, timestep = model_input(objective, one, time)
    of_x = to_velocity(objective, zero, one, time).item()
    of_prediction = to_velocity(objective, one, zero, time).item()
    if sampler == "euler":
        keep, add, noise = 1 + (next_t - t) * of_x, (next_t - t) * of_prediction, 0.0
    else:
        keep, add, noise = (1 - next_t) * (1 - t * of_x), -(1 - next_t) * t * of_prediction, next_t
    return Step(t, timestep.item(), scaled.item(), keep, add, noise)
