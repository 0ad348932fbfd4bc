"""Timesteps: how they are drawn in training, the sampling schedule, and the shift that adapts both to the resolution.

Training timesteps of rectified flow are logit-normal (Esser et al. 2024, arXiv 2403.03206, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas.diffusion import ddpm
from nas.diffusion.predictions import Objective, get_objective


def logit_normal(batch: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Timesteps `(batch,)` in (0, 1): the sigmoid of a normal draw."""
    return torch.sigmoid(mean + std * torch.randn(batch, generator=generator))


def draw_timesteps(objective: Objective, normal: Tensor, size: tuple[int, int]) -> Tensor:
    """Training timesteps `(batch,)` from as many normal numbers, for latents of this height and width."""
    if objective.prediction != "flow":
        steps = (ddpm.TIMESTEPS * torch.special.ndtr(normal)).long()
        return ddpm.flow_time(steps.clamp(max=ddpm.TIMESTEPS - 1), objective.zero_terminal_snr)
    t = torch.sigmoid(objective.time_mean + objective.time_std * normal)
    shift = resolution_shift(objective, size)
    return t if shift == 1 else shift_timesteps(t, shift)


def resolution_shift(objective: Objective, size: tuple[int, int]) -> float:
    """The timestep shift for latents of this height and width."""
    base = objective.shift_base
    return objective.shift * (1.0 if base is None else (size[0] * size[1] / base) ** 0.5)


def shift_timesteps(t: Tensor | float, shift: float) -> Tensor | float:
    """The times at which the ratio of noise to signal is `shift` times that at t (arXiv 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def timesteps(steps: int, shift: float = 1.0) -> list[float]:
    """The sampling times 1, 1 - 1/steps, ..., 1/steps, 0 of rectified flow, shifted."""
    return [shift_timesteps(1 - step / steps, shift) for step in range(steps)] + [0.0]


def sampling_schedule(model: torch.nn.Module, steps: int, size: tuple[int, int]) -> list[float]:
    """The `steps + 1` sampling times of a denoiser for latents of this height and width, from noise to 0."""
    objective = get_objective(model)
    if objective.prediction == "flow":
        return timesteps(steps, resolution_shift(objective, size))
    return [*ddpm.flow_time(ddpm.sampling_timesteps(steps), objective.zero_terminal_snr).tolist(), 0.0]


def scale_noise(noise: Tensor, t: float) -> Tensor:
    """Unit noise scaled to the variance of x_t, as the first input of a sampler that starts at t."""
    return noise * ((1 - t) ** 2 + t**2) ** 0.5
