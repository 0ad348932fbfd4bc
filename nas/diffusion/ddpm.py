"""Stable Diffusion's noise schedule in the time of rectified flow, so that one sampler and one loss serve both.

DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 4) adds noise as x_k = sqrt(a_k) x_0 + sqrt(1 - a_k) eps at timesteps
k = 0..999, rectified flow as x_t = (1 - t) x_0 + t eps. Where the ratio of noise to signal is the same,
sqrt((1 - a_k) / a_k) = t / (1 - t), the two differ only in scale: x_k = x_t / sqrt((1 - t)^2 + t^2). An Euler step of
the flow from t to t' then equals a step of DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 without noise).

`zero_snr` stands for the schedule rescaled to end in pure noise (Lin et al. 2024, arXiv 2305.08891, algorithm 1; diffusers'
`rescale_betas_zero_snr`). Its last timestep is t = 1, where noise tells nothing of x_0: it is for v prediction.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

TIMESTEPS, FIRST_BETA, LAST_BETA = 1000, 0.00085, 0.012
"""The scheduler of Stable Diffusion v1.5: the square roots of the betas are evenly spaced ("scaled linear")."""


@lru_cache
def times(zero_snr: bool = False) -> Tensor:
    """`(1000,)`, float64, rising: the t of each timestep, at which the ratio of noise to signal is the same."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, TIMESTEPS, dtype=torch.float64).square()
    signal = torch.cumprod(1 - betas, 0).sqrt()
    if zero_snr:
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    noise = (1 - signal.square()).sqrt()
    return noise / (noise + signal)


@lru_cache(maxsize=8)
def _table(device: torch.device, zero_snr: bool) -> Tensor:
    """`times` on a device, in float64 where the device has it."""
    return times(zero_snr).to(device, torch.float32 if device.type == "mps" else torch.float64)


def flow_time(timestep: Tensor, zero_snr: bool = False) -> Tensor:
    """Integer timesteps 0..999 -> t in (0, 1], float32."""
    return _table(timestep.device, zero_snr)[timestep].float()


def max_time(zero_snr: bool = False) -> float:
    """The t of the last timestep: 0.936, which takes the place of pure noise, as in Stable Diffusion itself; or 1."""
    return times(zero_snr)[-1].item()


def timestep(t: Tensor, zero_snr: bool = False) -> Tensor:
    """t `(B,)` -> timesteps `(B,)`, interpolated between integers and clamped to 0..999."""
    table = _table(t.device, zero_snr)
    target = t.to(table.dtype)
    above = torch.searchsorted(table, target).clamp(1, TIMESTEPS - 1)
    # the logarithm of noise to signal is even between timesteps; it is infinite at t = 1
    low, high, target = (x.clamp(max=1 - 1e-7).logit() for x in (table[above - 1], table[above], target))
    return (above - 1 + ((target - low) / (high - low)).clamp(0, 1)).to(t.dtype)


def scale(t: Tensor) -> Tensor:
    """The ratio of rectified flow's x_t to DDPM's x_k: sqrt((1 - t)^2 + t^2)."""
    return ((1 - t).square() + t.square()).sqrt()


def sampling_timesteps(steps: int) -> Tensor:
    """Timesteps 999, ... of a sampler with this number of steps ("trailing"; Lin et al. 2024, arXiv 2305.08891, table 2)."""
    return (TIMESTEPS - torch.arange(steps, dtype=torch.float64) * TIMESTEPS / steps).round().long() - 1
