"""Stable Diffusion's noise schedule seen from the time of rectified flow, so that one sampler and one loss serve both.

DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 4) noises as x_k = sqrt(a_k) x_0 + sqrt(1 - a_k) eps at timesteps
k = 0..999, rectified flow as x_t = (1 - t) x_0 + t eps. The two are one point at two scales where noise over signal is
the same, sqrt((1 - a_k) / a_k) = t / (1 - t), and then x_k = x_t / sqrt((1 - t)^2 + t^2). Euler's step of the flow
from t to t' is then the step of DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 without noise).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

TIMESTEPS, FIRST_BETA, LAST_BETA = 1000, 0.00085, 0.012
"""Of Stable Diffusion v1.5's scheduler: the square roots of the betas are evenly spaced ("scaled linear")."""


@lru_cache
def log_ratios() -> Tensor:
    """`(1000,)`, float64, rising: the logarithm of noise over signal at each timestep."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, TIMESTEPS, dtype=torch.float64).square()
    kept = torch.cumprod(1 - betas, 0)
    return 0.5 * ((1 - kept) / kept).log()


def flow_time(timestep: Tensor) -> Tensor:
    """Whole timesteps 0..999 -> t in (0, 1), float32."""
    return log_ratios().to(timestep.device)[timestep].sigmoid().float()


def noisiest() -> float:
    """The t of the last timestep, 0.936: what stands for pure noise, as it does in Stable Diffusion itself."""
    return log_ratios()[-1].sigmoid().item()


def timestep(t: Tensor) -> Tensor:
    """t `(B,)` -> timesteps `(B,)`, between whole ones where t is, 0 and 999 at the ends."""
    known, wanted = log_ratios().to(t.device), torch.logit(t.double())
    above = torch.searchsorted(known, wanted).clamp(1, TIMESTEPS - 1)
    low, high = known[above - 1], known[above]
    return (above - 1 + ((wanted - low) / (high - low)).clamp(0, 1)).to(t.dtype)


def scale(t: Tensor) -> Tensor:
    """What x_t is divided by to be DDPM's x_k: sqrt((1 - t)^2 + t^2)."""
    return ((1 - t).square() + t.square()).sqrt()


def sampled_timesteps(steps: int) -> Tensor:
    """Timesteps 999 ... of a sampler with so many steps ("trailing"; Lin et al. 2024, arXiv 2305.08891, table 2)."""
    return (TIMESTEPS - torch.arange(steps, dtype=torch.float64) * TIMESTEPS / steps).round().long() - 1
