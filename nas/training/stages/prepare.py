"""Encoding of a data set with an existing autoencoder (`nas prepare`): latents and text embeddings.

The folder it writes takes the place of a finished `decoder` stage: the autoencoder, the caches `train` and `test`, the
lists of skipped files. After an interruption it resumes after the last complete shard.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas import checkpoint, distributed
from nas.data import clip_fps, described, latent_cache_writer, load_source, skipped
from nas.data.source import Source
from nas.errors import ConfigError
from nas.files import local_or_hub, read_json, write_json
from nas.locks import output_lock
from nas.metrics.evaluation import eval_captions
from nas.models.autoencoder import encode_clips
from nas.models.diffusers_checkpoint import public_folder
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Decoder, SearchSpace, VAEConfig
from nas.spaces.public_configs import PublicVAEConfig
from nas.training.execution import ExecutionConfig
from nas.training.stage import Inputs, StageResult, run_in_folder


@dataclass(frozen=True)
class PrepareConfig:
    """Config of a prepared folder.

    Attributes:
        data: the folder of a data set, `scenes`, or a YAML file of scenes.
        decoder: the folder of an autoencoder: a `decoder` stage, or a checkpoint of this library or of diffusers; or the
            Hub name of one of diffusers.
        fps: frames per second that clips are resampled to; None: those of the search space's clip.
        buckets: see `nas.data.load_source`.
        videos, images: number to prepare, from a fixed shuffle; None: all.
        held_out: clips of the test split, for validation losses; all have the search space's own size.
        data_hash, decoder_hash: hashes of the data and of the weights; filled in by `prepare`.
    """

    data: str
    decoder: str
    fps: float | None = None
    buckets: bool = False
    videos: int | None = None
    images: int | None = None
    held_out: int = 256
    data_hash: str = ""
    decoder_hash: str = ""


def prepare(out: str | Path, config: PrepareConfig, space: SearchSpace, device: str | None = None) -> StageResult:
    """Fill the folder `out`, or resume. Metrics: the numbers of `videos`, `images`, `held_out` and `skipped`.

    Args:
        device: that encodes, as in `ExecutionConfig`.

    Raises:
        ConfigError: the data or the autoencoder cannot be read or do not match the space, or `out` was started with
            another configuration.
        LockedError: another process uses the folder.
    """
    for name in ("videos", "images", "held_out"):
        count = getattr(config, name)
        if count is not None and (not isinstance(count, int) or count < (name != "images")):
            raise ConfigError(f"{name}: must be a number of at least {int(name != 'images')}, not {count}")
    if config.data == "digits":
        raise ConfigError("data: digits are prepared by the decoder stage; give a folder of clips, or scenes")
    if space.backbone is None:
        raise ConfigError(f"{space.name}: is a cost-only space; give one with a backbone")
    config = replace(config, fps=clip_fps(space, config.fps))
    out = Path(out)
    done = (out / "result.json").exists()
    with contextlib.nullcontext() if done else output_lock(out, folder=True):  # before anything is read
        return _prepare(out, config, space, ExecutionConfig(device=device))


def _prepare(out: Path, config: PrepareConfig, space: SearchSpace, execution: ExecutionConfig) -> StageResult:
    decoder = _folder(config.decoder)
    autoencoder = checkpoint.load_autoencoder(decoder)
    vae = autoencoder.config
    if vae.latent_channels != space.latent.channels:
        raise ConfigError(
            f"{config.decoder}: has latents of {vae.latent_channels} channels; "
            f"the search space '{space.name}' has {space.latent.channels}"
        )
    if space.decoder is not None and not _is_declared(decoder, vae, space.decoder):
        raise ConfigError(
            f"{config.decoder}: another autoencoder ({_size(vae)}) than the one that the search space '{space.name}' "
            f"declares as its decoder and counts costs with ({_size(space.decoder.vae)}); give that one, or change the space"
        )
    train, test = (
        load_source(config.data, split, space, vae, config.fps, config.buckets and split == "train")
        for split in ("train", "test")
    )
    if vae.image_channels != train.channels:
        raise ConfigError(
            f"{config.decoder}: takes {vae.image_channels} color channels, {config.data} has {train.channels}"
        )
    hashed = PrepareConfig(
        **{
            **vars(config),
            "data_hash": _hash(train) + _hash(test),
            "decoder_hash": checkpoint.autoencoder_hash(decoder),
        }
    )

    def encode_all(folder: Path, config: PrepareConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
        started, device = time.monotonic(), distributed.device()
        text, encode = PromptEncoder(space.text, device), partial(encode_clips, autoencoder.to(device))
        held = latent_cache_writer.fill_cache(
            folder / "test", test, encode, text, config.held_out, 0, title="encode test"
        )
        done = latent_cache_writer.fill_cache(
            folder / "train", train, encode, text, config.videos, config.images, eval_captions(train), "encode train"
        )
        checkpoint.save_autoencoder(folder, autoencoder)
        about = {"data": config.data, "frames": train.frames, "fps": config.fps, **described(train)}
        write_json(folder / "data.json", about)
        lists = [skipped.read(folder / split / skipped.SKIPPED) for split in ("test", "train")]
        metrics = {"videos": done.videos, "images": done.images, "held_out": held.videos}
        metrics["skipped"] = skipped.write(folder / skipped.SKIPPED, [row for rows in lists for row in rows])
        return metrics, time.monotonic() - started

    _check_same_data(out, hashed)
    return run_in_folder("prepare", encode_all, out, hashed, Inputs(space, execution=execution))


def _folder(name: str) -> str | Path:
    """The folder of an autoencoder; that of a Hub name is downloaded."""
    return public_folder(name) if not Path(name).exists() and local_or_hub(name, Path()) == name else name


def _is_declared(folder: str | Path, vae: VAEConfig | PublicVAEConfig, declared: Decoder) -> bool:
    """Whether an autoencoder has the decoder that the space declares, or is the public one that the space names."""
    public = declared.vae.encoder
    if isinstance(vae, VAEConfig) and (vae.encoder is None) == (public is None):
        return Decoder(vae, declared.frames).hash() == declared.hash()
    return public is not None and checkpoint.autoencoder_hash(folder) == checkpoint.autoencoder_hash(
        public_folder(public)
    )


def _size(vae: VAEConfig | PublicVAEConfig) -> str:
    if isinstance(vae, PublicVAEConfig):
        return (
            f"{vae.kind}, {vae.latent_channels} channels, compression {vae.downsampling} and {vae.temporal_compression}"
        )
    levels = f"channels {list(vae.channels)}, {vae.layers_per_block} layers, {vae.image_channels} colors"
    return f"{levels}, temporal compression {vae.temporal_compression}"


def _check_same_data(out: Path, config: PrepareConfig) -> None:
    """
    Raises:
        ConfigError: the folder was started with data of the same name and other content.
    """
    note = read_json(out / "stage.json", "stage", dict) if (out / "stage.json").exists() else {}
    recorded = note.get("config") if isinstance(note, dict) else None
    recorded = recorded if isinstance(recorded, dict) else {}
    if recorded.get("data") == config.data and recorded.get("data_hash", config.data_hash) != config.data_hash:
        raise ConfigError(f"{out}: {latent_cache_writer.OTHER_DATA} ({config.data})")


def _hash(source: Source) -> str:
    return getattr(source, "hash", "")
