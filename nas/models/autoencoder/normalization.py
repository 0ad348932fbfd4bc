"""Normalization of latents: what a denoiser sees are `(z - mean) / std * scaling_factor`, by channel, of an encoder's z."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.spaces import VAEConfig
from nas.spaces.public_configs import PublicVAEConfig


def set_normalization(module: nn.Module, config: VAEConfig | PublicVAEConfig) -> None:
    """Give a module the attributes `scaling_factor`, and `latents_mean` and `latents_std`, `(C, 1, 1, 1)` or None.

    They are no part of its state dict, and have values also under `torch.device("meta")`.
    """
    module.scaling_factor = config.scaling_factor
    for name in ("latents_mean", "latents_std"):
        values = getattr(config, name)
        tensor = None if values is None else torch.tensor(values, device="cpu")[:, None, None, None]
        module.register_buffer(name, tensor, persistent=False)


def normalize(module: nn.Module, latents: Tensor) -> Tensor:
    """The latents for the denoiser, of those that the encoder gives: `(B, C, T, h, w)`."""
    if module.latents_mean is not None:
        latents = latents - module.latents_mean
    if module.latents_std is not None:
        latents = latents / module.latents_std
    return latents * module.scaling_factor


def denormalize(module: nn.Module, latents: Tensor) -> Tensor:
    """The latents for the decoder, of those that the denoiser gives: `(B, C, T, h, w)`."""
    latents = latents / module.scaling_factor
    if module.latents_std is not None:
        latents = latents * module.latents_std
    if module.latents_mean is not None:
        latents = latents + module.latents_mean
    return latents
