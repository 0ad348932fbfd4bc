"""Data by name: `digits`, or the folder of a data set."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ConfigError
from nas.spaces import Latent
from nas.training.data import Source
from nas.training.digits import MovingDigits


def load(data: str, split: str, latent: Latent) -> Source:
    """The `train` or `test` split of the data called `data`, of as many frames as the search space's latents have.

    Raises:
        ConfigError: there is no such data.
    """
    if data == "digits":
        return MovingDigits(split, latent.frames)
    if not Path(data).is_dir():
        raise ConfigError(f"data: '{data}' is neither 'digits' nor a folder")
    raise ConfigError(f"data: '{data}': folders of clips cannot be read yet")
