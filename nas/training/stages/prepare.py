"""Encoding of a data set with an existing autoencoder (`nas prepare`): latents and text embeddings.

The folder it writes takes the place of a finished `decoder` stage: the autoencoder, the caches `train` and `test`, the
lists of skipped files. After an interruption it resumes after the shards that are complete. Several workers share the
shards, and write the same files as one.
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
from nas.distributed import launch
from nas.errors import ConfigError
from nas.files import local_or_hub, read_json, write_json
from nas.locks import output_lock
from nas.metrics.evaluation import eval_captions
from nas.models import Autoencoder
from nas.models.autoencoder import PublicAutoencoder, encode_clips
from nas.models.diffusers_checkpoint import public_folder
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Decoder, SearchSpace, VAEConfig
from nas.spaces.public_configs import PublicVAEConfig
from nas.training.execution import ExecutionConfig
from nas.training.recipe import run_on_workers
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


def prepare(
    out: str | Path, config: PrepareConfig, space: SearchSpace, device: str | None = None, workers: int = 1
) -> StageResult:
    """Fill the folder `out`, or resume. Metrics: the numbers of `videos`, `images`, `held_out` and `skipped`.

    Args:
        device: that encodes, as in `ExecutionConfig`.
        workers: number of workers that share the encoding, started by Ray if above 1; all must see the folders. Leave it
            at 1 under `torchrun`, which has started them.

    Raises:
        ConfigError: the data or the autoencoder cannot be read or do not match the space, or `out` was started with
            another configuration.
        LockedError: another process uses the folder.
        NasError: a worker failed.
    """
    for name in ("videos", "images", "held_out"):
        count = getattr(config, name)
        if count is not None and (not isinstance(count, int) or count < (name != "images")):
            raise ConfigError(f"{name}: must be a number of at least {int(name != 'images')}, not {count}")
    if config.data == "digits":
        raise ConfigError("data: digits are prepared by the decoder stage; give a folder of clips, or scenes")
    if space.backbone is None:
        raise ConfigError(f"{space.name}: is a cost-only space; give one with a backbone")
    launch.check_workers(workers)
    out, config = Path(out), replace(config, fps=clip_fps(space, config.fps))
    inputs = Inputs(space, execution=ExecutionConfig(device=device))
    first, done = distributed.is_main() and distributed.launched_rank() == 0, (out / "result.json").exists()
    with output_lock(out, folder=True) if first and not done else contextlib.nullcontext():  # before anything is read
        loaded = _load(config, space)
        if first:  # the others need no hashes of the files
            hashes = _hash(loaded.train) + _hash(loaded.test), checkpoint.autoencoder_hash(_folder(config.decoder))
            config = replace(config, data_hash=hashes[0], decoder_hash=hashes[1])
            _check_same_data(out, config)
        run = _run if workers > 1 else partial(_run, loaded=loaded)
        return run_on_workers("prepare", out, config, inputs, workers, run)


@dataclass(frozen=True)
class _Loaded:
    """What a config names."""

    autoencoder: Autoencoder | PublicAutoencoder
    train: Source
    test: Source


def _load(config: PrepareConfig, space: SearchSpace) -> _Loaded:
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
    return _Loaded(autoencoder, train, test)


def _run(name: str, folder: Path, config: PrepareConfig, inputs: Inputs, loaded: _Loaded | None = None) -> StageResult:
    return run_in_folder(name, partial(_encode, loaded or _load(config, inputs.space)), folder, config, inputs)


def _encode(loaded: _Loaded, folder: Path, config: PrepareConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function."""
    started, device = time.monotonic(), distributed.device()
    fill = partial(
        latent_cache_writer.fill_cache,
        encode=partial(encode_clips, loaded.autoencoder.to(device)),
        encode_text=PromptEncoder(inputs.space.text, device),
        latent=inputs.space.latent,
        workers=inputs.execution.loaders(device),
    )
    held = fill(folder / "test", loaded.test, videos=config.held_out, images=0, title="encode test")
    done = fill(
        folder / "train",
        loaded.train,
        videos=config.videos,
        images=config.images,
        more_captions=eval_captions(loaded.train),
        title="encode train",
    )
    if not distributed.is_main():
        return {}, 0.0
    checkpoint.save_autoencoder(folder, loaded.autoencoder)
    about = {"data": config.data, "frames": loaded.train.frames, "fps": config.fps, **described(loaded.train)}
    write_json(folder / "data.json", about)
    lists = [skipped.read(folder / split / skipped.SKIPPED) for split in ("test", "train")]
    metrics = {"videos": done.videos, "images": done.images, "held_out": held.videos}
    metrics["skipped"] = skipped.write(folder / skipped.SKIPPED, [row for rows in lists for row in rows])
    return metrics, time.monotonic() - started


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
