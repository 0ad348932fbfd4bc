"""Data by name: `digits`, or the folder of a data set."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ConfigError
from nas.spaces import Latent
from nas.training.data import Source
from nas.training.digits import MovingDigits
from nas.training.folders import Folder


def load(data: str, split: str, latent: Latent, downsampling: int) -> Source:
    """The `train` or `test` split of the data called `data`.

    Args:
        latent: clips have as many frames; those of a folder are brought to its size in pixels.
        downsampling: pixels per latent, in height and in width.

    Raises:
        ConfigError: there is no such data, or no clip in it.
        MissingDependency: the data comes in a package that is not installed.
    """
    if data == "digits":
        source = MovingDigits(split, latent.frames)
    elif Path(data).is_dir():
        source = Folder(data, split, latent.frames, latent.height * downsampling, latent.width * downsampling)
    else:
        raise ConfigError(f"data: '{data}' is neither 'digits' nor a folder")
    if not source.videos:
        raise ConfigError(f"data: {data}: holds no clip of the {split} split")
    return source
