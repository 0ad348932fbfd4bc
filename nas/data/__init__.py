"""Data sets: reading and writing clips and images, and the latent cache that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.data.buckets import sizes
from nas.data.digits import MovingDigits
from nas.data.folders import VideoFolder
from nas.data.metadata import READERS
from nas.data.scenes.source import NAME as SCENES
from nas.data.scenes.source import Scenes, is_scenes, load_config
from nas.data.source import Source
from nas.data.webdataset import WebDataset
from nas.errors import ConfigError
from nas.spaces import SearchSpace, VAEConfig
from nas.spaces.clip import check_fps

GENERATED = ("digits", SCENES)
"""Names of the data sets that are generated; every other name is that of a folder or a file."""


def clip_fps(space: SearchSpace, fps: float | None) -> float:
    """Frames per second of a data set's clips: the space's, or `fps` if the space states none.

    Raises:
        ConfigError: `fps` is out of range, or not what the space states.
    """
    if fps is None:
        return space.clip.fps
    check_fps(fps)
    if space.fps not in (None, fps):
        raise ConfigError(
            f"fps: {fps:g} is not what the search space '{space.name}' states, clip.fps: {space.fps:g}, which its costs "
            "are about; remove one of the two, or use a copy of the space with another"
        )
    return float(fps)


def load_source(
    data: str,
    split: str,
    space: SearchSpace,
    autoencoder: VAEConfig,
    fps: float | None = None,
    buckets: bool = False,
) -> Source:
    """The `train` or `test` split of a data set.

    Args:
        data: `digits`, `scenes` or a YAML file with a `nas.data.scenes.SceneConfig`, or a folder of files
            (`nas.data.folders`) or of tar shards (`nas.data.webdataset`).
        space: clips have the size of its latents, or of its buckets; digits have as many frames.
        autoencoder: its compression gives the size of a clip.
        fps: frames per second that the clips of a folder are resampled to; None: those of the space's clip.
        buckets: resize each clip of a folder to the nearest bucket instead of all clips to one size.

    Raises:
        ConfigError: the data set does not exist, or has no clip of this split, or `fps` is not the space's.
        MissingDependency: the package with the data is not installed.
    """
    fps = clip_fps(space, fps)
    if data == "digits":
        source = MovingDigits(split, autoencoder.pixel_frames(space.latent.frames))
    elif is_scenes(data):
        (size,) = sizes(space.latent, len(space.backbone.channels), autoencoder, multiple=False)
        source = Scenes(load_config(data), split, size.frames, fps, size.height, size.width)
    elif Path(data).is_dir():
        bucket_sizes = sizes(space.latent, len(space.backbone.channels), autoencoder, buckets)
        source = (WebDataset if _has_shards(Path(data), split) else VideoFolder)(data, split, bucket_sizes, fps)
    else:
        raise ConfigError(f"data: '{data}' is neither 'digits' nor 'scenes', nor a YAML file of scenes, nor a folder")
    if not source.videos:
        first = f" ({source.skipped[0]})" if source.skipped else ""
        raise ConfigError(f"data: {data}: contains no clip of the {split} split{first}")
    return source


def _has_shards(folder: Path, split: str) -> bool:
    """Whether a data folder contains tar files and no metadata."""
    folder = folder / split if (folder / split).is_dir() else folder
    return any(folder.glob("*.tar*")) and not any((folder / name).exists() for name in READERS)


def described(source: Source) -> dict[str, Any]:
    """What a folder of encoded clips records of a generated data set: under `scenes` the config of scenes."""
    return {SCENES: source.config.to_dict()} if isinstance(source, Scenes) else {}


__all__ = ["GENERATED", "clip_fps", "described", "load_source"]
