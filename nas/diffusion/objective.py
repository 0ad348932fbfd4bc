"""Flow matching: how a clip is noised, what the denoiser is asked, and how it is sampled. Flat functions.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_t = (1 - t) x_0 + t eps with t in [0, 1], t = 1 pure noise; the
denoiser predicts the velocity v = eps - x_0, so x_0 = x_t - t v. Timesteps in training are logit-normal (Esser et al.
2024, arXiv 2403.03206, section 3.1). The denoiser's timestep embedding spans 0..1000: t goes in as 1000 t.

A denoiser that predicts the noise, or DDPM's v, carries an `Objective` that says so; `bind` and `guided` give its
velocity all the same, so that losses and samplers do not ask what they are training or sampling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.diffusion import ddpm
from nas.errors import ConfigError, suggestion
from nas.ranges import check_range

PREDICTIONS = ("flow", "epsilon", "v")
SAMPLERS = ("euler", "renoise")
MAX_SAMPLING_STEPS, MAX_GUIDANCE = 1000, 1000.0
"""Denoising steps at most (as many as Stable Diffusion has timesteps), and the largest guidance scale."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, T, H, W), t (B,)) -> v, of the shape of x_t. A denoiser with its context bound."""


@dataclass(frozen=True)
class Objective:
    """What a denoiser predicts, and at which timesteps it learns to.

    Attributes:
        prediction: `flow`: the velocity. `epsilon` or `v`: the noise, or sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and
            Ho 2022, arXiv 2202.00512, appendix D), at Stable Diffusion's timesteps, drawn evenly.
        time_mean, time_std: of the logit of flow's timesteps. What a caption decides is decided near t = 1, seldom met
            at a mean of 0.
        shift: flow's timesteps move to s t / (1 + (s - 1) t), in training and in sampling.
        shift_base: height times width of the latents at which `shift` holds; at others it is multiplied by the square
            root of their ratio (arXiv 2403.03206, section 5.3.2). None: the same at every size.
        min_snr: gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, section 3.4), for `epsilon` and `v`.

    Raises:
        ConfigError: an unknown prediction, what does not go with it, or a number out of range.
    """

    prediction: str = "flow"
    time_mean: float = 1.0
    time_std: float = 1.0
    shift: float = 1.0
    shift_base: int | None = None
    min_snr: float | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"prediction: there is no '{self.prediction}'{suggestion(self.prediction, PREDICTIONS)}")
        check_range(self, ("shift", "shift_base", "min_snr"), 0, above=True)
        check_range(self, ("time_mean",), -20, 20)
        check_range(self, ("time_std",), 0, 20, above=True)
        flow = self.prediction == "flow"
        if flow and self.min_snr is not None:
            raise ConfigError("min_snr: weighs 'epsilon' and 'v'; flow matching weighs by where its timesteps lie")
        if not flow and (self.shift != 1 or self.shift_base is not None):
            raise ConfigError(f"shift: moves flow's timesteps; drop it for '{self.prediction}'")


def of(model: torch.nn.Module) -> Objective:
    """The objective that a denoiser, maybe inside a distributed wrapper, carries as `objective`; else the default."""
    return getattr(getattr(model, "module", model), "objective", None) or Objective()


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


def flow_loss(velocity: Velocity, x0: Tensor, noise: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, each clip's times its weight `(B,)` if given."""
    predicted, target = velocity(add_noise(x0, noise, t), t), noise - x0
    if weight is None:
        return F.mse_loss(predicted, target)
    return ((predicted - target).square().flatten(1).mean(1) * weight).mean()


def loss(model: torch.nn.Module, x0: Tensor, context: Tensor, noise: Tensor, t: Tensor, *more: object) -> Tensor:
    """The loss of a denoiser under its objective: the mean squared error of what it predicts, weighted as asked."""
    return flow_loss(bind(model, context, *more), x0, noise, t, weights(of(model), t))


def of_batch(model: torch.nn.Module, batch: Any, *more: object) -> Tensor:
    """The loss on a `nas.data.batches.Batch`."""
    return loss(model, batch.latents, batch.context, batch.noise, batch.t, *more)


def weights(objective: Objective, t: Tensor) -> Tensor | None:
    """`(B,)`: what makes the velocity's squared error that of the prediction, times min-SNR's weight; None for flow.

    At a given x_t errors are proportional: in eps they are (1 - t) times those in velocity, in v sqrt((1-t)^2 + t^2).
    """
    if objective.prediction == "flow":
        return None
    signal_to_noise = ((1 - t) / t).square()
    if objective.prediction == "epsilon":
        native, divisor = (1 - t).square(), signal_to_noise
    else:
        native, divisor = ddpm.scale(t).square(), signal_to_noise + 1
    if objective.min_snr is None:
        return native
    return native * signal_to_noise.clamp(max=objective.min_snr) / divisor


def draw_times(objective: Objective, batch: int, stream: torch.Generator, size: tuple[int, int]) -> Tensor:
    """Training timesteps `(batch,)` for latents of this height and width."""
    if objective.prediction != "flow":
        return ddpm.flow_time(torch.randint(ddpm.TIMESTEPS, (batch,), generator=stream))
    t = logit_normal(batch, stream, objective.time_mean, objective.time_std)
    factor = shift_at(objective, size)
    return t if factor == 1 else shifted(t, factor)


def shift_at(objective: Objective, size: tuple[int, int]) -> float:
    """The timestep shift for latents of this height and width."""
    base = objective.shift_base
    return objective.shift * (1.0 if base is None else (size[0] * size[1] / base) ** 0.5)


def shifted(t: Tensor | float, shift: float) -> Tensor | float:
    """Noise over signal times `shift` (arXiv 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def model_input(objective: Objective, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and t as the denoiser wants them: at its own scale, and its timestep."""
    if objective.prediction == "flow":
        return x, 1000 * t
    t = t.clamp(max=ddpm.noisiest())
    return x / per_clip(ddpm.scale(t)), ddpm.timestep(t)


def velocity_of(objective: Objective, predicted: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The velocity that a prediction at x_t means."""
    if objective.prediction == "flow":
        return predicted
    t = per_clip(t.clamp(max=ddpm.noisiest()))
    if objective.prediction == "epsilon":
        return (predicted - x) / (1 - t)
    return (predicted * ddpm.scale(t) + (2 * t - 1) * x) / ddpm.scale(t).square()


def bind(model: torch.nn.Module, context: Tensor, *more: object) -> Velocity:
    """The velocity of a denoiser (or, with an architecture as `more`, of a supernet) under a context."""
    objective = of(model)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return velocity_of(objective, model(*model_input(objective, x, t), context, *more), x, t)

    return velocity


def guided(model: torch.nn.Module, context: Tensor, empty: Tensor, scale: float, *more: object) -> Velocity:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): v_empty + scale (v - v_empty).

    Args:
        context: `(B, tokens, dim)`; `empty`: `(1, tokens, dim)`, the context of the empty caption.
        scale: 1 is no guidance, and costs one pass of the model instead of two.
    """
    if scale == 1:
        return bind(model, context, *more)
    both = bind(model, torch.cat([context, empty.expand_as(context)]), *more)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        with_text, without = both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return without + scale * (with_text - without)

    return velocity


def schedule(model: torch.nn.Module, steps: int, size: tuple[int, int]) -> list[float]:
    """The sampling times of a denoiser for latents of this height and width, from noise to 0."""
    objective = of(model)
    if objective.prediction == "flow":
        return times(steps, shift_at(objective, size))
    return [*ddpm.flow_time(ddpm.sampled_timesteps(steps)).tolist(), 0.0]


def start(noise: Tensor, t: float) -> Tensor:
    """Noise as x_t at the first sampling time: of the variance that a noised clip has there."""
    return noise * ((1 - t) ** 2 + t**2) ** 0.5


def times(steps: int, shift: float = 1.0) -> list[float]:
    """The sampling times 1, 1 - 1/steps, ..., 1/steps, 0 of flow, shifted."""
    return [shifted(1 - step / steps, shift) for step in range(steps)] + [0.0]


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
        noise = torch.randn(x.shape, generator=stream).to(x.device)
        x = add_noise(x0, noise, x.new_full((len(x),), after))
    return x


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module, latents: Tensor, contexts: Tensor, *more: object, batch: int = 64, seed: int = 0
) -> float:
    """The loss with fixed noise and fixed timesteps: comparable between models and steps of the same objective.

    The timesteps are spread over the training's: where it looks most, models are compared most. What only shows near
    pure noise, such as whether a caption's direction is followed, would else hardly count in a search.

    Args:
        latents: `(N, C, T, H, W)`; contexts: `(N, tokens, dim)`.
        more: goes to the model after the context, such as a supernet's architecture.
    """
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator(seed, count))
    t = (torch.arange(count) + 0.5) / count
    asked = of(model)
    if asked.prediction == "flow":
        t = (asked.time_mean + asked.time_std * torch.special.ndtri(t)).sigmoid()
        t = shifted(t, shift_at(asked, latents.shape[-2:]))
    else:
        t = ddpm.flow_time((ddpm.TIMESTEPS * t).long())
    t = t[torch.randperm(count, generator=generator(seed, count, 1))]
    device, total = next((p.device for p in model.parameters()), latents.device), 0.0
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        value = loss(model, *(values[part].to(device) for values in (latents, contexts, noise, t)), *more)
        total += value.item() * len(latents[part])
    return total / count
