"""Clips longer than a denoiser was trained on: overlapping temporal windows, denoised jointly."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.diffusion.predictions import Velocity
from nas.ranges import in_range


def windowed(velocity: Velocity, window: int) -> Velocity:
    """The velocity of a clip of any length, from a denoiser that sees `window` latent frames at a time.

    At each sampling step the velocities of windows that overlap by at least half are averaged where they overlap
    (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113, equation 5, over time as in Gen-L-Video, Wang et al. 2023,
    arXiv 2305.18264). Weights fall linearly towards the ends of a window, so that no frame differs from the next by
    more windows than it must. The denoiser's memory does not grow with the length.

    A clip of at most `window` frames is one window.

    Raises:
        ConfigError: `window` is below 1.
    """
    in_range(window, "window", 1)

    def whole(x: Tensor, t: Tensor) -> Tensor:
        length = x.shape[2]
        if length <= window:
            return velocity(x, t)
        total, weights = torch.zeros_like(x), x.new_zeros(length, 1, 1)
        shape = _weights(window).to(x)[:, None, None]
        for start in window_starts(length, window):
            frames = slice(start, start + window)
            total[:, :, frames] += shape * velocity(x[:, :, frames], t)
            weights[frames] += shape
        return total / weights

    return whole


def window_starts(length: int, window: int) -> list[int]:
    """First frames of the windows that cover `length` frames, evenly spaced; neighbors overlap by at least half."""
    last = length - window
    if last <= 0:
        return [0]
    steps = -(-last // max(1, window // 2))
    return [round(i * last / steps) for i in range(steps + 1)]


def _weights(window: int) -> Tensor:
    """`(window,)`: 1 in the middle, falling linearly to a small positive weight at both ends."""
    distance = (torch.arange(window) - (window - 1) / 2).abs()
    return 1 - distance / ((window + 1) / 2)
