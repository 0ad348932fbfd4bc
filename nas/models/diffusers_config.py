"""Reads the configs of diffusers' UNet and VAE. What a config asks for and this library does not implement is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.config import build
from nas.errors import ConfigError
from nas.files import read_json
from nas.spaces import Backbone, VAEConfig
from nas.spaces.public_autoencoder import IGNORED

UNET_VALUES: dict[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "transformer_layers_per_block": 1,
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
"""The values that this library implements, by key of a `UNet2DConditionModel`'s config."""
UNET_KEYS = {"in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types"}
UNET_KEYS |= {"up_block_types", "mid_block_type", "attention_head_dim", "cross_attention_dim", "norm_num_groups"}
UNET_KEYS |= {"text_tokens"}
UNET_IGNORED = {"upcast_attention", "addition_embed_type_num_heads"}
VAE_VALUES: dict[str, Any] = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "shift_factor": 0}
"""The values that this library implements, by key of an `AutoencoderKL`'s config."""
VAE_KEYS = {"in_channels", "out_channels", "block_out_channels", "layers_per_block", "latent_channels"}
VAE_KEYS |= {"norm_num_groups", "mid_block_add_attention", "scaling_factor", "down_block_types", "up_block_types"}
VAE_IGNORED = {"force_upcast"}


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a component.

    Raises:
        ConfigError: it is missing or not a mapping.
    """
    config = read_json(folder / "config.json", "diffusers config", dict)
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / 'config.json'}: expected a mapping, found {type(config).__name__}")
    return config


def unet_backbone(config: dict[str, Any], folder: Path) -> Backbone:
    """The backbone that a `UNet2DConditionModel`'s config describes.

    Raises:
        ConfigError: it uses a feature that `Backbone` does not have, or has a key that this library does not know.
    """
    down, up = (_list(config, f"{name}_block_types", str, folder) for name in ("down", "up"))
    levels = len(_list(config, "block_out_channels", int, folder))
    cross = tuple(i for i, kind in enumerate(down) if kind == "CrossAttnDownBlock2D")
    expected_up = ["CrossAttnUpBlock2D" if i in cross else "UpBlock2D" for i in reversed(range(levels))]
    inputs, outputs = config.get("in_channels"), config.get("out_channels", config.get("in_channels"))
    fits = {
        "_class_name": config.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel",
        "out_channels": outputs == inputs,
        "down_block_types": set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"},
        "up_block_types": list(up) == expected_up,
        "mid_block_type": config.get("mid_block_type", "UNetMidBlock2DCrossAttn") in ("UNetMidBlock2DCrossAttn", None),
        "attention_head_dim": isinstance(config.get("attention_head_dim", 8), int),
        "layers_per_block": isinstance(config.get("layers_per_block", 2), int),
    }
    fits |= _implemented(config, UNET_VALUES, UNET_KEYS | UNET_IGNORED)
    _refuse(
        config, fits, folder, "is not of the Stable Diffusion v1 kind; use an SD v1.x checkpoint or one pruned from it"
    )
    try:
        return Backbone(
            channels=tuple(config["block_out_channels"]),
            layers_per_block=number(config, "layers_per_block", folder, 2),
            attention_levels=cross,
            mid=config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
            heads=number(config, "attention_head_dim", folder, 8),
            norm_groups=number(config, "norm_num_groups", folder, 32),
            text_tokens=number(config, "text_tokens", folder, 0) if config.get("text_tokens") else 0,
        )
    except ConfigError as error:
        where = folder / "config.json"
        raise ConfigError(str(error) if str(error).startswith(str(where)) else f"{where}: {error}") from None


def vae_config(config: dict[str, Any], folder: Path) -> VAEConfig:
    """The autoencoder that an `AutoencoderKL`'s config describes.

    Raises:
        ConfigError: it uses a feature that `VAEConfig` does not have, or has a key that this library does not know.
    """
    blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
    fits = {name: all(block == kind for block in _list(config, name, str, folder)) for name, kind in blocks.items()}
    fits["_class_name"] = config.get("_class_name", "AutoencoderKL") == "AutoencoderKL"
    fits["out_channels"] = config.get("out_channels", 3) == config.get("in_channels", 3)
    fits |= _implemented(config, VAE_VALUES, VAE_KEYS | VAE_IGNORED)
    _refuse(config, fits, folder, "is not implemented; use an autoencoder of the Stable Diffusion v1 or XL kind")
    fields = {
        "channels": config.get("block_out_channels"),
        "layers_per_block": config.get("layers_per_block", 1),
        "latent_channels": config.get("latent_channels", 4),
        "image_channels": config.get("in_channels", 3),
        "norm_groups": config.get("norm_num_groups", 32),
        "mid_attention": config.get("mid_block_add_attention", True),
        "scaling_factor": config.get("scaling_factor", 0.18215),
    }
    return build(VAEConfig, fields, str(folder / "config.json"))


def _implemented(config: Mapping[str, Any], values: Mapping[str, Any], known: set[str]) -> dict[str, bool]:
    """For each key that is not in `known`, whether its value is the one that this library implements.

    None is the absence of a feature, and so is the False of a key that has no value in `values`.
    """
    keys = set(config) - known - IGNORED
    return {key: config[key] is None or config[key] == values.get(key, False) for key in sorted(keys)}


def _refuse(config: Mapping[str, Any], fits: Mapping[str, bool], folder: Path, reason: str) -> None:
    """Raise a ConfigError for the first key that does not fit."""
    for key, fit in fits.items():
        if not fit:
            raise ConfigError(f"{folder / 'config.json'}: {key}: {config.get(key)!r:.60} {reason}")


def number(config: dict[str, Any], name: str, folder: Path, default: int | None) -> int:
    """A positive integer from a config."""
    value = config.get(name, default)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise ConfigError(f"{folder / 'config.json'}: {name}: expected a positive integer, found {value!r:.60}")
    return value


def _list(config: dict[str, Any], name: str, kind: type, folder: Path) -> list[Any]:
    """A non-empty list from a config."""
    value = config.get(name)
    if not isinstance(value, list) or not value or not all(type(entry) is kind for entry in value):
        raise ConfigError(f"{folder / 'config.json'}: {name}: expected a list of {kind.__name__}, found {value!r:.60}")
    return value
