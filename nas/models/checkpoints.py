"""Weights from a diffusers checkpoint folder: Stable Diffusion's UNet and VAE.

A folder as `save_pretrained` writes it or the Hub holds it: `unet/config.json`, `unet/diffusion_pytorch_model.safetensors`,
and the same under `vae/`. Only safetensors are read: no pickle that could run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from nas.errors import ConfigError
from nas.files import read_json
from nas.models.autoencoder import Autoencoder, VAEConfig
from nas.models.backbone import UNet
from nas.spaces import Backbone

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_unet(folder: str | Path) -> UNet:
    """The spatial UNet of a checkpoint, in the size its config says.

    Args:
        folder: the checkpoint's, or its `unet` folder.

    Raises:
        ConfigError: no such file, weights that do not fit, or a config that is not of the Stable Diffusion v1 kind.
    """
    folder = _part(folder, "unet")
    config = read_json(folder / "config.json", "diffusers config")
    unet = UNet(unet_backbone(config, folder), config["in_channels"], config["cross_attention_dim"])
    _assign(unet, read_weights(folder), folder)
    return unet


def load_spatial_weights(model: UNet, folder: str | Path) -> None:
    """Take a checkpoint's UNet weights over into a denoiser or supernet of the same backbone.

    Its temporal layers stay as they are.

    Raises:
        ConfigError: as `load_unet`; also when the checkpoint is of another size (prune it first).
    """
    folder = _part(folder, "unet")
    _assign(model, read_weights(folder), folder)


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """The autoencoder of a checkpoint, its temporal factors at zero.

    Args:
        folder: the checkpoint's, or its `vae` folder.

    Raises:
        ConfigError: no such file, or weights that do not fit.
    """
    folder = _part(folder, "vae")
    config = read_json(folder / "config.json", "diffusers config")
    autoencoder = Autoencoder(
        VAEConfig(
            channels=tuple(config["block_out_channels"]),
            layers_per_block=config["layers_per_block"],
            latent_channels=config["latent_channels"],
            image_channels=config["in_channels"],
            norm_groups=config.get("norm_num_groups", 32),
            mid_attention=config.get("mid_block_add_attention", True),
            scaling_factor=config.get("scaling_factor", 0.18215),
        )
    )
    try:
        autoencoder.load_image_weights(_modern_names(read_weights(folder)))
    except ConfigError as error:
        raise ConfigError(f"{folder / WEIGHTS}: {error}") from None
    return autoencoder


def unet_backbone(config: dict[str, Any], folder: Path) -> Backbone:
    """The backbone that a `UNet2DConditionModel`'s config describes.

    Raises:
        ConfigError: it uses what this library's backbone does not have.
    """
    levels = len(config["block_out_channels"])
    down, up = config["down_block_types"], config["up_block_types"]
    cross = tuple(i for i, kind in enumerate(down) if kind == "CrossAttnDownBlock2D")
    expected_up = ["CrossAttnUpBlock2D" if i in cross else "UpBlock2D" for i in reversed(range(levels))]
    plain = {
        "down_block_types": set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"},
        "up_block_types": list(up) == expected_up,
        "mid_block_type": config.get("mid_block_type", "UNetMidBlock2DCrossAttn") in ("UNetMidBlock2DCrossAttn", None),
        "attention_head_dim": isinstance(config.get("attention_head_dim", 8), int),
        "layers_per_block": isinstance(config.get("layers_per_block", 2), int),
        "use_linear_projection": not config.get("use_linear_projection"),
        "class_embed_type": config.get("class_embed_type") is None,
        "addition_embed_type": config.get("addition_embed_type") is None,
        "transformer_layers_per_block": config.get("transformer_layers_per_block", 1) == 1,
    }
    for field, fits in plain.items():
        if not fits:
            raise ConfigError(
                f"{folder / 'config.json'}: {field}: {config.get(field)!r} is not of the Stable Diffusion v1 kind; "
                "use an SD v1.x checkpoint or one pruned from it"
            )
    return Backbone(
        channels=tuple(config["block_out_channels"]),
        layers_per_block=config.get("layers_per_block", 2),
        attention_levels=cross,
        mid=config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
        heads=config.get("attention_head_dim", 8),
        norm_groups=config.get("norm_num_groups", 32),
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of `diffusion_pytorch_model.safetensors`.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise ConfigError(f"{path}: no such file; download the checkpoint's safetensors (pickled weights are not read)")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own class for each kind of damage
        raise ConfigError(f"{path}: not a safetensors file: {error}") from None


def _assign(model: UNet, state: dict[str, Tensor], folder: Path) -> None:
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("temporal.")}
    for key in [*own, *state]:
        if key not in own or key not in state or own[key].shape != state[key].shape:
            raise ConfigError(f"{folder / WEIGHTS}: '{key}' does not fit the backbone; is the checkpoint of this size?")
    model.load_state_dict(state, strict=False)


def _modern_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Checkpoints of before 2023 name the VAE's attention query, key, value, proj_attn, some as 1x1 convolutions."""
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    modern = {}
    for key, value in state.items():
        if ".attentions." in key:
            parts = key.split(".")
            parts[-2] = names.get(parts[-2], parts[-2])
            key = ".".join(parts)
            value = value[:, :, 0, 0] if value.dim() == 4 else value
        modern[key] = value
    return modern


def _part(folder: str | Path, name: str) -> Path:
    folder = Path(folder)
    return folder / name if (folder / name).is_dir() else folder
