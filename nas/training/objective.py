"""Flow matching: how a clip is noised, what the denoiser is asked, and how it is sampled. Flat functions.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_t = (1 - t) x_0 + t eps with t in [0, 1], t = 1 pure noise; the
denoiser predicts the velocity v = eps - x_0, so x_0 = x_t - t v. Timesteps in training are logit-normal (Esser et al.
2024, arXiv 2403.03206, section 3.1). The denoiser's timestep embedding spans 0..1000: t goes in as 1000 t.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, T, H, W), t (B,)) -> v, of the shape of x_t. A denoiser with its context bound."""


def generator(*numbers: int) -> torch.Generator:
    """A random stream that is a function of these whole numbers, such as (seed, step): nothing to save or restore."""
    mixed = 0
    for number in numbers:  # splitmix64: near seeds give unrelated streams
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed % 2**63)


def logit_normal(batch: int, stream: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Timesteps `(batch,)` in (0, 1): the sigmoid of a normal draw."""
    return torch.sigmoid(mean + std * torch.randn(batch, generator=stream))


def per_clip(t: Tensor) -> Tensor:
    """`(B,)` -> `(B, 1, 1, 1, 1)`."""
    return t.view(-1, 1, 1, 1, 1)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return (1 - per_clip(t)) * x0 + per_clip(t) * noise


def clean(xt: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The x_0 that a velocity at x_t points back to."""
    return xt - per_clip(t) * v


def flow_loss(velocity: Velocity, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the velocity."""
    return F.mse_loss(velocity(add_noise(x0, noise, t), t), noise - x0)


def bind(model: torch.nn.Module, context: Tensor, *more: object) -> Velocity:
    """The velocity of a denoiser (or, with an architecture as `more`, of a supernet) under a context."""
    return lambda x, t: model(x, 1000 * t, context, *more)


def guided(model: torch.nn.Module, context: Tensor, empty: Tensor, scale: float, *more: object) -> Velocity:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): v_empty + scale (v - v_empty).

    Args:
        context: `(B, tokens, dim)`; `empty`: `(1, tokens, dim)`, the context of the empty caption.
        scale: 1 is no guidance, and costs one pass of the model instead of two.
    """
    if scale == 1:
        return bind(model, context, *more)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([context, empty.expand_as(context)])
        with_text, without = model(torch.cat([x, x]), 1000 * torch.cat([t, t]), both, *more).chunk(2)
        return without + scale * (with_text - without)

    return velocity


def times(steps: int) -> list[float]:
    """The sampling times 1, 1 - 1/steps, ..., 1/steps, 0."""
    return [1 - step / steps for step in range(steps)] + [0.0]


@torch.no_grad()
def sample_euler(velocity: Velocity, x: Tensor, schedule: Sequence[float]) -> Tensor:
    """Euler's method from noise x at schedule[0] to a clip at schedule[-1]."""
    for t, after in itertools.pairwise(schedule):
        x = x + (after - t) * velocity(x, x.new_full((len(x),), t))
    return x


@torch.no_grad()
def sample_renoise(velocity: Velocity, x: Tensor, schedule: Sequence[float], stream: torch.Generator) -> Tensor:
    """The few-step sampler of distilled models: predict x_0, add fresh noise at the next time, repeat.

    Consistency models (Song et al. 2023, arXiv 2303.01469), algorithm 1. The same as Euler at one step.
    """
    for t, after in itertools.pairwise(schedule):
        time = x.new_full((len(x),), t)
        x0 = clean(x, velocity(x, time), time)
        noise = torch.randn(x.shape, generator=stream)
        x = add_noise(x0, noise, x.new_full((len(x),), after))
    return x


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module, latents: Tensor, contexts: Tensor, *more: object, batch: int = 64, seed: int = 0
) -> float:
    """Flow-matching loss with fixed noise and stratified fixed timesteps: comparable between models and steps.

    Args:
        latents: `(N, C, T, H, W)`; contexts: `(N, tokens, dim)`.
        more: goes to the model after the context, such as a supernet's architecture.
    """
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator(seed, count))
    t = (torch.arange(count) + 0.5) / count
    t = torch.special.ndtri(t).sigmoid()[torch.randperm(count, generator=generator(seed, count, 1))]
    total = 0.0
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        loss = flow_loss(bind(model, contexts[part], *more), latents[part], noise[part], t[part])
        total += loss.item() * len(latents[part])
    return total / count
