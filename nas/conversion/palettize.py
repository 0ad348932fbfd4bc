"""Fewer bits for a Core ML package's weights: each tensor keeps 2^bits values and an index to one of them per weight."""

from __future__ import annotations

from typing import Any

from nas.conversion.libraries import coremltools, quiet
from nas.errors import ConfigError

BITS = (6, 8)


def palettise(model: Any, bits: int) -> Any:
    """`model` with its weights palettised, as `coremltools.optimize` does it. Biases and small tensors stay.

    The values are spread evenly over each tensor's range ("uniform"): k-means would fit them better, but takes hours
    for half a billion weights.

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
    config = optimize.OptimizationConfig(optimize.OpPalettizerConfig(mode="uniform", nbits=bits))
    with quiet():
        return optimize.palettize_weights(model, config)
