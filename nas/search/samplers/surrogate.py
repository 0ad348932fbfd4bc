"""Surrogate: a Bayesian linear model of the score with a term per choice and per pair of choices.

The score of an architecture is `mean + sum_d u[d] + sum_{d<e} Q[d, e]` over its columns. The prior of u and Q is a sum
of Gaussian terms, each with its own variance, which the marginal likelihood sets:

- u: by operator; by operator and stage (slots that cost alike); by operator, smooth along the network; by slot, whatever
  the operator; along the costs of a choice; and every column for itself;
- Q: by pair of operators, anywhere, in neighboring slots, or in slots that a skip connection joins; and every pair of
  columns for itself: of neighboring slots, of joined ones, near ones more than far ones, or all alike.

With N trials and D columns everything is done in the N x N dual (a Gaussian process with those kernels), and draws of u
and Q come from the posterior by Matheron's rule (Wilson et al., 2020): a draw from the prior, corrected by the data. So
the cost grows with N, not with the D^2 / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve
from scipy.optimize import minimize

from nas.search.problem import Problem
from nas.spaces import NONE

LOG_VARIANCE_SD = 1.5
"""Prior standard deviation of the log of every variance."""

CONSTANT = 25.0
"""Prior variance of the mean score, in units of the variance of the scores: all but unknown."""

NOISE = 1e-4
"""Prior median of the noise variance, in units of the variance of the scores."""


@dataclass(frozen=True, eq=False)
class AdditiveTerm:
    """A term of u with prior covariance `factor @ factor.T`: factor `(D, r)`."""

    share: float
    factor: np.ndarray

    def features(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.factor[x].sum(1))


@dataclass(frozen=True, eq=False)
class SharedPairTerm:
    """A term of Q that is one number per pair of operators, weighted by `near (slots, slots)`, upper triangular."""

    share: float
    operator: np.ndarray
    near: np.ndarray

    def features(self, x: np.ndarray) -> np.ndarray:
        chosen = np.eye(self.operator.max() + 1)[self.operator[x]]  # (N, slots, operators)
        return np.asarray(np.einsum("nic,ij,njd->ncd", chosen, self.near, chosen, optimize=True).reshape(len(x), -1))


@dataclass(frozen=True, eq=False)
class FreePairTerm:
    """A term of Q with an independent number for every pair of columns, of variance `near (slots, slots)`."""

    share: float
    near: np.ndarray

    def kernel(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        same = (x[:, None, :] == y[None, :, :]).astype(float)
        return np.asarray(np.einsum("nmi,ij,nmj->nm", same, np.triu(self.near, 1), same, optimize=True))


class Prior:
    """The terms for a search space, scaled so that a typical architecture's score has variance 1 under each."""

    def __init__(self, problem: Problem, sample: np.ndarray, links: Sequence[tuple[str, str]] | None = None) -> None:
        """
        Args:
            sample: columns `(N, slots)` of typical architectures.
            links: pairs of slots that may interact as neighbors do; None: those of the search space.
        """
        self.problem, self.size = problem, len(problem.slot)
        self.links = problem.space.links if links is None else links
        names = [choice for choices in problem.space.slots.values() for choice in choices]
        vocabulary = list(dict.fromkeys(names))
        self.operator = np.array([vocabulary.index(name) for name in names])
        self.none = np.array([name == NONE for name in names])
        self.layer = (~self.none).astype(float)
        self.terms = [self._scaled(term, sample) for term in self._terms()]

    def _terms(self) -> list[AdditiveTerm | SharedPairTerm | FreePairTerm]:
        problem, slots = self.problem, self.problem.slots
        by_operator = np.eye(self.operator.max() + 1)[self.operator] * self.layer[:, None]
        by_slot = np.eye(slots)[problem.slot]
        distance = np.abs(np.arange(slots)[:, None] - np.arange(slots)[None, :])
        smooth = _root(np.exp(-0.5 * (distance / max(slots / 8, 1.0)) ** 2))
        stage = _root(np.exp(-0.5 * _squared_distances(self._profiles())))
        near = np.where(distance > 0, 0.5 ** (distance - 1.0), 0.0)
        everywhere = np.ones((slots, slots)) - np.eye(slots)

        def crossed(root: np.ndarray) -> np.ndarray:
            """Operator by slot, correlated over slots as `root @ root.T`."""
            return np.asarray((by_operator[:, :, None] * (by_slot @ root)[:, None, :]).reshape(self.size, -1))

        terms: list[AdditiveTerm | SharedPairTerm | FreePairTerm] = [
            AdditiveTerm(0.2, by_operator),
            AdditiveTerm(0.2, crossed(stage)),
            AdditiveTerm(0.1, crossed(smooth)),
            AdditiveTerm(0.1, by_slot * self.layer[:, None]),
            AdditiveTerm(0.1, self._cost_features()),
            AdditiveTerm(0.2, np.diag(self.layer)),
            AdditiveTerm(0.3, self.layer[:, None]),
            SharedPairTerm(0.02, self.operator, np.triu(everywhere)),
            SharedPairTerm(0.02, self.operator, np.eye(slots, k=1)),
            FreePairTerm(0.03, np.eye(slots, k=1)),
            FreePairTerm(0.05, near),
            FreePairTerm(0.02, everywhere),
        ]
        linked = self._linked()
        if linked.any():  # each pair as strong as one of neighbors
            strength = linked.sum() / (slots - 1)
            terms += [SharedPairTerm(0.02 * strength, self.operator, linked), FreePairTerm(0.03 * strength, linked)]
        return terms

    def _linked(self) -> np.ndarray:
        """`(slots, slots)`, upper triangular: 1 for slots that a skip connection joins and that are no neighbors."""
        index = {slot: i for i, slot in enumerate(self.problem.space.slots)}
        linked = np.zeros((len(index), len(index)))
        for pair in self.links:
            first, second = sorted(index[slot] for slot in pair)
            linked[first, second] = float(second > first + 1)
        return linked

    def _scaled(
        self, term: AdditiveTerm | SharedPairTerm | FreePairTerm, sample: np.ndarray
    ) -> AdditiveTerm | SharedPairTerm | FreePairTerm:
        kernel = self.kernel_of(term, sample)
        size = float(np.mean(np.diag(kernel)))
        spread = size - float(kernel.mean())
        # what is alike in all typical architectures, such as their number of layers under a constraint, tells nothing
        scale = 1.0 / max(spread, 1e-4 * size) if spread > 1e-9 * size else 0.0
        if isinstance(term, AdditiveTerm):
            return AdditiveTerm(term.share, term.factor * np.sqrt(scale))
        if isinstance(term, SharedPairTerm):
            return SharedPairTerm(term.share, term.operator, term.near * np.sqrt(scale))
        return FreePairTerm(term.share, term.near * scale)

    def draw(self, rng: np.random.Generator, log_variances: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """u `(D,)` and Q `(D, D)` before any data."""
        log_variances = default_variances(self) if log_variances is None else log_variances
        size, slot = self.size, self.problem.slot
        u, q = np.zeros(size), np.zeros((size, size))
        for term, variance in zip(self.terms, np.exp(log_variances)):
            if isinstance(term, AdditiveTerm):
                u += np.sqrt(variance) * term.factor @ rng.normal(size=term.factor.shape[1])
            elif isinstance(term, SharedPairTerm):
                count = term.operator.max() + 1
                table = np.sqrt(variance) * rng.normal(size=(count, count))
                q += self.expand(term, table)
            else:
                deviation = np.sqrt(variance * np.triu(term.near, 1))[np.ix_(slot, slot)]
                q += _mirror(deviation * rng.normal(size=(size, size)))
        return u, q

    def expand(self, term: SharedPairTerm, table: np.ndarray) -> np.ndarray:
        slot = self.problem.slot
        return _mirror(table[np.ix_(term.operator, term.operator)] * term.near[np.ix_(slot, slot)])

    @staticmethod
    def kernel_of(term: AdditiveTerm | SharedPairTerm | FreePairTerm, x: np.ndarray) -> np.ndarray:
        if isinstance(term, FreePairTerm):
            return term.kernel(x, x)
        features = term.features(x)
        return np.asarray(features @ features.T)

    def _profiles(self) -> np.ndarray:
        """`(slots, r)`: each slot's costs averaged over its layers; slots of one stage are close to one another."""
        features = self._cost_features()
        layers = np.bincount(self.problem.slot, self.layer)
        sums = np.stack([np.bincount(self.problem.slot, column * self.layer) for column in features.T], axis=1)
        means = sums / np.maximum(layers, 1.0)[:, None]
        spread = means.std(0)
        return np.asarray((means - means.mean(0)) / np.where(spread > 1e-9, spread, 1.0))

    def _cost_features(self) -> np.ndarray:
        """`(D, r)`: standardized logarithms of latency, parameters and peak memory; 0 for `none`."""
        columns = []
        for values in (self.problem.latency_ms, self.problem.params, self.problem.peak_mb):
            positive = values[(self.layer > 0) & (values > 0)]
            if len(positive) == 0 or positive.std() == 0:
                continue
            logs = np.log(np.maximum(values, positive.min()))
            chosen = logs[self.layer > 0]
            columns.append((logs - chosen.mean()) / max(chosen.std(), 1e-9) * self.layer)
        return np.stack(columns, axis=1) if columns else self.layer[:, None]


class Surrogate:
    """The posterior given N scores of one objective.

    Args:
        prior: the terms.
        x: columns `(N, slots)`.
        y: scores `(N,)`.
        variances: log variances of the terms and of the noise, from `fit`; None for the prior's.
    """

    def __init__(self, prior: Prior, x: np.ndarray, y: np.ndarray, variances: np.ndarray | None = None) -> None:
        self.prior, self.x = prior, x
        self.mean, self.scale = float(np.median(y)), float(max(y.std(), 1e-12 * (1.0 + np.abs(y).max())))
        self.y = (y - self.mean) / self.scale
        self.variances = default_variances(prior) if variances is None else variances

    def condition(self, pending: np.ndarray) -> None:
        """Factor the kernel; `pending (M, slots)` columns count as scored just as expected, which only narrows draws."""
        self.points = np.concatenate([self.x, pending])
        kernels = np.stack([Prior.kernel_of(term, self.points) for term in self.prior.terms])
        weights = np.exp(self.variances)
        total = np.tensordot(weights[:-1], kernels, 1) + CONSTANT
        self.noise = np.full(len(self.points), weights[-1])
        known = len(self.x)
        seen = _cholesky(total[:known, :known] + np.diag(self.noise[:known])), True
        self.known_alpha = cho_solve(seen, self.y)
        self.factor = _cholesky(total + np.diag(self.noise)), True
        expected = total[known:, :known] @ self.known_alpha
        self.targets = np.concatenate([self.y, expected])

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean of u `(D,)` and Q `(D, D)`, in units of the score."""
        u, q = self._pull(cho_solve(self.factor, self.targets), self.points)
        return u * self.scale, q * self.scale

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One draw of u `(D,)` and Q `(D, D)` from the posterior, in units of the score."""
        u, q = self.prior.draw(rng, self.variances)
        at_points = u[self.points].sum(1) + np.sqrt(CONSTANT) * rng.normal()
        at_points += q[self.points[:, :, None], self.points[:, None, :]].sum((1, 2)) / 2
        noise = rng.normal(size=len(self.points)) * np.sqrt(self.noise)
        du, dq = self._pull(cho_solve(self.factor, self.targets - at_points - noise), self.points)
        return (u + du) * self.scale, (q + dq) * self.scale

    def _pull(self, alpha: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u and Q as the data pull them: prior covariance x features' x alpha."""
        size, slot = self.prior.size, self.prior.problem.slot
        u, q = np.zeros(size), np.zeros((size, size))
        one_hot = np.zeros((len(points), size))
        one_hot[np.arange(len(points))[:, None], points] = 1.0
        toward, together = one_hot.T @ alpha, None
        for term, variance in zip(self.prior.terms, np.exp(self.variances)):
            if isinstance(term, AdditiveTerm):
                u += variance * term.factor @ (term.factor.T @ toward)
            elif isinstance(term, SharedPairTerm):
                count = term.operator.max() + 1
                q += self.prior.expand(term, variance * (term.features(points).T @ alpha).reshape(count, count))
            else:
                together = one_hot.T @ (alpha[:, None] * one_hot) if together is None else together
                q += variance * _mirror(np.triu(term.near, 1)[np.ix_(slot, slot)] * together)
        return u, q


def default_variances(prior: Prior) -> np.ndarray:
    return np.log([*(term.share for term in prior.terms), NOISE])


def fit(prior: Prior, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The log variances of the terms and of the noise that maximize the marginal likelihood times a broad prior."""
    surrogate = Surrogate(prior, x, y)
    kernels = np.stack([Prior.kernel_of(term, x) for term in prior.terms] + [np.eye(len(x))])
    center = default_variances(prior)
    deviation = np.full(len(center), LOG_VARIANCE_SD)
    deviation[-1] = 3.0

    def loss(log_variances: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.exp(log_variances)
        total = np.tensordot(weights, kernels, 1) + CONSTANT + 1e-8 * np.eye(len(x))
        factor = _cholesky(total)
        inverse = cho_solve((factor, True), np.eye(len(x)))
        alpha = inverse @ surrogate.y
        away = (log_variances - center) / deviation
        value = 0.5 * surrogate.y @ alpha + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        slope = 0.5 * np.tensordot(kernels, inverse - np.outer(alpha, alpha), 2) * weights
        return float(value), slope + away / deviation

    bounds = [(c - 8.0, c + 5.0) for c in center]
    return np.asarray(minimize(loss, center, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}).x)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """The lower factor of a kernel matrix, with as little added to its diagonal as makes it definite despite rounding."""
    added, least = 0.0, 1e-12 * float(np.diag(matrix).mean())
    for _ in range(12):
        try:
            return np.linalg.cholesky(matrix + added * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            added = 10.0 * added or least
    raise np.linalg.LinAlgError("the kernel matrix is not finite or not symmetric")


def _mirror(upper: np.ndarray) -> np.ndarray:
    return np.asarray(upper + upper.T)


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with `R @ R.T = covariance`, directions of negligible variance left out."""
    values, vectors = np.linalg.eigh(covariance)
    keep = values > 1e-6 * values.max()
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _squared_distances(points: np.ndarray) -> np.ndarray:
    return np.asarray(((points[:, None, :] - points[None, :, :]) ** 2).sum(-1))
