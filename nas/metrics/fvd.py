"""Frechet distance, and Frechet video distance (FVD; Unterthiner et al. 2018, arXiv 1812.01717).

FVD needs a feature network, usually I3D trained on Kinetics-400 as TorchScript, `i3d_torchscript.pt`, which gives the
values of the original TensorFlow implementation. No package includes it, so its path must be given. A TorchScript file is
a program: use one from a trusted source.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas import distributed
from nas.errors import ConfigError, MissingDependency

NETWORK = "https://github.com/universome/fvd-comparison"
"""Describes how to get the network, and compares it with the original."""


class FVD:
    """Frechet distance between I3D's features of real and of generated clips; lower is better.

    Published values use at least 2048 clips of 16 frames. With fewer clips than features (400) the distance is biased
    upward, and only distances for equal numbers of clips are comparable.

    Args:
        network: a TorchScript file whose module is called as `(clips, rescale=True, resize=True, return_features=True)`
            with clips `(B, 3, T, H, W)` from 0 to 255 and returns features `(B, D)`.
        batch: number of clips per call of the network.
        device: of the network; default: `nas.distributed.device`.

    Raises:
        MissingDependency: the file does not exist.
        ConfigError: it is not a TorchScript module.
    """

    def __init__(self, network: str | Path, batch: int = 8, device: str | None = None) -> None:
        self.path, self.batch, self.device = Path(network), batch, device or distributed.device()
        if not self.path.is_file():
            raise MissingDependency(
                f"{network}: no such file; FVD needs I3D as TorchScript: get i3d_torchscript.pt as described at {NETWORK}, "
                "and give its path"
            )
        try:
            self.network = torch.jit.load(str(self.path), map_location=self.device).eval()
        except RuntimeError:
            raise ConfigError(
                f"{network}: is not a TorchScript module; get i3d_torchscript.pt as described at {NETWORK}"
            ) from None

    def __call__(self, real: Iterable[Tensor], generated: Iterable[Tensor]) -> float:
        """The distance between clips, given in batches `(B, 1 or 3, T, H, W)` in [-1, 1].

        Raises:
            ConfigError: fewer than two clips, clips that the network does not accept, or features that are not finite.
        """
        return frechet_distance(self.features(real, "real"), self.features(generated, "generated"))

    def features(self, clips: Iterable[Tensor], name: str = "given") -> np.ndarray:
        """`(N, D)`, float64, of clips in batches; raises as `__call__`. Only features are kept in memory."""
        batches = [self.batch_features(part, name) for batch in clips for part in batch.split(self.batch)]
        features = torch.cat(batches).double().cpu().numpy() if batches else np.empty((0, 0))
        if len(features) < 2:
            raise ConfigError(f"fvd: {len(features)} {name} clip(s) have no covariance; give at least two")
        if not np.isfinite(features).all():
            raise ConfigError(f"fvd: features of the {name} clips are not finite; are their pixels in [-1, 1]?")
        return features

    @torch.no_grad()
    def batch_features(self, clips: Tensor, name: str = "given") -> Tensor:
        """`(B, D)` of one batch of clips; raises as `__call__`."""
        pixels = ((clips.to(self.device).float().clamp(-1, 1) + 1) * 127.5).round()  # as they are in a file
        pixels = pixels.expand(-1, 3, -1, -1, -1)
        try:
            features = self.network(pixels, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-160:]
            raise ConfigError(
                f"{self.path}: does not accept the {name} clips {tuple(clips.shape)}; I3D needs at least 10 frames ({reason})"
            ) from None
        return features.flatten(1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to features `(N, D)` and `(M, D)` (Heusel et al. 2017, arXiv 1706.08500).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)); the last trace is the sum of the square roots of the eigenvalues
    of A^(1/2) B A^(1/2), which is symmetric and so has real ones.
    """
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
