"""Trains small video autoencoders on the real clips and judges them: what the benchmarks of autoencoders share.

An image autoencoder is trained on single frames; with its weights and temporal factors of zero, a causal encoder and the
separable decoder are then trained together on windows. Finished or interrupted trainings in the folder are resumed.
"""

from __future__ import annotations

import copy
from dataclasses import astuple
from pathlib import Path

import torch
from real_clips import clips, held_out, training_batch
from torch import Tensor
from torch.nn import functional as F

from nas.metrics.reconstruction import Fidelity
from nas.models import Autoencoder, VAEConfig, decode_chunks
from nas.models.autoencoder import encode_clips
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization

WIDTHS = (8, 16, 32, 32)
CROP, FRAMES, IMAGES = 48, 9, 4
"""Pixels of a training window's side, its frames, and the frames in a batch of images."""
KL = 1e-6
SAVE_EVERY = 50


def config(latent_channels: int, widths: tuple[int, ...] = WIDTHS) -> VAEConfig:
    """With four widths, 8x8 spatial and 4x temporal compression."""
    return VAEConfig(
        widths, latent_channels=latent_channels, norm_groups=4, mid_attention=False, temporal_compression=4
    )


def train_image(folder: Path, latent_channels: int, seed: int, steps: int) -> Autoencoder:
    """The image autoencoder, trained on single frames; its temporal layers are still zero."""
    torch.manual_seed(seed)
    autoencoder = Autoencoder(config(latent_channels)).to(memory_format=torch.channels_last)  # faster
    spatial = {name for name, _ in autoencoder.named_parameters() if ".temporal." not in name}
    learner = Learner(autoencoder, Optimization(lr=3e-3), steps, trained=spatial.__contains__)

    def step(number: int) -> dict[str, float]:
        images = training_batch(2 * seed, number, IMAGES, 1, CROP)
        latents, divergence = _sampled(autoencoder, images, number)
        error = F.mse_loss(autoencoder.decode_unscaled(latents), images)
        return {"loss": error.item(), "grad_norm": learner.update(error + KL * divergence, number)}

    name = f"image-{latent_channels}-{seed}"
    run(name, folder / name, steps, {"autoencoder": learner}, step, SAVE_EVERY)
    autoencoder.load_state_dict(learner.ema_state())
    return autoencoder


def train_video(folder: Path, image: Autoencoder, seed: int, steps: int, batch: int) -> Autoencoder:
    """The video autoencoder, all of it trained on windows from the image autoencoder's weights, as stage `decoder` does."""
    autoencoder = copy.deepcopy(image)
    learner = Learner(autoencoder, Optimization(lr=2e-3), steps)

    def step(number: int) -> dict[str, float]:
        video = training_batch(2 * seed + 1, number, batch, FRAMES, CROP)
        latents, divergence = _sampled(autoencoder, video, number)
        error = F.mse_loss(autoencoder.decode_unscaled(latents), video)
        still = F.mse_loss(autoencoder.decode_unscaled(latents[:, :, :1]), video[:, :, :1])
        return {"loss": error.item(), "grad_norm": learner.update(error + still / FRAMES + KL * divergence, number)}

    name = f"video-{image.config.latent_channels}-{seed}"
    run(name, folder / name, steps, {"autoencoder": learner}, step, SAVE_EVERY)
    autoencoder.load_state_dict(learner.ema_state())
    return autoencoder


def _sampled(autoencoder: Autoencoder, video: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Latents drawn from their distribution, and its divergence from the standard normal one."""
    mean, log_variance = autoencoder.encode_moments(video)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(number))
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return mean + noise * (0.5 * log_variance).exp(), divergence


@torch.no_grad()
def evaluate(autoencoder: Autoencoder) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and PSNR of frame differences of the clips' held-out parts, each decoded whole: by clip and over all."""
    autoencoder.eval()
    found = {}
    for name in clips():
        found[name], video = Fidelity(), held_out(name, autoencoder.config.temporal_compression)
        found[name].add(autoencoder.decode(encode_clips(autoencoder, video)), video)
    found["all"] = Fidelity(*map(sum, zip(*map(astuple, found.values()))))
    return {name: _measures(fidelity) for name, fidelity in found.items()}


def _measures(fidelity: Fidelity) -> dict[str, float]:
    return {
        "psnr_db": fidelity.psnr_db,
        "ssim": fidelity.ssim,
        "difference_psnr_db": fidelity.difference_psnr_db,
    }


@torch.no_grad()
def streaming_difference(autoencoder: Autoencoder) -> float:
    """The largest difference between the held-out parts decoded a latent frame at a time and decoded whole."""
    autoencoder.eval()
    largest = 0.0
    for name in clips():
        latents = encode_clips(autoencoder, held_out(name, autoencoder.config.temporal_compression))
        streamed = torch.cat(list(decode_chunks(autoencoder, latents, 1)), dim=2)
        largest = max(largest, (streamed - autoencoder.decode(latents)).abs().max().item())
    return largest
