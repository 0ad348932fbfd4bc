"""Local search for a quadratic score under a budget: the best exchange of up to two slots, until none improves.

Thompson draws with pairwise terms would be 0-1 programs with thousands of products, which take HiGHS minutes; local search
takes milliseconds. docs/benchmarks/search.md compares it with the exact optimum.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nas.search.problem import Problem


class LocalSearch:
    """Hill climbing on `utilities[d] + interactions[d, e] / 2` summed over the chosen columns, within a problem's budget.

    The gains of all pairs of columns are computed at once in `(D, D)` arrays; D is slots x choices.

    Args:
        problem: the feasible set.
        utilities: `(D,)`.
        interactions: `(D, D)`, symmetric.
    """

    def __init__(self, problem: Problem, utilities: np.ndarray, interactions: np.ndarray) -> None:
        self.problem, self.slot = problem, problem.slot
        self.utilities = utilities
        scale = np.abs(utilities).sum() + np.abs(interactions).sum() + 1.0
        self.interactions = np.where(problem.conflicts, -scale, interactions)
        self.other = problem.slot[:, None] != problem.slot[None, :]
        self.closed = ~(self.other & problem.allowed[:, None] & problem.allowed[None, :])

    def score(self, x: np.ndarray) -> float:
        """Of columns `(slots,)`."""
        return float(self.utilities[x].sum() + self.interactions[np.ix_(x, x)].sum() / 2)

    def gains(self, x: np.ndarray) -> np.ndarray:
        """What taking columns d and e in their two slots adds to the score of `x`: `(D, D)`, -inf where it may not be."""
        q, slot = self.interactions, self.slot
        towards = q[:, x]  # (D, slots): to the chosen column of every slot
        marginal = self.utilities + towards.sum(1) - towards[np.arange(len(slot)), slot]
        gain = marginal - marginal[x][slot]
        spread = towards[:, slot]
        total = gain[:, None] + gain[None, :] + q - spread - spread.T + q[np.ix_(x, x)][np.ix_(slot, slot)]
        total[self.closed | ~self._fits(x)] = -np.inf
        return np.asarray(total)

    def climb(self, x: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """From feasible columns to a local optimum: its columns, its score, and the gains around it."""
        x, score = x.copy(), self.score(x)
        tolerance = 1e-9 * (1.0 + abs(score))
        while True:
            gains = self.gains(x)
            d, e = np.unravel_index(np.argmax(gains), gains.shape)
            if gains[d, e] <= tolerance:
                return x, self.score(x), gains
            x[self.slot[d]], x[self.slot[e]] = d, e

    def best(self, starts: Iterable[np.ndarray], taken: set[bytes]) -> np.ndarray | None:
        """The best columns reached from the starts that are not taken; None if everything around is taken.

        Args:
            starts: feasible columns.
            taken: `codes.tobytes()` of architectures that may not be the answer.
        """
        tops = sorted((self.climb(x) for x in starts), key=lambda top: -top[1])
        best, best_score = None, -np.inf
        for x, score, gains in tops:
            if score <= best_score:
                break
            found = self._free(x, score, gains, taken, best_score)
            if found is not None:
                best, best_score = found
        return best

    def _free(
        self, x: np.ndarray, score: float, gains: np.ndarray, taken: set[bytes], threshold: float
    ) -> tuple[np.ndarray, float] | None:
        """`x` or the best neighbor of it that is not taken and scores above `threshold`."""
        candidates = np.argsort(-gains, axis=None, kind="stable")[:2000]
        for flat in [-1, *candidates]:
            y, value = x, score
            if flat >= 0:
                d, e = divmod(int(flat), len(self.slot))
                if not np.isfinite(gains[d, e]) or score + gains[d, e] <= threshold:
                    return None
                y, value = x.copy(), score + gains[d, e]
                y[self.slot[d]], y[self.slot[e]] = d, e
            codes = self.problem.codes(y)
            if codes.tobytes() not in taken and self.problem.feasible(codes[None])[0]:
                return y, value
        return None

    def _fits(self, x: np.ndarray) -> np.ndarray:
        """`(D, D)` bool: whether taking both columns keeps within the budget (up to rounding) and the counts."""
        problem, slot = self.problem, self.slot
        fits = np.ones((len(slot), len(slot)), dtype=bool)
        for bound in problem.sums:
            change = bound.values - bound.values[x][slot]
            room = bound.limit - bound.base - bound.values[x].sum()
            fits &= change[:, None] + change[None, :] <= room + 1e-12 * bound.limit
        for memory in problem.peaks:
            change = memory.weights - memory.weights[x][slot]
            room = memory.limit - memory.base_weights - memory.weights[x].sum()
            others = _peak_without(memory.peak[x], memory.base_peak)[np.ix_(slot, slot)]
            highest = np.maximum(others, memory.peak[:, None])
            np.maximum(highest, memory.peak[None, :], out=highest)
            fits &= change[:, None] + change[None, :] + highest <= room + 1e-12 * memory.limit
        for count in problem.counts:
            change = count.members.astype(int) - count.members[x][slot]
            total = count.members[x].sum() + change[:, None] + change[None, :]
            fits &= (total >= count.low) & (total <= count.high)
        return fits


def _peak_without(peaks: np.ndarray, base: float) -> np.ndarray:
    """`(slots, slots)`: the highest peak of the others and of the backbone, with slots i and j left out."""
    result = np.full((len(peaks), len(peaks)), base)
    order = np.argsort(-peaks)[:3]
    for k in order[::-1]:  # the highest last, so that it overrides
        apart = np.arange(len(peaks)) != k
        result[np.ix_(apart, apart)] = np.maximum(peaks[k], base)
    return result
