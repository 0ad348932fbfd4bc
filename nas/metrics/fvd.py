"""Frechet video distance (Unterthiner et al. 2018, arXiv 1812.01717) with a feature network that the user has.

The usual network is I3D trained on Kinetics-400 as TorchScript, `i3d_torchscript.pt`, which gives the values of the
original TensorFlow implementation. It is no part of any package, so it is asked for by its path. A TorchScript file is
a program: take it from where it can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.errors import ConfigError, MissingDependency
from nas.metrics.digit_classifier import frechet_distance

NETWORK = "https://github.com/universome/fvd-comparison"
"""Where the network is named and compared with the original."""


class FVD:
    """Frechet distance between I3D's features of real and of generated clips; lower is better.

    Published values use 2048 clips of 16 frames at least: with fewer clips than features (400) the distance is biased
    upwards, and only distances of equally many clips can be compared.

    Args:
        network: a TorchScript file whose module is called as `(clips, rescale=True, resize=True, return_features=True)`
            with clips `(B, 3, T, H, W)` from 0 to 255 and gives features `(B, D)`.
        batch: clips that pass through it at once.
        device: where it runs.

    Raises:
        MissingDependency: there is no such file.
        ConfigError: it is no TorchScript module.
    """

    def __init__(self, network: str | Path, batch: int = 8, device: str = "cpu") -> None:
        self.path, self.batch, self.device = Path(network), batch, device
        if not self.path.is_file():
            raise MissingDependency(
                f"{network}: no such file; FVD needs I3D as TorchScript: get i3d_torchscript.pt as {NETWORK} says, "
                "and give its path"
            )
        try:
            self.network = torch.jit.load(str(self.path), map_location=device).eval()
        except RuntimeError:
            raise ConfigError(
                f"{network}: is no TorchScript module; get i3d_torchscript.pt as {NETWORK} says"
            ) from None

    def __call__(self, real: Iterable[Tensor], generated: Iterable[Tensor]) -> float:
        """The distance between clips, given in parts `(B, 1 or 3, T, H, W)` in [-1, 1].

        Raises:
            ConfigError: fewer than two clips, clips that the network cannot take, or features that are not finite.
        """
        return frechet_distance(self.features(real, "real"), self.features(generated, "generated"))

    def features(self, clips: Iterable[Tensor], name: str = "given") -> np.ndarray:
        """`(N, D)`, float64, of clips in parts as `__call__` takes them; only features are kept. Raises as `__call__`."""
        found = [self._of_part(part, name) for clip in clips for part in clip.split(self.batch)]
        features = torch.cat(found).double().cpu().numpy() if found else np.empty((0, 0))
        if len(features) < 2:
            raise ConfigError(f"fvd: {len(features)} {name} clip(s) have no covariance; give two at least")
        if not np.isfinite(features).all():
            raise ConfigError(f"fvd: features of the {name} clips are not finite; are their pixels in [-1, 1]?")
        return features

    @torch.no_grad()
    def _of_part(self, clips: Tensor, name: str) -> Tensor:
        pixels = ((clips.to(self.device).float().clamp(-1, 1) + 1) * 127.5).round()  # as they are in a file
        pixels = pixels.expand(-1, 3, -1, -1, -1)
        try:
            found = self.network(pixels, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-160:]
            raise ConfigError(
                f"{self.path}: cannot take the {name} clips {tuple(clips.shape)}; I3D needs 10 frames at least ({reason})"
            ) from None
        return found.flatten(1)
