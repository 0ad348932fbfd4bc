"""Exact optima of scores that add up, by enumeration within Lagrangian bounds.

Partial architectures are extended slot by slot, all of them at once as arrays. One is dropped when no completion satisfies
some row of the program or some bound on memory, or when a Lagrangian bound shows that none scores more than the best
architecture so far. The multipliers are dual solutions of linear relaxations: of the whole program, and with slots fixed as
in promising partial architectures. Narrow passes keep the most promising only and find a good architecture; a last pass,
which drops nothing else, proves that there is no better one. In a small space it is the only pass. Where many bounds are
tight at once, as on several devices, it takes a fraction of the time of HiGHS (benchmarks/devices.py); where too many
partial architectures remain, it gives up.
"""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from nas.search.solver.program import Program

WIDTHS = (50, 400, 3000)
"""Partial architectures that the narrow passes keep after each slot."""

LAST_WIDTH = 50_000
"""Partial architectures above which the last pass gives up."""

LARGEST = 300_000
"""Extensions of partial architectures in memory at once."""

ROWS = 64
"""Rows of a program, beside those of slots and peaks, above which it is left to HiGHS: such as one for each excluded architecture."""

SAMPLED = 4
"""Slots of a pass at which the relaxation is solved for two of the partial architectures."""

FIRST = 8
"""Lagrangian bounds that are checked first, before the other ones for what they leave."""

TOLERANCE = 1e-9
"""Of rows, and of scores, in units of the largest score of a choice."""


class Enumeration:
    """The best architecture of a program without pairs."""

    def __init__(self, program: Program) -> None:
        from scipy.sparse import csr_array

        self.program, self.problem = program, program.problem
        problem, columns = self.problem, len(self.problem.slot)
        lower, upper = np.array(program.lower), np.array(program.upper)
        self.lower, self.upper = lower, np.where(np.isinf(upper), 1.0, upper)  # a peak is at most its whole limit
        matrix, limits = [], []
        for variables, coefficients, low, high in program.rows[problem.slots :]:
            row = np.zeros(len(lower))
            row[variables] = coefficients
            matrix += [row] * bool(np.isfinite(high)) + [-row] * bool(np.isfinite(low))
            limits += [high] * bool(np.isfinite(high)) + [-low] * bool(np.isfinite(low))
        self.matrix, self.limits = np.array(matrix).reshape(-1, len(lower)), np.array(limits)
        self.sparse = csr_array(self.matrix)
        ones = (np.ones(columns), (problem.slot, np.arange(columns)))
        self.one_a_slot = csr_array(ones, shape=(problem.slots, len(lower)))
        fixed = lower == upper
        fixed[:columns] = False
        linear = ~self.matrix[:, columns:][:, ~fixed[columns:]].any(axis=1)
        self.rows = self.matrix[linear][:, :columns]
        self.room = self.limits[linear] - self.matrix[linear][:, fixed] @ lower[fixed]
        peaks = problem.peaks
        self.weights = np.array([p.weights / p.limit for p in peaks]).reshape(-1, columns)
        self.peaks = np.array([p.peak / p.limit for p in peaks]).reshape(-1, columns)
        self.base_weights = np.array([p.base_weights / p.limit for p in peaks])
        self.base_peaks = np.array([p.base_peak / p.limit for p in peaks])
        self.scores = np.array(program.objective[:columns])
        self.allowed = problem.allowed.copy()
        self.penalized, self.constants = np.zeros((0, columns)), np.zeros(0)
        """For every vector of multipliers, scores less penalties of all columns, and what the multipliers' limits add."""
        self.best: np.ndarray | None = None
        self.best_score = -np.inf

    def maximize(self, time_limit_s: float) -> tuple[np.ndarray | None, bool]:
        """The columns `(slots,)` of the best architecture found, None without any; and whether there is no better one."""
        deadline = time.monotonic() + time_limit_s
        if len(self.rows) > ROWS or not self._relax(np.zeros(0, dtype=np.intp)):
            return None, False
        rng = np.random.default_rng(0)
        few = math.prod(np.add.reduceat(self.allowed, self.problem.start[:-1]).tolist()) <= LAST_WIDTH
        for width in (LAST_WIDTH,) if few else (*WIDTHS, LAST_WIDTH):
            partial = self._pass(width, last=width == LAST_WIDTH, deadline=deadline)
            if partial is None:
                return self.best, True
            if time.monotonic() > deadline:
                break
            for columns, bound in partial:
                for i in (int(np.argmax(bound)), int(rng.integers(len(columns)))):
                    self._relax(columns[i])
        return self.best, False

    def _relax(self, fixed: np.ndarray) -> bool:
        """Solve the linear relaxation with some columns chosen, and keep its multipliers; False if it has no solution."""
        from scipy.optimize import linprog

        slot, columns = self.problem.slot, len(self.problem.slot)
        upper = self.upper.copy()
        upper[:columns] = self.allowed & ~np.isin(slot, slot[fixed])
        upper[fixed] = 1.0
        found = linprog(
            -np.array(self.program.objective),
            A_ub=self.sparse,
            b_ub=self.limits,
            A_eq=self.one_a_slot,
            b_eq=np.ones(self.problem.slots),
            bounds=np.stack([self.lower, upper], axis=1),
            method="highs-ds",
            options={"presolve": False},
        )
        if found.status != 0:
            return False
        multipliers = np.maximum(-found.ineqlin.marginals, 0.0)
        penalized = np.array(self.program.objective) - multipliers @ self.matrix
        others = np.maximum(penalized * self.lower, penalized * self.upper)[columns:].sum()
        self.penalized = np.vstack([self.penalized, penalized[:columns]])
        self.constants = np.append(self.constants, multipliers @ self.limits + others)
        return True

    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        """How much every column lowers each Lagrangian bound `(bounds, D)`, and the bounds before that `(bounds,)`."""
        start, slot = self.problem.start, self.problem.slot
        highest = np.maximum.reduceat(np.where(self.allowed, self.penalized, -np.inf), start[:-1], axis=1)
        return highest[:, slot] - self.penalized, self.constants + highest.sum(axis=1)

    def _drop_columns(self) -> bool:
        """Drop the columns of which nothing better than the best comes; False if none of a slot is left."""
        while np.logical_or.reduceat(self.allowed, self.problem.start[:-1]).all():
            losses, bounds = self._losses()
            left = self.allowed & (bounds[:, None] - losses > self.best_score + TOLERANCE).all(axis=0)
            if (left == self.allowed).all():
                return True
            self.allowed = left
        return False

    def _least(self, values: np.ndarray) -> np.ndarray:
        """`(..., slots)`: the minimum of `values (..., D)` over the columns of each slot."""
        least = np.minimum.reduceat(np.where(self.allowed, values, np.inf), self.problem.start[:-1], axis=1)
        return np.asarray(least)

    def _pass(self, width: int, last: bool, deadline: float) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Extend partial architectures slot by slot, and update the best architecture.

        Returns:
            None if all were considered; otherwise some of those that were kept, as their columns `(N, decided)` and the
            bounds on their scores `(N,)`.
        """
        if not self._drop_columns():
            return None
        problem = self.problem
        choices = [np.flatnonzero(self.allowed[a:b]) + a for a, b in itertools.pairwise(problem.start)]
        order = sorted(range(problem.slots), key=lambda slot: len(choices[slot]))
        losses, bounds = self._losses()
        above = self.best_score + TOLERANCE
        least, least_weights, least_peaks = (self._least(v) for v in (self.rows, self.weights, self.peaks))
        lost, used = np.zeros((1, len(bounds))), least.sum(axis=1)[None]
        weights, peaks = (self.base_weights + least_weights.sum(axis=1))[None], self.base_peaks[None]
        columns = np.zeros((1, 0), dtype=np.intp)
        samples: list[tuple[np.ndarray, np.ndarray]] = []
        complete = True
        for number, slot in enumerate(order):
            new, rest = choices[slot], order[number + 1 :]
            if last and (len(columns) * len(new) > LARGEST or time.monotonic() > deadline):
                return samples
            first = bounds[:FIRST] - lost[:, None, :FIRST] - losses[:FIRST, new].T[None]
            old, choice = np.nonzero((first > above).all(axis=2))
            lost = lost[old] + losses[:, new].T[choice]
            bound = (bounds - lost).min(axis=1)
            better = bound > above
            old, choice, lost, bound = old[better], choice[better], lost[better], bound[better]
            used = used[old] + (self.rows[:, new] - least[:, [slot]]).T[choice]
            weights = weights[old] + (self.weights[:, new] - least_weights[:, [slot]]).T[choice]
            peaks = np.maximum(peaks[old], self.peaks[:, new].T[choice])
            highest = np.maximum(peaks, least_peaks[:, rest].max(axis=1, initial=0.0))
            fits = (used <= self.room + TOLERANCE).all(axis=1)
            kept = np.flatnonzero(fits & (weights + highest <= 1.0 + TOLERANCE).all(axis=1))
            if len(kept) > width:
                complete = False
                if last:
                    return samples
                kept = kept[np.argpartition(-bound[kept], width)[:width]]
            columns = np.concatenate([columns[old[kept]], new[choice[kept]][:, None]], axis=1)
            lost, bound, used, weights, peaks = lost[kept], bound[kept], used[kept], weights[kept], peaks[kept]
            if len(kept) == 0:
                break
            if number % max(problem.slots // SAMPLED, 1) == problem.slots // (2 * SAMPLED):
                samples.append((columns, bound))
        else:
            self._keep_best(columns[:, np.argsort(order)])
        return None if complete else samples

    def _keep_best(self, columns: np.ndarray) -> None:
        """Of complete architectures `(N, slots)`, the best that is within the budget by the cost model itself."""
        scores = self.scores[columns].sum(axis=1)
        ranked = np.argsort(-scores, kind="stable")
        for part in np.split(ranked, range(500, len(ranked), 500)):
            feasible = self.problem.feasible(self.problem.codes(columns[part]))
            if feasible.any():
                first = part[np.argmax(feasible)]
                if scores[first] > self.best_score:
                    self.best, self.best_score = columns[first], float(scores[first])
                return
