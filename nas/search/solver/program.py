"""A search as a mixed 0-1 program for HiGHS.

One binary variable per column (a choice of a slot). Peak memory is a true maximum: one continuous variable above every
chosen peak, for each device. A pair score is a product of two binaries; products of one pair of slots are linearized
together by their local polytope (Sherali and Adams, 1990), which is much tighter than one triangle of inequalities for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from nas.search.problem import PeakBound, Problem, SumBound


@dataclass
class Program:
    """A mixed 0-1 program under construction: `maximize objective @ v`, rows `low <= A v <= high`.

    Variables are the problem's columns, then whatever `variables` appended.
    """

    problem: Problem
    objective: list[float]
    lower: list[float]
    upper: list[float]
    integral: list[bool]
    rows: list[tuple[np.ndarray, np.ndarray, float, float]] = field(default_factory=list)

    @classmethod
    def of(
        cls, problem: Problem, utilities: np.ndarray, interactions: np.ndarray | None = None, budget: bool = True
    ) -> Program:
        """Slots, canonical form and constraints; and the budget, unless `budget` is False."""
        size = len(problem.slot)
        program = cls(problem, list(utilities), [0.0] * size, list(problem.allowed.astype(float)), [True] * size)
        for first, end in zip(problem.start, problem.start[1:]):
            program.row(np.arange(first, end), 1.0, 1.0, 1.0)
        program._canonical_rows()
        for count in problem.counts:
            program.row(np.flatnonzero(count.members), 1.0, count.low, count.high)
        if budget:
            program.bound(problem.bounds, program.variables(1, 0.0, 1.0, 1.0)[0])
        if interactions is not None:
            program._pair_rows(interactions)
        return program

    def row(self, variables: np.ndarray, coefficients: ArrayLike, low: float, high: float) -> None:
        variables = np.asarray(variables)
        self.rows.append((variables, np.broadcast_to(coefficients, variables.shape), low, high))

    def variables(self, count: int, objective: np.ndarray | float, low: float, high: float) -> np.ndarray:
        first = len(self.objective)
        self.objective += list(np.broadcast_to(objective, count))
        self.lower += [low] * count
        self.upper += [high] * count
        self.integral += [False] * count
        return np.arange(first, first + count)

    def cut(self, columns: np.ndarray, distance: int = 1) -> None:
        """Forbid the architectures that differ from this one in fewer than `distance` slots."""
        self.row(columns, 1.0, -np.inf, float(len(columns) - distance))

    def bound(self, bounds: Iterable[SumBound | PeakBound], excess: int) -> None:
        """`cost / limit <= excess`, a variable: fixed to 1, or one that the objective keeps small.

        Divided by the limit, so that HiGHS' tolerance means the same share of every bound.
        """
        every = np.arange(len(self.problem.slot))
        for bound in bounds:
            limit = bound.limit
            if isinstance(bound, SumBound):
                row, base = (every, bound.values / limit), bound.base
            else:
                peak = self.variables(1, 0.0, bound.base_peak / limit, np.inf)
                row, base = (np.append(every, peak), np.append(bound.weights / limit, 1.0)), bound.base_weights
                for first, end in itertools.pairwise(self.problem.start):
                    columns = np.arange(first, end)
                    self.row(np.append(columns, peak), np.append(-bound.peak[columns] / limit, 1.0), 0.0, np.inf)
            self.row(np.append(row[0], excess), np.append(row[1], -1.0), -np.inf, -base / limit)

    def require(self, score: float) -> None:
        """Only solutions with an objective of at least `score`; the objective is then empty."""
        terms = np.array(self.objective)
        self.row(np.flatnonzero(terms), terms[terms != 0], score, np.inf)
        self.objective = [0.0] * len(self.objective)

    def columns(self, values: np.ndarray) -> np.ndarray:
        """The chosen column of each slot."""
        start = self.problem.start
        return np.array([first + np.argmax(values[first:end]) for first, end in itertools.pairwise(start)])

    def maximize(self, time_limit_s: float) -> tuple[np.ndarray | None, float, bool]:
        """The best values, an upper bound on the objective, and whether HiGHS finished."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        indices = np.concatenate([row[0] for row in self.rows])
        data = np.concatenate([row[1] for row in self.rows])
        pointer = np.concatenate([[0], np.cumsum([len(row[0]) for row in self.rows])])
        matrix = csr_array((data, indices, pointer), shape=(len(self.rows), len(self.objective)))
        presolve = (
            len(self.problem.peaks) < 2
        )  # on several memory bounds HiGHS is faster without (benchmarks/devices.py)
        with _without_debug_output():
            result = milp(
                -np.array(self.objective),
                integrality=np.array(self.integral, dtype=int),
                bounds=Bounds(np.array(self.lower), np.array(self.upper)),
                constraints=LinearConstraint(matrix, [row[2] for row in self.rows], [row[3] for row in self.rows]),
                options={"time_limit": time_limit_s, "mip_rel_gap": 0.0, "presolve": presolve},
            )
        if result.x is None:
            return None, np.inf, result.status == 2
        return result.x, 0.0 - result.mip_dual_bound, result.status == 0  # not -0

    def _canonical_rows(self) -> None:
        problem = self.problem
        rows, columns = np.nonzero(problem.conflicts)
        for none in np.unique(rows[problem.slot[rows] < problem.slot[columns]]):
            rivals = columns[(rows == none) & (problem.slot[columns] > problem.slot[none])]
            self.row(np.append(rivals, none), 1.0, -np.inf, 1.0)

    def _pair_rows(self, interactions: np.ndarray) -> None:
        """Products y[d, e] = x[d] x[e] of the columns with a pair score, slot pair by slot pair.

        Row sums are at most x[d], column sums at most x[e], and together at least `sum x[d] + sum x[e] - 1`: with
        integral x exactly the product, however its score is signed.
        """
        problem = self.problem
        wanted = np.triu(interactions * np.outer(problem.allowed, problem.allowed) != 0)
        rows, columns = np.nonzero(wanted)
        for i, j in sorted(set(zip(problem.slot[rows].tolist(), problem.slot[columns].tolist()))):
            here = (problem.slot[rows] == i) & (problem.slot[columns] == j)
            first, second = np.unique(rows[here]), np.unique(columns[here])
            objective = interactions[np.ix_(first, second)]
            y = self.variables(objective.size, objective.ravel(), 0.0, 1.0).reshape(objective.shape)
            for d, products in zip(first, y):
                self.row(np.append(products, d), [1.0] * len(products) + [-1.0], -np.inf, 0.0)
            for e, products in zip(second, y.T):
                self.row(np.append(products, e), [1.0] * len(products) + [-1.0], -np.inf, 0.0)
            signs = [1.0] * y.size + [-1.0] * (len(first) + len(second))
            self.row(np.concatenate([y.ravel(), first, second]), signs, -1.0, np.inf)


_DEBUG_OUTPUT = b"HighsMipSolverData::"
_stdout = threading.Lock()


@contextlib.contextmanager
def _without_debug_output() -> Iterator[None]:
    """Drop the output of a `printf` in HiGHS that no option turns off; other output passes."""
    flush = ctypes.CDLL(None).fflush
    with _stdout, tempfile.TemporaryFile() as caught:
        try:
            sys.stdout.flush()
            flush(None)
            saved = os.dup(1)
        except (OSError, ValueError, AttributeError):  # there is no stdout
            yield
            return
        os.dup2(caught.fileno(), 1)
        try:
            yield
        finally:
            flush(None)
            os.dup2(saved, 1)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if not line.startswith(_DEBUG_OUTPUT):
                    os.write(1, line)
