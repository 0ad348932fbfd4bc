"""Estimates over clips with bootstrap intervals (Efron 1979): percentile intervals of 95% from resampled clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.metrics.fvd import frechet_distance

RESAMPLES, DISTANCE_RESAMPLES = 1000, 100
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number from clips, its interval, and how many clips or objects it is from; NaN if from none."""

    value: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)


def share(hits: Sequence[float], totals: Sequence[float] | None = None, seed: int = 0) -> Estimate:
    """The sum of `hits` over the sum of `totals`; clips are resampled, so objects of one clip stay together.

    Args:
        hits: one number per clip, such as how many objects are right; NaN for a clip that has none to count.
        totals: such as how many objects there are; default: 1 for each clip, for a mean.
    """
    numbers = np.asarray(hits, float)
    weights = np.ones(len(numbers)) if totals is None else np.asarray(totals, float)
    counted = np.isfinite(numbers) & (weights > 0)
    numbers, weights = numbers[counted], weights[counted]
    if not len(numbers):
        return UNKNOWN
    random = np.random.default_rng(seed)
    chosen = random.integers(len(numbers), size=(RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[chosen].sum(1) / weights[chosen].sum(1), _quantiles())
    return Estimate(float(numbers.sum() / weights.sum()), float(low), float(high), int(weights.sum()))


def distance(generated: np.ndarray, real: np.ndarray, seed: int = 0) -> Estimate:
    """The Frechet distance of features `(N, D)` and `(M, D)`.

    A resample has fewer different clips, which makes its distance larger; the interval is shifted by the mean of that.
    """
    value = frechet_distance(generated, real)
    random = np.random.default_rng(seed)
    resampled = np.array(
        [
            frechet_distance(generated[random.integers(len(generated), size=len(generated))], real)
            for _ in range(DISTANCE_RESAMPLES)
        ]
    )
    low, high = value + np.quantile(resampled, _quantiles()) - resampled.mean()
    return Estimate(value, max(0.0, float(low)), float(high), len(generated))


def _quantiles() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2
