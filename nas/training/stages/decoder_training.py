"""The training steps of the stage `decoder`: of a whole autoencoder, or of a decoder that is distilled from a public one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas import distributed
from nas.data.skipped import SkippingSource
from nas.data.source import batch_indices
from nas.diffusion.seeding import generator, normal_rows
from nas.distributed.prefetch import StepLoader
from nas.errors import ConfigError
from nas.models import Autoencoder, VAEConfig
from nas.models.autoencoder import PublicAutoencoder, encode_clips
from nas.spaces import Latent
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner
from nas.training.stages.decoder_distillation import (
    DecoderStudent,
    Latents,
    distillation_losses,
    perceptual_distance,
    with_normalization,
)

if TYPE_CHECKING:
    from nas.training.stages.decoder import DecoderConfig

Step = Callable[[int], dict[str, float]]


def reconstruction(
    vae: VAEConfig, config: DecoderConfig, source: SkippingSource, latent: Latent, execution: ExecutionConfig
) -> tuple[Learner, Step]:
    """Training of a whole autoencoder on the clips of a source."""
    autoencoder = Autoencoder(vae)
    learner = Learner(autoencoder, config.optimization, config.steps, execution=execution)

    def read(number: int) -> list[Tensor]:
        batch, frames = _step_size(source, config, number)
        shape = (latent.channels, vae.latent_frames(frames), latent.height, latent.width)
        noise = normal_rows(math.prod(shape), range(batch)[distributed.share(batch)], config.seed, number)
        return [_training_clips(source, config, number), noise.reshape(-1, *shape)]

    inputs = StepLoader(read, execution.loaders(learner.device))

    def step(number: int) -> dict[str, float]:
        def loss(part: _Noised) -> dict[str, Tensor]:
            mean, log_variance = autoencoder.encode_moments(part.clips)
            latents = mean + part.noise * (0.5 * log_variance).exp()
            error = F.mse_loss(autoencoder.decode_unscaled(latents), part.clips)
            if vae.temporal_compression > 1 and part.clips.shape[2] > 1:
                still = F.mse_loss(autoencoder.decode_unscaled(latents[:, :, :1]), part.clips[:, :, :1])
                error = error + still / part.clips.shape[2]
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            return {"loss": error + config.kl * divergence, "error": error, "kl": divergence}

        row = learner.train_step(loss, _Noised(*inputs(number)), number)
        return {"loss": row["error"], "kl": row["kl"], "grad_norm": row["grad_norm"]}

    return learner, step


def distillation(
    teacher: PublicAutoencoder,
    vae: VAEConfig,
    config: DecoderConfig,
    source: SkippingSource,
    latent: Latent,
    execution: ExecutionConfig,
) -> tuple[Learner, Step]:
    """Training of a `DecoderStudent` on the latents of the clips of a source."""
    example = torch.zeros(1, latent.channels, latent.frames, latent.height, latent.width)
    student = DecoderStudent(Autoencoder(with_normalization(vae, teacher), teacher), teacher, example)
    learner = Learner(student, config.optimization, config.steps, execution=execution)
    teacher.to(learner.device)
    perceptual = perceptual_distance(learner.device) if config.lpips else None

    inputs = StepLoader(lambda number: [_training_clips(source, config, number)], execution.loaders(learner.device))

    def step(number: int) -> dict[str, float]:
        latents = encode_clips(teacher, *inputs(number))

        def loss(part: Latents) -> dict[str, Tensor]:
            losses = distillation_losses(student, teacher, part.latents)
            row = {"output": losses["output"], "features": losses["features"]}
            total = losses["output"] + config.features * losses["features"]
            if perceptual is not None:
                row["lpips"] = perceptual(losses["clip"], losses["target"])
                total = total + config.lpips * row["lpips"]
            return {"loss": total, **row}

        row = learner.train_step(loss, Latents(latents), number)
        return {"loss": row.pop("output"), **{name: value for name, value in row.items() if name != "loss"}}

    return learner, step


@dataclass(frozen=True)
class _Noised:
    """Clips `(B, C, T, H, W)` and noise `(B, c, T, h, w)` for their latents."""

    clips: Tensor
    noise: Tensor

    def split(self, parts: int) -> list[_Noised]:
        if len(self.clips) % parts:
            raise ConfigError(f"batch: {len(self.clips)} clips cannot be accumulated in {parts} equal parts")
        return [_Noised(*part) for part in zip(self.clips.chunk(parts), self.noise.chunk(parts))]


def _step_size(source: SkippingSource, config: DecoderConfig, number: int) -> tuple[int, int]:
    """Clips of a step over all processes, and frames of each."""
    frames = config.frames or source.source.frames
    return (config.batch * frames, 1) if number < config.image_steps else (config.batch, frames)


def _training_clips(source: SkippingSource, config: DecoderConfig, number: int) -> Tensor:
    """This process's share of the clips of a step, or the parts of them that the step trains on."""
    batch, frames = _step_size(source, config, number)
    mine = distributed.share(batch)
    clips = read_clips(source, batch_indices(config.seed, number, batch, source.videos)[mine])
    if frames == clips.shape[2]:
        return clips
    stream = generator(config.seed, number)
    starts = torch.randint(clips.shape[2] - frames + 1, (batch,), generator=stream)[mine].tolist()
    return torch.stack([clip[:, start : start + frames] for clip, start in zip(clips, starts)])


def read_clips(source: SkippingSource, indices: list[int]) -> Tensor:
    """The clips of these numbers, `(B, C, T, H, W)`."""
    return torch.from_numpy(np.stack([source.video(index).pixels for index in indices]))
