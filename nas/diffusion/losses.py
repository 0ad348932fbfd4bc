"""Denoising losses for training, and a validation loss with fixed noise and timesteps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.diffusion import ddpm
from nas.diffusion.predictions import (
    Objective,
    Velocity,
    add_noise,
    get_objective,
    model_input,
    to_velocity,
    velocity_fn,
)
from nas.diffusion.schedules import resolution_shift, shift_timesteps
from nas.diffusion.seeding import generator


class TrainingBatch(Protocol):
    """The tensors of a training step; see `nas.data.batches.Batch`."""

    latents: Tensor
    context: Tensor
    noise: Tensor
    t: Tensor


TIME_BINS = 4
"""Equal parts of the times 0..1 whose losses `batch_losses` gives."""


def flow_loss(velocity: Velocity, x0: Tensor, noise: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, each clip's times its weight `(B,)` if given."""
    return _weighted_error(velocity(add_noise(x0, noise, t), t), noise - x0, weight)


def _weighted_error(predicted: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    return F.mse_loss(predicted, target) if weight is None else (_clip_errors(predicted, target) * weight).mean()


def _clip_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """`(B,)`: the mean squared error of each clip."""
    return (predicted - target).square().flatten(1).mean(1)


def denoising_loss(
    model: torch.nn.Module, x0: Tensor, context: Tensor, noise: Tensor, t: Tensor, *more: object
) -> Tensor:
    """The loss of a denoiser under its objective: the weighted mean squared error of what it predicts."""
    return flow_loss(velocity_fn(model, context, *more), x0, noise, t, loss_weights(get_objective(model), t))


def batch_loss(model: torch.nn.Module, batch: TrainingBatch, *more: object) -> Tensor:
    """`denoising_loss` on a batch."""
    return denoising_loss(model, batch.latents, batch.context, batch.noise, batch.t, *more)


def batch_losses(model: torch.nn.Module, batch: TrainingBatch, *more: object) -> dict[str, Tensor]:
    """`denoising_loss` on a batch as `loss`, and its part at each of `TIME_BINS` times, for `nas.training.telemetry.history.by_share`.

    `loss_t0` to `loss_t3` are the mean over the batch of the losses of the clips with t in that quarter of 0..1, and
    `loss_t0:share` etc. the shares of these clips, so that both can be averaged over parts of a batch.
    """
    objective, target = get_objective(model), batch.noise - batch.latents
    weight = loss_weights(objective, batch.t)
    predicted = velocity_fn(model, batch.context, *more)(add_noise(batch.latents, batch.noise, batch.t), batch.t)
    losses = {"loss": _weighted_error(predicted, target, weight)}
    with torch.no_grad():
        errors = _clip_errors(predicted, target)
        errors = errors if weight is None else errors * weight
        bins = (batch.t * TIME_BINS).long().clamp(0, TIME_BINS - 1)
        for number in range(TIME_BINS):
            within = bins == number
            losses[f"loss_t{number}"] = torch.where(within, errors, 0.0).mean()
            losses[f"loss_t{number}:share"] = within.float().mean()
    return losses


def loss_weights(objective: Objective, t: Tensor) -> Tensor | None:
    """`(B,)`: what turns the velocity's squared error into the prediction's, times the min-SNR weight; None for flow.

    At a given x_t errors are proportional: in eps they are (1 - t) times those in velocity, in v sqrt((1-t)^2 + t^2).
    """
    if objective.prediction == "flow":
        return None
    signal_to_noise = ((1 - t) / t).square()
    if objective.prediction == "epsilon":
        conversion, divisor = (1 - t).square(), signal_to_noise
    else:
        conversion, divisor = ddpm.scale(t).square(), signal_to_noise + 1
    if objective.min_snr is None:
        return conversion
    return conversion * signal_to_noise.clamp(max=objective.min_snr) / divisor


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module, latents: Tensor, contexts: Tensor, *more: object, batch: int = 64, seed: int = 0
) -> float:
    """The loss with fixed noise and fixed timesteps: comparable between models and steps of the same objective.

    The timesteps are the quantiles of the training distribution, so that the times which matter in training also weigh
    most in the comparison of models.

    Args:
        latents: `(N, C, T, H, W)`; contexts: `(N, tokens, dim)`.
        more: passed to the model after the context, such as a supernet's architecture.
    """
    total = 0.0
    for inputs in _fixed_batches(model, latents, contexts, batch, seed):
        total += denoising_loss(model, *inputs, *more).item() * len(inputs[0])
    return total / len(latents)


@torch.no_grad()
def validation_losses(
    model: torch.nn.Module, latents: Tensor, contexts: Tensor, archs: Sequence[Any], batch: int = 64, seed: int = 0
) -> list[float]:
    """`validation_loss` of each architecture in a supernet, whose `forward_many` runs what they share once."""
    objective, totals = get_objective(model), [0.0] * len(archs)
    for x0, context, noise, t in _fixed_batches(model, latents, contexts, batch, seed):
        inputs, losses = model_input(objective, add_noise(x0, noise, t), t), []
        for members, predicted in model.forward_many(*inputs, context, archs):

            def velocity(x: Tensor, t: Tensor, predicted: Tensor = predicted) -> Tensor:
                return to_velocity(objective, predicted.to(x.dtype), x, t)

            losses.append((members, flow_loss(velocity, x0, noise, t, loss_weights(objective, t))))
        numbers = torch.stack([loss for _, loss in losses]).tolist() if losses else []  # the host waits once
        for (members, _), number in zip(losses, numbers):
            for member in members:
                totals[member] += number * len(x0)
    return [total / len(latents) for total in totals]


def _fixed_batches(
    model: torch.nn.Module, latents: Tensor, contexts: Tensor, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Latents, contexts, noise and t of each batch, on the model's device."""
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator(seed, count))
    quantiles = _quantiles(get_objective(model), count, latents.shape[-2:])
    t = quantiles[torch.randperm(count, generator=generator(seed, count, 1))]
    device = next((p.device for p in model.parameters()), latents.device)
    for start in range(0, count, batch):
        x0, context, eps, time = (v[start : start + batch].to(device) for v in (latents, contexts, noise, t))
        yield x0, context, eps, time


def _quantiles(objective: Objective, count: int, size: tuple[int, int]) -> Tensor:
    """`(count,)` timesteps that divide the training distribution evenly."""
    quantiles = (torch.arange(count) + 0.5) / count
    if objective.prediction != "flow":
        return ddpm.flow_time((ddpm.TIMESTEPS * quantiles).long(), objective.zero_terminal_snr)
    t = (objective.time_mean + objective.time_std * torch.special.ndtri(quantiles)).sigmoid()
    return shift_timesteps(t, resolution_shift(objective, size))
