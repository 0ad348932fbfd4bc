"""Data sets: reading and writing clips and images, and the latent cache that training reads."""

from __future__ import annotations

from pathlib import Path

from nas.data.buckets import sizes
from nas.data.digits import MovingDigits
from nas.data.folders import VideoFolder
from nas.data.metadata import READERS
from nas.data.source import Source
from nas.data.video_writer import FPS, check_fps
from nas.data.webdataset import WebDataset
from nas.errors import ConfigError
from nas.spaces import SearchSpace


def load_source(
    data: str, split: str, space: SearchSpace, downsampling: int, fps: float = FPS, buckets: bool = False
) -> Source:
    """The `train` or `test` split of a data set.

    Args:
        data: `digits`, or a folder of files (`nas.data.folders`) or of tar shards (`nas.data.webdataset`).
        space: clips have the size of its latents, or of its buckets; digits have as many frames.
        downsampling: pixels per latent, in height and in width.
        fps: frames per second that the clips of a folder are resampled to.
        buckets: resize each clip of a folder to the nearest bucket instead of all clips to one size.

    Raises:
        ConfigError: the data set does not exist, or has no clip of this split.
        MissingDependency: the package with the data is not installed.
    """
    check_fps(fps)
    if data == "digits":
        source = MovingDigits(split, space.latent.frames)
    elif Path(data).is_dir():
        bucket_sizes = sizes(space.latent, len(space.backbone.channels), downsampling, buckets)
        source = (WebDataset if _has_shards(Path(data), split) else VideoFolder)(data, split, bucket_sizes, fps)
    else:
        raise ConfigError(f"data: '{data}' is neither 'digits' nor a folder")
    if not source.videos:
        first = f" ({source.skipped[0]})" if source.skipped else ""
        raise ConfigError(f"data: {data}: contains no clip of the {split} split{first}")
    return source


def _has_shards(folder: Path, split: str) -> bool:
    """Whether a data folder contains tar files and no metadata."""
    folder = folder / split if (folder / split).is_dir() else folder
    return any(folder.glob("*.tar*")) and not any((folder / name).exists() for name in READERS)


__all__ = ["FPS", "load_source"]
