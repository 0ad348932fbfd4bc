"""Reconstruction quality of an autoencoder: PSNR, SSIM, and the PSNR of the differences between frames."""

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
    """Accumulates PSNR in dB (of the mean squared error over all clips) and mean SSIM over batches of clips.

    `difference_psnr_db` compares the changes from each frame to the next, with the same peak as `psnr_db`: errors that
    all frames share, such as blur, cancel, and flicker and missing motion do not. NaN if all clips are images.
    """

    squares: float = 0.0
    similarity: float = 0.0
    values: int = 0
    frames: int = 0
    difference_squares: float = 0.0
    differences: int = 0

    def add(self, rebuilt: Tensor, original: Tensor) -> None:
        """Add clips `(B, C, T, H, W)` in [-1, 1]; values outside the range are clamped."""
        rebuilt, original = rebuilt.clamp(-1, 1), original.to(rebuilt.device)
        self.squares += F.mse_loss(rebuilt, original, reduction="sum").item()
        self.values += original.numel()
        similarity = ssim(rebuilt, original)
        self.similarity += similarity.sum().item()
        self.frames += similarity.numel()
        change, expected = rebuilt.diff(dim=2), original.diff(dim=2)
        self.difference_squares += F.mse_loss(change, expected, reduction="sum").item()
        self.differences += expected.numel()

    @property
    def psnr_db(self) -> float:
        return 10 * torch.log10(torch.tensor(PEAK**2 * self.values / self.squares)).item()

    @property
    def difference_psnr_db(self) -> float:
        ratio = torch.tensor(PEAK**2 * self.differences) / self.difference_squares
        return 10 * torch.log10(ratio).item()

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
    precise = torch.float32 if a.device.type == "mps" else torch.float64  # MPS has no float64
    offsets = torch.arange(WINDOW, dtype=precise, device=a.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    rows, columns = (_sliding(weights / weights.sum(), length) for length in (height, width))

    def blur(x: Tensor) -> Tensor:
        return rows @ x @ columns.T

    x, y = (clip.to(precise).transpose(1, 2).reshape(-1, height, width) for clip in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.mean((1, 2)).reshape(batch, frames, channels).mean(2)


def _sliding(window: Tensor, length: int) -> Tensor:
    """The matrix `(length - n + 1, length)` that slides a window `(n,)` over a vector; faster than a float64 convolution."""
    matrix = window.new_zeros(length - len(window) + 1, length)
    for row in range(len(matrix)):
        matrix[row, row : row + len(window)] = window
    return matrix


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, video: Tensor) -> Tensor:
    """Encode and decode clips `(B, C, T, H, W)`; long or large ones a few frames at a time."""
    latents = encode_clips(autoencoder, video)
    batch, _, _, height, width = video.shape
    chunk = max(1, MAX_PIXELS // (batch * height * width * autoencoder.config.temporal_compression))
    return torch.cat(list(decode_chunks(autoencoder, latents, chunk)), dim=2)
