"""The statistical model of a transfer: a cost on a new device, given its value on others and a few measurements.

    log cost = log cost on the sources + constant + kind + shape + operation counts + differences of the sources + residual

Each term is a Gaussian process over the workloads, so that what was measured of one tells about those of its kind, its
family (attention or not) and its shape. Ten measurements do not tell how large each term is: predictions are averaged
over draws of the sizes from a prior, weighted by the likelihood of the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.costs.interpolate import COVERAGE

DRAWS = 256
"""Draws of the sizes of the terms."""
SHARES = {
    "family": 2.0,
    "kind": 1.5,
    "shape": 1.0,
    "shape of the family": 1.5,
    "shape of the kind": 1.0,
    "counts": 1.0,
    "residual": 1.0,
}
"""Concentrations of the Dirichlet distribution of each term's share of the variance."""
SIZE, SIZE_SPREAD = 0.25, 1.0
"""Median and log standard deviation of the size of all terms together, in log cost: how much devices differ by workload."""
CONSTANT_SD = 10.0
"""Standard deviation of the constant, the ratio of the devices' speeds: practically unknown."""
SLOPE_SD = 0.5
"""Standard deviation of the coefficients of `Predictors.slopes`."""
LEAST_VARIANCE = 1e-4
"""Variance of a measured log cost while workloads are chosen."""
LENGTH = 1.5
"""Length scale of shapes, in standard deviations."""
PRIOR_ROWS = 6.0
"""The weight, in measured rows, of the model's own interval against the errors of rows left out."""


@dataclass(frozen=True)
class Predictors:
    """What is known of N workloads before anything is measured on the new device.

    Attributes:
        base: `(N,)`, log cost on the sources.
        kinds, families: of each workload.
        shapes: `(N, F)` logarithms of sizes.
        counts: `(N, G)` quantities from operation counts.
        slopes: `(N, H)` log ratios that the log cost may follow in part: differences between sources.
        variance: `(N,)`, of the noise in `base`.
    """

    base: np.ndarray
    kinds: tuple[str, ...]
    families: tuple[str, ...]
    shapes: np.ndarray
    counts: np.ndarray
    slopes: np.ndarray
    variance: np.ndarray

    def covariances(self, fixed_size: float | None = None) -> np.ndarray:
        """Prior covariances `(draws, N, N)` of the log ratio to `base`, one for each draw of the sizes of the terms.

        Args:
            fixed_size: of all terms together, instead of draws.
        """
        kind, family = _equal(self.kinds), _equal(self.families)
        shapes = _standardized(self.shapes)
        distance = ((shapes[:, None] - shapes[None]) ** 2).sum(-1)
        shape = np.exp(-distance / (2 * LENGTH**2 * max(1, shapes.shape[1])))
        counts = _standardized(self.counts)
        linear = counts @ counts.T / max(1, counts.shape[1])
        terms = np.stack([family, kind, shape, family * shape, kind * shape, linear, np.eye(len(self.base))])
        rng = np.random.default_rng(0)
        shares = rng.dirichlet(list(SHARES.values()), DRAWS)
        sizes = SIZE * np.exp(SIZE_SPREAD * rng.standard_normal(DRAWS))
        if fixed_size is not None:
            sizes[:] = fixed_size
        drawn = np.tensordot(shares * sizes[:, None] ** 2, terms, axes=1)
        slopes = SLOPE_SD**2 * self.slopes @ self.slopes.T
        covariances: np.ndarray = drawn + slopes + CONSTANT_SD**2 + np.diag(self.variance)
        return covariances


@dataclass(frozen=True)
class Prediction:
    """Log costs of N workloads.

    Attributes:
        mean: `(N,)`.
        half_width: `(N,)`, of the interval that covers a log cost with the nominal probability.
        left_out: `(n,)`, of each measured workload, the error of its prediction from the others.
    """

    mean: np.ndarray
    half_width: np.ndarray
    left_out: np.ndarray


def predict(predictors: Predictors, measured: np.ndarray, log_cost: np.ndarray, variance: np.ndarray) -> Prediction:
    """Predict the log cost of every workload from those measured.

    Args:
        measured: `(n,)` indices of the measured workloads, n > 0.
        log_cost: `(n,)` their log costs.
        variance: `(n,)` of the noise in `log_cost`.
    """
    prior = predictors.covariances()
    y = log_cost - predictors.base[measured]
    inverse = np.linalg.inv(prior[:, measured[:, None], measured] + np.diag(variance))
    weighted = inverse @ y
    log_likelihood = (np.linalg.slogdet(inverse)[1] - weighted @ y) / 2
    cross = prior[:, :, measured]
    means = np.einsum("dan,dn->da", cross, weighted)
    variances = np.einsum("daa->da", prior) - np.einsum("dan,dnm,dam->da", cross, inverse, cross)
    weights = _normalized(log_likelihood)
    # leave-one-out in closed form (Rasmussen and Williams, 5.12), the weights of the draws without the row as well
    own = np.einsum("dnn->dn", inverse)
    errors, spreads = weighted / own, 1 / own
    densities = -(np.log(spreads) + errors**2 / spreads) / 2
    others = _normalized(log_likelihood[:, None] - densities)
    left_out = (others * errors).sum(0)
    left_out_sd = np.sqrt((others * (spreads + errors**2)).sum(0) - left_out**2)
    ratio = (PRIOR_ROWS + ((left_out / left_out_sd) ** 2).sum()) / (PRIOR_ROWS + len(y))
    mean = weights @ means
    width = np.sqrt(ratio) * _half_width(weights, means - mean, np.sqrt(np.maximum(variances, 1e-12)))
    return Prediction(predictors.base + mean, width, left_out)


def choose(
    predictors: Predictors,
    importance: np.ndarray,
    doubt: np.ndarray,
    resolved: Sequence[int],
    candidates: Sequence[int],
    count: int,
) -> list[int]:
    """The workloads to measure next, each of which reduces the expected squared error of architectures the most.

    Args:
        importance: `(N, N)`: `e @ importance @ e` is the squared error of architectures, where `e` are errors of log costs.
        doubt: `(N,)`, a variance of each workload in addition to the model's, which its measurement resolves.
        resolved: workloads whose costs were measured.
        candidates: those to choose from.
        count: how many to choose.
    """
    left = predictors.covariances(fixed_size=SIZE) + np.diag(doubt)

    def without(i: int) -> np.ndarray:
        column = left[:, :, i]
        rest: np.ndarray = left - column[:, :, None] * column[:, None, :] / (column[:, i, None, None] + LEAST_VARIANCE)
        return rest

    for i in resolved:
        left = without(i)
    picked: list[int] = []
    while len(picked) < min(count, len(candidates)):
        gains = np.einsum("dai,ab,dbi->di", left, importance, left, optimize=True)
        gain = (gains / (np.einsum("dii->di", left) + LEAST_VARIANCE)).mean(0)
        best = max((i for i in candidates if i not in picked), key=lambda i: float(gain[i]))
        left = without(best)
        picked.append(best)
    return picked


def _half_width(weights: np.ndarray, offsets: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """`(N,)`: the half width of an interval about 0 that has the nominal share of a mixture of normal distributions."""
    from scipy.special import ndtr

    low, high = np.zeros(offsets.shape[1]), (np.abs(offsets) + 4 * deviations).max(0)
    for _ in range(25):
        middle = (low + high) / 2
        inside = weights @ (ndtr((middle - offsets) / deviations) - ndtr((-middle - offsets) / deviations))
        low, high = np.where(inside < COVERAGE, middle, low), np.where(inside < COVERAGE, high, middle)
    half_width: np.ndarray = high
    return half_width


def _normalized(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max(0))
    normalized: np.ndarray = weights / weights.sum(0)
    return normalized


def _equal(names: tuple[str, ...]) -> np.ndarray:
    return np.array([[float(one == other) for other in names] for one in names])


def _standardized(columns: np.ndarray) -> np.ndarray:
    spread = columns.std(0)
    standardized: np.ndarray = (columns - columns.mean(0)) / np.where(spread > 1e-9, spread, 1.0)
    return standardized
