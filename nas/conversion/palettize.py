"""Palettize the weights of a Core ML model: each tensor stores 2^bits values and one index into them per weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.conversion.libraries import coremltools, quiet
from nas.errors import ConfigError

BITS = (6, 8)
ROUNDS = 30
"""Iterations of k-means; most of the improvement comes in the first few."""


def palettize(model: Any, bits: int) -> Any:
    """Palettize the weights of `model` with `coremltools.optimize`. Biases and small tensors stay float16.

    The palette of each tensor is chosen by k-means. The evenly spaced values of coremltools' "uniform" mode leave too
    few values near most of the weights when a tensor has outliers.

    Args:
        model: a `coremltools.models.MLModel`.
        bits: bits per weight, 6 or 8.

    Raises:
        ConfigError: `bits` is not 6 or 8.
        MissingDependency: coremltools is not installed.
    """
    if bits not in BITS:
        raise ConfigError(f"bits: must be one of {', '.join(map(str, BITS))}, not {bits}")
    optimize = coremltools().optimize.coreml

    def palette_of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return palette(weight, 2**bits)

    config = optimize.OptimizationConfig(optimize.OpPalettizerConfig(mode="custom", lut_function=palette_of))
    with quiet():
        return optimize.palettize_weights(model, config)


def palette(weight: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The palette of a tensor, `(size,)` in ascending order, and the index of the nearest value for each weight.

    One-dimensional k-means (Lloyd 1982) over the distinct values of a float16 tensor. There are at most 65536 of these
    for any number of weights, so it takes a fraction of a second.
    """
    values, inverse, counts = np.unique(weight, return_inverse=True, return_counts=True)
    wide = values.astype(np.float64)
    if len(values) <= size:
        centers = np.concatenate([wide, np.full(size - len(values), wide[-1])])
    else:
        centers = _initial_centers(wide, counts, size)
        for _ in range(ROUNDS):
            nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, wide)
            weights = np.bincount(nearest, counts, size)
            sums = np.bincount(nearest, counts * wide, size)
            centers = np.where(weights > 0, sums / np.maximum(weights, 1), centers)
            centers.sort()
    centers = centers.astype(weight.dtype)
    exact = centers.astype(np.float64)
    nearest = np.searchsorted((exact[1:] + exact[:-1]) / 2, wide)
    return centers, nearest[inverse].reshape(weight.shape).astype(np.uint8)


def _initial_centers(values: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Initial centers of k-means, `(size,)`.

    Their density follows the cube root of the weights' density, which is optimal for many values (Panter and Dite
    1951). Both extremes are included, so that outliers get values of their own. Much finer histogram bins would each hold
    a single weight in small tensors, and show no density.
    """
    histogram, edges = np.histogram(values, 4 * size, weights=counts)
    ranks = np.cumsum(np.cbrt(histogram))
    inner = edges[1:][np.searchsorted(ranks, (np.arange(size - 2) + 0.5) / (size - 2) * ranks[-1])]
    return np.concatenate([values[:1], inner, values[-1:]])
