"""Reconstruction quality of an autoencoder: PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.models import Autoencoder, decode_chunks
from nas.models.autoencoder import encode_clips
from nas.models.autoencoder.streaming import MAX_PIXELS

PEAK = 2.0
"""Range of pixel values, which are in [-1, 1]."""
WINDOW, SIGMA = 11, 1.5
"""Size and standard deviation of SSIM's Gaussian window, in pixels."""


@dataclass
class Fidelity:
    """Accumulates PSNR in dB (of the mean squared error over all clips) and mean SSIM over batches of clips."""

    squares: float = 0.0
    similarity: float = 0.0
    values: int = 0
    frames: int = 0

    def add(self, rebuilt: Tensor, original: Tensor) -> None:
        """Add clips `(B, C, T, H, W)` in [-1, 1]; values outside the range are clamped."""
        rebuilt = rebuilt.clamp(-1, 1)
        self.squares += F.mse_loss(rebuilt, original, reduction="sum").item()
        self.values += original.numel()
        similarity = ssim(rebuilt, original)
        self.similarity += similarity.sum().item()
        self.frames += similarity.numel()

    @property
    def psnr_db(self) -> float:
        return 10 * torch.log10(torch.tensor(PEAK**2 * self.values / self.squares)).item()

    @property
    def ssim(self) -> float:
        return self.similarity / self.frames


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each frame, `(B, T)`, of clips `(B, C, T, H, W)` in [-1, 1], the mean over channels.

    Wang et al. 2004 (IEEE TIP 13(4), eq. 13): Gaussian window of 11x11, sigma 1.5, K = (0.01, 0.03), without padding.

    Raises:
        ValueError: frames are smaller than the window.
    """
    batch, channels, frames, height, width = a.shape
    if min(height, width) < WINDOW:
        raise ValueError(f"ssim: frames of {height}x{width} are smaller than the window of {WINDOW}x{WINDOW}")
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, weights.view(1, 1, -1, 1))
        return F.conv2d(x, weights.view(1, 1, 1, -1))

    x, y = (clip.double().transpose(1, 2).reshape(-1, 1, height, width) for clip in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.mean((1, 2, 3)).reshape(batch, frames, channels).mean(2)


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, video: Tensor) -> Tensor:
    """Encode and decode clips `(B, C, T, H, W)`; long or large ones a few frames at a time."""
    latents = encode_clips(autoencoder, video)
    batch, _, _, height, width = video.shape
    chunk = max(1, MAX_PIXELS // (batch * height * width * autoencoder.config.temporal_compression))
    return torch.cat(list(decode_chunks(autoencoder, latents, chunk)), dim=2)
