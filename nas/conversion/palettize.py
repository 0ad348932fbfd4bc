"""Fewer bits for a Core ML package's weights: each tensor keeps 2^bits values and an index to one of them per weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.conversion.libraries import coremltools, quiet
from nas.errors import ConfigError

BITS = (6, 8)
ROUNDS = 30
"""Of k-means; the values hardly move after a few."""


def palettize(model: Any, bits: int) -> Any:
    """`model` with its weights palettized, as `coremltools.optimize` does it. Biases and small tensors stay.

    The values of each tensor's palette are chosen by k-means. Values spread evenly over the range, coremltools'
    "uniform", leave few where most weights lie as soon as one weight is far out.

    Args:
        model: a `coremltools.models.MLModel`.
        bits: 6 or 8 per weight; float16 has 16.

    Raises:
        ConfigError: another number of bits.
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
    """The values that stand for a tensor's, `(size,)` rising, and for each of its weights the index of the nearest.

    One-dimensional k-means (Lloyd 1982) over the distinct values of a float16 tensor, at most 65536 however many weights
    there are, so that it takes a fraction of a second.
    """
    values, inverse, counts = np.unique(weight, return_inverse=True, return_counts=True)
    wide = values.astype(np.float64)
    if len(values) <= size:
        centers = np.concatenate([wide, np.full(size - len(values), wide[-1])])
    else:
        centers = _spread(wide, counts, size)
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


def _spread(values: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Where k-means begins: as dense as the cube root of the weights' density, which is best for many values (Panter and
    Dite 1951), and at both ends, so that no far weight shares a value with the many. Much finer bins would hold a weight each in
    small tensors and show no density."""
    histogram, edges = np.histogram(values, 4 * size, weights=counts)
    ranks = np.cumsum(np.cbrt(histogram))
    inner = edges[1:][np.searchsorted(ranks, (np.arange(size - 2) + 0.5) / (size - 2) * ranks[-1])]
    return np.concatenate([values[:1], inner, values[-1:]])
