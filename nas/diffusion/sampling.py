"""Samplers over a schedule of times, and the generation of latents from a denoiser."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nas.diffusion.predictions import Velocity, add_noise, guided_velocity_fn, predict_x0
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.diffusion.seeding import generator
from nas.diffusion.windows import windowed

Sampler = Literal["euler", "renoise"]
SAMPLERS = get_args(Sampler)
MAX_SAMPLING_STEPS = 1000
"""As many denoising steps as Stable Diffusion has timesteps."""


@torch.no_grad()
def sample_euler(velocity: Velocity, x: Tensor, schedule: Sequence[float]) -> Tensor:
    """Euler's method from noise x at `schedule[0]` to a clip at `schedule[-1]`."""
    for t, following in itertools.pairwise(schedule):
        x = x + (following - t) * velocity(x, x.new_full((len(x),), t))
    return x


@torch.no_grad()
def sample_renoise(velocity: Velocity, x: Tensor, schedule: Sequence[float], stream: torch.Generator) -> Tensor:
    """The few-step sampler of distilled models: predict x_0, add new noise at the next time, repeat.

    Consistency models (Song et al. 2023, arXiv 2303.01469), algorithm 1. With one step it equals Euler's method.
    """
    for t, following in itertools.pairwise(schedule):
        time = x.new_full((len(x),), t)
        x0 = predict_x0(x, velocity(x, time), time)
        noise = torch.randn(x.shape, generator=stream).to(x.device)
        x = add_noise(x0, noise, x.new_full((len(x),), following))
    return x


@torch.no_grad()
def generate(
    denoiser: nn.Module,
    context: Tensor,
    empty: Tensor,
    shape: tuple[int, int, int, int],
    steps: int,
    guidance: float = 1.0,
    sampler: Sampler = "euler",
    seed: int = 0,
    batch: int = 40,
    window: int | None = None,
) -> Tensor:
    """Latents `(B, C, T, h, w)` on the CPU; with `euler` clip i depends only on the seed, i and its own context.

    Args:
        context: `(B, tokens, dim)`, the encoded captions; `empty`: `(1, tokens, dim)`, that of the empty caption.
        shape: `(C, T, h, w)`.
        batch: clips that pass through the denoiser at once.
        window: latent frames that the denoiser sees at a time, see `nas.diffusion.windows`; default: all.
    """
    noise = torch.stack([torch.randn(shape, generator=generator(seed, i)) for i in range(len(context))])
    schedule, latents = sampling_schedule(denoiser, steps, shape[-2:]), []
    device = next(denoiser.parameters()).device
    noise, context, empty = scale_noise(noise, schedule[0]).to(device), context.to(device), empty.to(device)
    for start in range(0, len(context), batch):
        part = slice(start, start + batch)
        velocity = guided_velocity_fn(denoiser, context[part], empty, guidance)
        if window is not None:
            velocity = windowed(velocity, window)
        if sampler == "euler":
            latents.append(sample_euler(velocity, noise[part], schedule))
        else:
            latents.append(sample_renoise(velocity, noise[part], schedule, generator(seed, start, steps)))
    return torch.cat(latents).cpu()
