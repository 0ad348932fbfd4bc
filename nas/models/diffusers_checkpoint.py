"""Loads and saves the UNet and VAE of a diffusers checkpoint (Stable Diffusion v1).

The folder is one written by `save_pretrained` or downloaded from the Hub: `unet/config.json`, `unet/diffusion_pytorch_model.safetensors`
(or a variant of it, or shards: see `pretrained_files`), and the same under `vae/`. Only safetensors are read: no pickle
that could run code.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from nas.errors import ConfigError, MissingDependency
from nas.files import download_from_hub, write_atomic, write_json
from nas.models import pretrained_files
from nas.models.autoencoder import Autoencoder, PublicAutoencoder
from nas.models.diffusers_config import number, read_config, unet_backbone, vae_config
from nas.models.pretrained_files import WeightFiles
from nas.models.safetensors_io import load_state
from nas.models.unet import UNet
from nas.spaces.public_autoencoder import config_folder, read_public_config

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
HUB_FILES = [f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", WEIGHTS)]
HUB_TEXT = ["tokenizer/*", "text_encoder/config.json", "text_encoder/model.safetensors"]
HUB_FILES += ["scheduler/*", *HUB_TEXT]


def load_unet(folder: str | Path) -> UNet:
    """The spatial UNet of a checkpoint, configured by its config.json.

    Args:
        folder: of the checkpoint, or its `unet` folder.

    Raises:
        ConfigError: no such file, weights that do not fit, or a config that is not of the Stable Diffusion v1 kind.
    """
    folder = _component_folder(folder, "unet")
    config = read_config(folder)
    backbone = unet_backbone(config, folder)
    inputs = {name: number(config, name, folder, None) for name in ("in_channels", "cross_attention_dim")}
    with torch.device("meta"):
        unet = UNet(backbone, *inputs.values())
    _assign(unet, folder)
    return unet


def save_unet(unet: UNet, folder: str | Path) -> Path:
    """Write `config.json` and the weights of a UNet as diffusers' `UNet2DConditionModel.save_pretrained` does.

    A text embedding, which diffusers does not have, is recorded as `text_tokens` in the config.
    """
    folder, config = Path(folder), unet.config
    levels, cross = range(len(config.channels)), config.attention_levels
    described = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": unet.conv_in.in_channels,
        "out_channels": unet.conv_out.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.layers_per_block,
        "down_block_types": ["CrossAttnDownBlock2D" if i in cross else "DownBlock2D" for i in levels],
        "up_block_types": ["CrossAttnUpBlock2D" if i in cross else "UpBlock2D" for i in reversed(levels)],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if config.mid else None,
        "attention_head_dim": config.heads,
        "cross_attention_dim": unet.context_dim,
        "norm_num_groups": config.norm_groups,
    }
    if config.text_tokens:
        described["text_tokens"] = config.text_tokens
    state = {name: value.detach().cpu().contiguous() for name, value in unet.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state, {"format": "pt"}))
    write_json(folder / "config.json", described)
    return folder


def checkpoint_folder(name: str | Path, files: Sequence[str] = HUB_FILES) -> Path:
    """A checkpoint folder: the given one, or a Hub repository's, downloaded once (UNet, VAE and text encoder).

    Raises:
        ConfigError: there is no such folder, and the repository does not exist or cannot be reached.
        MissingDependency: the name is that of a repository, and huggingface_hub is not installed.
    """
    name = str(name)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError(
            f"{name}: no such checkpoint folder; give one that contains unet/, or a Hub name as OWNER/NAME"
        )
    folder = download_from_hub(name, files)
    patterns = _other_weights(folder, files)
    if patterns:  # no default weights: variants or shards, or files to name in a message
        download_from_hub(name, patterns)
    return folder


def _other_weights(folder: Path, files: Sequence[str]) -> list[str]:
    """Patterns of variants and shards of the weights that a repository does not have as single default files."""
    weights = [Path(file) for file in files if file.endswith(".safetensors") and not (folder / file).exists()]
    return [str(path.with_name(f"{path.stem}*.{end}")) for path in weights for end in ("safetensors", "json")]


def load_spatial_weights(model: UNet, folder: str | Path) -> None:
    """Load a checkpoint's UNet weights into a denoiser or supernet of the same backbone.

    The temporal layers are not changed.

    Raises:
        ConfigError: as `load_unet`; also when the checkpoint is of another size (prune it first).
    """
    folder = _component_folder(folder, "unet")
    _assign(model, folder)


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """The autoencoder of a checkpoint, with zero temporal factors.

    Args:
        folder: of the checkpoint, or its `vae` folder.

    Raises:
        ConfigError: no such file, or weights that do not fit.
    """
    folder = _component_folder(folder, "vae")
    described = vae_config(read_config(folder), folder)
    with torch.device("meta"):
        autoencoder = Autoencoder(described)
    weights = weights_of(folder)
    try:
        autoencoder.load_image_weights(_modern_names(weights.read()))
    except ConfigError as error:
        raise ConfigError(f"{weights.named}: {error}") from None
    return autoencoder


def is_own_kind(folder: Path) -> bool:
    """Whether the autoencoder that the folder's config describes is a special case of `Autoencoder`."""
    try:
        vae_config(read_config(folder), folder)
    except ConfigError:
        return False
    return True


def public_folder(source: str | Path) -> Path:
    """The folder with the config and the weights of an autoencoder: a folder or its `vae`, or that of a Hub repository.

    Raises:
        ConfigError: there is no config, or the repository cannot be downloaded.
        MissingDependency: the source is a Hub name, and huggingface_hub is not installed.
    """
    folder = config_folder(source)
    if not Path(source).is_dir():
        checkpoint_folder(source, [f"vae/{WEIGHTS}" if folder.name == "vae" else WEIGHTS])
    return folder


def load_public(source: str | Path) -> PublicAutoencoder:
    """One of diffusers' autoencoders (see `nas.spaces.public_autoencoder`), run through diffusers in float32.

    Args:
        source: a folder, or a Hub name, whose files are downloaded once.

    Raises:
        ConfigError: there is no such autoencoder, its config asks for something that is not implemented, or its weights do
            not fit the config.
        MissingDependency: diffusers is not installed.
    """
    folder = public_folder(source)
    described, config = read_public_config(folder), read_config(folder)
    try:
        import diffusers
    except ImportError:
        raise MissingDependency("diffusers is not installed; run: pip install 'nas-video[diffusers]'") from None
    weights, kind = weights_of(folder), getattr(diffusers, described.kind)
    names = inspect.signature(kind.__init__).parameters  # a saved AutoencoderTiny also has another
    try:
        with torch.device("meta"):
            model = kind.from_config({name: value for name, value in config.items() if name in names})
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{folder / 'config.json'}: diffusers builds no {described.kind} of it ({reason})") from None
    state = weights.read()
    state = _modern_names(state) if described.kind == "AutoencoderKL" else state
    load_state(model, state, weights.named, described="config.json")
    statistics = {name: tuple(value.tolist()) for name, value in model.named_buffers() if name.startswith("latents_")}
    try:
        described = replace(described, **statistics)  # LTX-Video's are among its weights
    except ConfigError as error:
        raise ConfigError(f"{weights.named}: {error}") from None
    return PublicAutoencoder(model.eval().requires_grad_(False), described)


def weights_of(folder: Path) -> WeightFiles:
    """The files with the weights of a `unet` or `vae` folder.

    Raises:
        ConfigError: there are no safetensors weights.
    """
    weights = pretrained_files.find_weights(folder, STEM)
    if weights is None:
        raise ConfigError(pretrained_files.missing_weights(folder, STEM))
    return weights


def _assign(model: UNet, folder: Path) -> None:
    weights = weights_of(folder)
    state = {name: value for name, value in weights.read().items() if not name.startswith("temporal.")}
    try:
        load_state(model, state, weights.named, optional=["temporal."])
    except ConfigError as error:
        raise ConfigError(f"{error}; is the checkpoint of this size?") from None


def _modern_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the VAE attention weights of checkpoints from before 2023, some of which are 1x1 convolutions."""
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


def _component_folder(folder: str | Path, name: str) -> Path:
    folder = Path(folder)
    return folder / name if (folder / name).is_dir() else folder
