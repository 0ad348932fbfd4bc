"""Exact optima of scores that add up, by branch and bound with enumeration within Lagrangian bounds.

A box is a set of columns and a least peak memory of each device. It is split at a device's peak for as long as its linear
relaxation uses columns far above the least peak: then memory nearly adds up, and the relaxation is close. After that,
partial architectures of the box are extended slot by slot, all of them at once as arrays, and dropped when no completion
satisfies some row or some bound on memory, or when a Lagrangian bound shows that none scores more than the best
architecture so far. Where too many remain, only the most promising are extended, which finds a good architecture, and the box
is split at a slot. Multipliers are dual solutions of the relaxations of the box, and of boxes with slots fixed as in
promising partial architectures; they give a bound in every box. Where many bounds are tight at once, as on several
devices, this takes a fraction of the time of HiGHS (benchmarks/devices.py); after many boxes it gives up.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, replace

import numpy as np

from nas.search.solver.program import Program

EXCESS = 0.05
"""Share of a device's limit by which the relaxation may use columns above the least peak without the box being split."""

FEW = 1e14
"""Architectures up to which a box is not split at a peak."""

SPLIT = 0.8
"""Of that excess, what the lower one of two boxes keeps."""

WIDTH = 10_000
"""Partial architectures after a slot above which only the most promising are extended."""

NARROW = 300
"""How many these are."""

SAMPLED = 4
"""Slots after which the relaxation is solved for two of them."""

POOL = 24
"""Vectors of multipliers from those relaxations that are kept."""

BOXES = 400
"""Boxes above which the program is left to HiGHS."""

ROWS = 64
"""Rows of a program, beside those of slots and peaks, above which it is left to HiGHS: such as one for each excluded architecture."""

TOLERANCE = 1e-9
"""Of rows, and of scores, in units of the largest score of a choice."""


@dataclass(frozen=True, eq=False)
class Box:
    """The architectures of the `allowed (D,)` columns, with memory counted as of peaks of at least `lowest (devices,)`.

    Attributes:
        multipliers: `(rows,)`, the dual solution of the linear relaxation.
        shares: `(D,)`, its solution.
        bound: on the scores of the architectures.
    """

    allowed: np.ndarray
    lowest: np.ndarray
    multipliers: np.ndarray
    shares: np.ndarray
    bound: float = np.inf


class Enumeration:
    """The best architecture of a program without pairs."""

    def __init__(self, program: Program) -> None:
        self.problem = problem = program.problem
        columns, lower = len(problem.slot), np.array(program.lower)
        varies = lower != np.array(program.upper)
        rows, room = [], []
        for variables, coefficients, low, high in program.rows[problem.slots :]:
            row = np.zeros(len(lower))
            row[variables] = coefficients
            if (row * varies)[columns:].any():  # has a peak
                continue
            rest = row[columns:] @ lower[columns:]
            for sign, limit in ((1.0, high - rest), (-1.0, rest - low)):
                if np.isfinite(limit):
                    rows.append(sign * row[:columns])
                    room.append(limit)
        peaks = problem.peaks
        self.sums = len(rows)
        self.rows = np.array([*rows, *(p.weights / p.limit for p in peaks)]).reshape(-1, columns)
        self.room = np.array([*room, *(1.0 - p.base_weights / p.limit for p in peaks)])
        self.peaks = np.array([p.peak / p.limit for p in peaks]).reshape(-1, columns)
        self.base_peaks = np.array([p.base_peak / p.limit for p in peaks])
        self.scores = np.array(program.objective[:columns])
        self.pool = np.zeros((0, len(self.rows)))
        self.best: np.ndarray | None = None
        self.best_score = -np.inf

    def maximize(self, time_limit_s: float) -> tuple[np.ndarray | None, bool]:
        """The columns `(slots,)` of the best architecture found, None without any; and whether there is no better one."""
        if self.sums > ROWS:
            return None, False
        deadline = time.monotonic() + time_limit_s
        root = self._relax(self.problem.allowed, self.base_peaks)
        heap, seen = [(0.0, 0, root)] if root else [], 1
        while heap:
            box = heapq.heappop(heap)[2]
            allowed = self._better(box)
            if allowed is None:
                continue
            children = self._split_at_peak(box, allowed)
            if not children:
                if self._enumerate(box, allowed):
                    continue
                children = self._split_at_slot(box, allowed)
            if seen > BOXES or time.monotonic() > deadline:
                return self.best, False
            for child in children:
                seen += 1
                relaxed = self._relax(*child)
                if relaxed:
                    heapq.heappush(heap, (-relaxed.bound, seen, relaxed))
        return self.best, True

    def _relax(self, allowed: np.ndarray, lowest: np.ndarray) -> Box | None:
        """A box with the solution of its linear relaxation; None if that has none."""
        from scipy.optimize import linprog

        columns = np.flatnonzero(allowed)
        one_a_slot = self.problem.slot[columns] == np.arange(self.problem.slots)[:, None]
        if not one_a_slot.any(axis=1).all():
            return None
        found = linprog(
            -self.scores[columns],
            A_ub=self.rows[:, columns],
            b_ub=self._room(lowest),
            A_eq=one_a_slot,
            b_eq=np.ones(self.problem.slots),
            method="highs-ds",
            options={"presolve": False},
        )
        if found.status == 2:
            return None
        multipliers, shares = np.zeros(len(self.rows)), allowed.astype(float)
        if found.status == 0:  # otherwise the bound is a weak one
            multipliers, shares[columns] = np.maximum(-found.ineqlin.marginals, 0.0), found.x
        box = Box(allowed, lowest, multipliers, shares)
        return replace(box, bound=float(self._losses(box, allowed)[1].min()))

    def _room(self, lowest: np.ndarray) -> np.ndarray:
        """What the columns may use of every row beside these peaks."""
        return np.asarray(self.room - np.pad(lowest, (self.sums, 0)))

    def _losses(self, box: Box, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much every column lowers each Lagrangian bound `(bounds, D)`, and the bounds before that `(bounds,)`."""
        multipliers = np.vstack([box.multipliers, self.pool])
        penalized = self.scores - multipliers @ self.rows
        highest = np.maximum.reduceat(np.where(allowed, penalized, -np.inf), self.problem.start[:-1], axis=1)
        return highest[:, self.problem.slot] - penalized, multipliers @ self._room(box.lowest) + highest.sum(axis=1)

    def _better(self, box: Box) -> np.ndarray | None:
        """The columns of a box of which something better than the best may come; None if a slot has none."""
        allowed = box.allowed
        while np.logical_or.reduceat(allowed, self.problem.start[:-1]).all():
            losses, bounds = self._losses(box, allowed)
            left = allowed & (bounds[:, None] - losses > self.best_score + TOLERANCE).all(axis=0)
            if (left == allowed).all():
                return allowed
            allowed = left
        return None

    def _split_at_peak(self, box: Box, allowed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The columns and least peaks of two boxes that together hold what is left of one; none if memory nearly adds up."""
        used = allowed & (box.shares > TOLERANCE)
        excess = np.where(used, self.peaks, 0.0).max(axis=1) - box.lowest
        few = np.log(np.add.reduceat(allowed.astype(int), self.problem.start[:-1])).sum() <= np.log(FEW)
        if few or excess.max(initial=0.0) <= EXCESS:
            return []
        device = int(excess.argmax())
        peaks = self.peaks[device]
        high = peaks > box.lowest[device] + SPLIT * excess[device]
        raised = box.lowest.copy()
        raised[device] = peaks[allowed & high].min()
        return [(allowed & ~high, box.lowest), (allowed, raised)]

    def _split_at_slot(self, box: Box, allowed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Two boxes with and without the column of which the relaxation has most, in the slot where it is least decided."""
        start, shares = self.problem.start[:-1], np.where(allowed, box.shares, -1.0)
        several = np.add.reduceat(allowed.astype(int), start) > 1
        slot = int(np.argmin(np.where(several, np.maximum.reduceat(shares, start), np.inf)))
        here = self.problem.slot == slot
        column = np.arange(len(here)) == np.argmax(np.where(here, shares, -2.0))
        return [(allowed & (~here | column), box.lowest), (allowed & ~column, box.lowest)]

    def _enumerate(self, box: Box, allowed: np.ndarray) -> bool:
        """Extend partial architectures slot by slot, and update the best one; False if only the most promising were."""
        problem = self.problem
        choices = [np.flatnonzero(allowed[a:b]) + a for a, b in itertools.pairwise(problem.start)]
        order = sorted(range(problem.slots), key=lambda slot: len(choices[slot]))
        losses, bounds = self._losses(box, allowed)
        above = self.best_score + TOLERANCE
        least, least_peaks = (
            np.minimum.reduceat(np.where(allowed, values, np.inf), problem.start[:-1], axis=1)
            for values in (self.rows, self.peaks)
        )
        lost, used, peaks = np.zeros((1, len(bounds))), least.sum(axis=1)[None], box.lowest[None]
        columns = np.zeros((1, 0), dtype=np.intp)
        complete, samples = True, []
        for number, slot in enumerate(order):
            new, rest = choices[slot], order[number + 1 :]
            old, choice = np.nonzero(bounds[0] - lost[:, :1] - losses[0, new] > above)  # most of them, at little cost
            lost = lost[old] + losses[:, new].T[choice]
            used = used[old] + (self.rows[:, new] - least[:, [slot]]).T[choice]
            peaks = np.maximum(peaks[old], self.peaks[:, new].T[choice])
            highest = np.maximum(peaks, least_peaks[:, rest].max(axis=1, initial=0.0))
            bound = (bounds - lost).min(axis=1)
            total = used + np.pad(highest, ((0, 0), (self.sums, 0)))
            kept = np.flatnonzero((bound > above) & (total <= self.room + TOLERANCE).all(axis=1))
            complete &= len(kept) <= WIDTH
            if not complete and len(kept) > NARROW:
                kept = kept[np.argpartition(-bound[kept], NARROW)[:NARROW]]
            columns = np.concatenate([columns[old[kept]], new[choice[kept]][:, None]], axis=1)
            lost, used, peaks, bound = lost[kept], used[kept], peaks[kept], bound[kept]
            if len(kept) == 0:
                break
            if not complete and number % max(problem.slots // SAMPLED, 1) == problem.slots // (2 * SAMPLED):
                samples += [columns[np.argmax(bound)], columns[len(columns) // 2]]
        else:
            self._keep_best(columns[:, np.argsort(order)])
        for sample in samples:
            fixed = np.isin(problem.slot, problem.slot[sample])
            fixed[sample] = False
            relaxed = self._relax(allowed & ~fixed, box.lowest)
            if relaxed:
                self.pool = np.vstack([relaxed.multipliers, self.pool])[:POOL]
        return complete

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
