"""Stage `decoder`: train the autoencoder with its separable video decoder, then encode the data once for all.

On moving digits it first trains and checks the classifier that will judge generated clips. Metrics: `psnr_db` of
held-out clips, `judge` (the classifier's accuracy on held-out real clips and on their reconstructions), and counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import ConfigError
from nas.files import write_json
from nas.models import Autoencoder, VAEConfig
from nas.training import cache, checkpoint, sources
from nas.training.data import Source, batch_indices
from nas.training.digits import LABELS, caption_of
from nas.training.loop import Learner, Optimization, run
from nas.training.objective import generator
from nas.training.quality import Judge, judge
from nas.training.stage import Inputs
from nas.training.text import TextEncoder


@dataclass(frozen=True)
class DecoderConfig:
    """Config of the stage.

    Attributes:
        data: `digits`, or the folder of a data set.
        steps, batch: optimiser steps, and clips in each.
        kl: weight of the divergence from a normal latent, next to a mean squared error per pixel.
        videos, images: how many of each to encode for training; all by default.
        held_out: clips of the test split to encode, for validation losses.
        classifier_steps: training of the judge of digit clips.
    """

    data: str = "digits"
    steps: int = 300
    batch: int = 8
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=3e-3))
    channels: tuple[int, ...] = (16, 32, 32)
    norm_groups: int = 8
    mid_attention: bool = False
    kl: float = 1e-4
    videos: int | None = 3000
    images: int | None = 3000
    held_out: int = 256
    classifier_steps: int = 250
    save_every: int = 100
    seed: int = 0


def decoder(folder: Path, config: DecoderConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    space = inputs.space
    factor = 2 ** (len(config.channels) - 1)
    source, test = (sources.load(config.data, split, space.latent, factor) for split in ("train", "test"))
    referee = judge(folder, source.frames, config.classifier_steps, config.seed) if config.data == "digits" else None
    torch.manual_seed(config.seed)
    autoencoder = Autoencoder(_vae_config(config, source, inputs))
    learner = Learner(autoencoder, config.optimization, config.steps)

    def step(number: int) -> dict[str, float]:
        clips = pixels(source, batch_indices(config.seed, number, config.batch, source.videos))
        mean, log_variance = autoencoder.encode_moments(clips)
        noise = torch.randn(mean.shape, generator=generator(config.seed, number))
        rebuilt = autoencoder.decode_unscaled(mean + noise * (0.5 * log_variance).exp())
        error = F.mse_loss(rebuilt, clips)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        norm = learner.update(error + config.kl * divergence, number)
        return {"loss": error.item(), "kl": divergence.item(), "grad_norm": norm}

    seconds = run("decoder", folder, config.steps, {"autoencoder": learner}, step, config.save_every)
    autoencoder.load_state_dict(learner.averaged())
    autoencoder = _scaled(autoencoder, pixels(source, batch_indices(0, 0, 64, source.videos)))
    checkpoint.save_autoencoder(folder, autoencoder)

    text = TextEncoder(space.text)
    judged = [caption_of(label) for label in LABELS] if referee else []
    train = cache.prepare(
        folder / "train", source, autoencoder.encode, text, config.videos, config.images, judged, "encode train"
    )
    held = cache.prepare(folder / "test", test, autoencoder.encode, text, config.held_out, 0, title="encode test")
    write_json(
        folder / "data.json",
        {
            "data": config.data,
            "frames": source.frames,
            "classifier_steps": config.classifier_steps,
            "seed": config.seed,
        },
    )
    metrics = {
        "psnr_db": psnr(autoencoder, test),
        "videos": train.videos,
        "images": train.images,
        "held_out": held.videos,
        "scaling_factor": autoencoder.scaling_factor,
    }
    if referee is not None:
        metrics["judge"] = _check(referee, autoencoder)
    return metrics, seconds


def pixels(source: Source, indices: list[int]) -> Tensor:
    return torch.from_numpy(np.stack([source.video(index).pixels for index in indices]))


@torch.no_grad()
def psnr(autoencoder: Autoencoder, source: Source, clips: int = 64) -> float:
    """Peak signal-to-noise ratio of reconstructed clips in dB; the peak is 2, as pixels span [-1, 1]."""
    video = pixels(source, batch_indices(0, 0, min(clips, source.videos), source.videos))
    error = F.mse_loss(autoencoder.decode(autoencoder.encode(video)).clamp(-1, 1), video)
    return float(10 * torch.log10(4 / error))


def _vae_config(config: DecoderConfig, source: Source, inputs: Inputs) -> VAEConfig:
    latent = inputs.space.latent
    vae = VAEConfig(
        config.channels,
        latent_channels=latent.channels,
        image_channels=source.channels,
        norm_groups=config.norm_groups,
        mid_attention=config.mid_attention,
    )
    size = (source.height // vae.downsampling, source.width // vae.downsampling)
    if size != (latent.height, latent.width):
        raise ConfigError(
            f"decoder.channels: {len(config.channels)} levels make {size[0]}x{size[1]} latents of "
            f"{source.height}x{source.width} clips; the search space asks for {latent.height}x{latent.width}"
        )
    return vae


@torch.no_grad()
def _scaled(autoencoder: Autoencoder, clips: Tensor) -> Autoencoder:
    """The same autoencoder with a scaling factor that gives latents a standard deviation of 1."""
    scale = 1 / autoencoder.encode_moments(clips)[0].std().item()
    scaled = Autoencoder(replace(autoencoder.config, scaling_factor=scale))
    scaled.load_state_dict(autoencoder.state_dict())
    return scaled.eval().requires_grad_(False)


@torch.no_grad()
def _check(referee: Judge, autoencoder: Autoencoder) -> dict[str, Any]:
    clips, labels = referee.held_out(256)
    rebuilt = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in clips.split(32)])
    return {
        "real_digit_accuracy": referee.accuracy[0],
        "real_direction_accuracy": referee.accuracy[1],
        "reconstructed": asdict(referee(rebuilt, labels)),
        "real": asdict(referee(clips, labels)),
    }
