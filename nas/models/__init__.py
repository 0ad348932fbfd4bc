"""Torch modules: temporal operators, UNet, denoiser, supernet, autoencoder, text encoder, discriminator."""

from nas.models.autoencoder import Autoencoder, decode_chunks, encode_chunks
from nas.models.denoiser import Denoiser, build
from nas.models.discriminator import Discriminator
from nas.models.operators import build_operator
from nas.models.paths import fair_round, sample_path
from nas.models.supernet import Supernet
from nas.models.unet import UNet
from nas.spaces import VAEConfig

__all__ = [
    "Autoencoder",
    "Denoiser",
    "Discriminator",
    "Supernet",
    "UNet",
    "VAEConfig",
    "build",
    "build_operator",
    "decode_chunks",
    "encode_chunks",
    "fair_round",
    "sample_path",
]
