"""Means and ranges over seeds, for tables."""

from __future__ import annotations

from statistics import mean

MEASURES = {"psnr_db": 2, "ssim": 3, "difference_psnr_db": 2}
"""Measures of `autoencoder_training.evaluate`, with the decimals they are printed with."""


def spread(values: list[float], decimals: int) -> str:
    """The mean, and the range in parentheses."""
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), mean(values), max(values)))
    return f"{middle} ({low} to {high})"


def over_seeds(results: list[dict], measure: str) -> str:
    """A measure over all clips, of results that differ in their seed."""
    return spread([result["clips"]["all"][measure] for result in results], MEASURES[measure])
