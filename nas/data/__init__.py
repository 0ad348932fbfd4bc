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
    """The `train` or `test` split of the data called `data`.

    Args:
        space: clips have the size of its latents, or of its buckets; digits have as many frames.
        downsampling: pixels per latent, in height and in width.
        fps: frames per second that the clips of a folder are resampled to.
        buckets: bring the clips of a folder to the bucket nearest in shape and length, not all to one size.

    Raises:
        ConfigError: there is no such data, or no clip in it.
        MissingDependency: the data comes in a package that is not installed.
    """
    check_fps(fps)
    if data == "digits":
        source = MovingDigits(split, space.latent.frames)
    elif Path(data).is_dir():
        chosen = sizes(space.latent, len(space.backbone.channels), downsampling, buckets)
        source = (WebDataset if _of_shards(Path(data), split) else VideoFolder)(data, split, chosen, fps)
    else:
        raise ConfigError(f"data: '{data}' is neither 'digits' nor a folder")
    if not source.videos:
        first = f" ({source.skipped[0]})" if source.skipped else ""
        raise ConfigError(f"data: {data}: holds no clip of the {split} split{first}")
    return source


def _of_shards(folder: Path, split: str) -> bool:
    """Whether there are tar files and no metadata."""
    folder = folder / split if (folder / split).is_dir() else folder
    return any(folder.glob("*.tar*")) and not any((folder / name).exists() for name in READERS)


__all__ = ["FPS", "load_source"]
