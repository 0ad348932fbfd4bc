"""Exact solver: the best architecture under a budget as a 0-1 program, solved by HiGHS.

One binary variable per column (a choice of a slot). Peak memory is a true maximum: one continuous variable above every
chosen peak. A pair score is a product of two binaries; products of one pair of slots are linearized together by their
local polytope (Sherali and Adams, 1990), which is much tighter than one triangle of inequalities for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from nas.costs import Budget, CostModel
from nas.errors import BudgetError
from nas.search.problem import Pairs, Problem, Scores
from nas.spaces import Architecture, SearchSpace

GAP = 1e-7
"""Relative optimality gap, per slot, up to which a solution counts as proved."""


@dataclass(frozen=True)
class Optimum:
    """A solution of the exact solver.

    Attributes:
        architecture: the best architecture found within the budget.
        score: its score.
        bound: upper bound on the score of any architecture within the budget.
        proved: whether the score equals the bound, up to `GAP`.
    """

    architecture: Architecture
    score: float
    bound: float
    proved: bool

    @property
    def gap(self) -> float:
        """Upper bound minus score."""
        return max(self.bound - self.score, 0.0)


def optimum(
    space: SearchSpace,
    cost: CostModel,
    scores: Scores,
    budget: Budget | None = None,
    pairs: Pairs | None = None,
    time_limit_s: float = 60.0,
) -> Optimum:
    """The architecture with the greatest score within the budget.

    The score of an architecture is the sum of `scores[slot][choice]` over its slots and of
    `pairs[slot, other][choice, other_choice]` over pairs of slots; anything else scores 0.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one and its costs.
        SpaceError: a slot or choice that the space does not have.
    """
    return shortlist(space, cost, scores, budget, 1, pairs, time_limit_s)[0]


def shortlist(
    space: SearchSpace,
    cost: CostModel,
    scores: Scores,
    budget: Budget | None,
    k: int,
    pairs: Pairs | None = None,
    time_limit_s: float = 60.0,
) -> list[Optimum]:
    """The `k` best architectures, best first; fewer when fewer are within the budget.

    Additive scores are an approximation: evaluate the best few before choosing one.

    Raises:
        BudgetError, SpaceError: as `optimum`.
    """
    problem = Problem.build(space, cost, budget)
    utilities, interactions = problem.utilities(scores), problem.interactions(pairs or {})
    found: list[Optimum] = []
    while len(found) < k:
        taken = [problem.columns(space.encode(o.architecture)) for o in found]
        best = solve(problem, utilities, interactions, exclude=taken, time_limit_s=time_limit_s)
        if best is None:
            break
        found.append(Optimum(space.decode(problem.codes(best.columns)), best.score, best.bound, best.proved))
    if not found:
        raise infeasible(problem)
    return found


@dataclass(frozen=True)
class Solution:
    """A result of `solve`: columns `(slots,)`, their score, an upper bound on all scores, and whether the two are equal."""

    columns: np.ndarray
    score: float
    bound: float
    proved: bool


def solve(
    problem: Problem,
    utilities: np.ndarray,
    interactions: np.ndarray | None = None,
    exclude: list[np.ndarray] | None = None,
    time_limit_s: float = 60.0,
) -> Solution | None:
    """Maximize the sum of utilities `(D,)` and interactions `(D, D)` of the chosen columns within the budget.

    Args:
        exclude: architectures, as columns, that may not be the answer.
        time_limit_s: after which the best one so far is returned unproved.

    Returns:
        None if no architecture is feasible.

    Raises:
        TimeoutError: no feasible architecture was found within the time limit.
    """
    deadline = time.monotonic() + time_limit_s
    scale = max(np.abs(utilities).max(), 0.0 if interactions is None else np.abs(interactions).max(), 1e-300)
    program = Program.of(problem, utilities / scale, None if interactions is None else interactions / scale)
    for columns in exclude or []:
        program.cut(columns)
    while True:
        values, bound, done = program.maximize(max(deadline - time.monotonic(), 0.01))
        if values is None and done:
            return None
        if values is None:
            raise TimeoutError(f"no feasible architecture found within {time_limit_s:g} s")
        columns = program.columns(values)
        if problem.feasible(problem.codes(columns)[None])[0]:
            break
        program.cut(columns)  # exceeds a bound by less than HiGHS' tolerance
    score = score_of(columns, utilities, interactions)
    bound = max(bound * scale, score)
    return Solution(columns, score, bound, bool(done and bound - score <= GAP * scale * problem.slots))


def score_of(columns: np.ndarray, utilities: np.ndarray, interactions: np.ndarray | None) -> float:
    score = utilities[columns].sum()
    if interactions is not None:
        score += interactions[np.ix_(columns, columns)].sum() / 2
    return float(score)


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
        cls, problem: Problem, utilities: np.ndarray, interactions: np.ndarray | None, elastic: bool = False
    ) -> Program:
        size = len(problem.slot)
        program = cls(problem, list(utilities), [0.0] * size, list(problem.allowed.astype(float)), [True] * size)
        for first, end in zip(problem.start, problem.start[1:]):
            program.row(np.arange(first, end), 1.0, 1.0, 1.0)
        program._canonical_rows()
        program._budget_rows(elastic)
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

    def cut(self, columns: np.ndarray) -> None:
        """Forbid exactly this architecture."""
        self.row(columns, 1.0, -np.inf, len(columns) - 1.0)

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
        with _without_debug_output():
            result = milp(
                -np.array(self.objective),
                integrality=np.array(self.integral, dtype=int),
                bounds=Bounds(np.array(self.lower), np.array(self.upper)),
                constraints=LinearConstraint(matrix, [row[2] for row in self.rows], [row[3] for row in self.rows]),
                options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
            )
        if result.x is None:
            return None, np.inf, result.status == 2
        return result.x, -result.mip_dual_bound, result.status == 0

    def _canonical_rows(self) -> None:
        problem = self.problem
        rows, columns = np.nonzero(problem.conflicts)
        for none in np.unique(rows[problem.slot[rows] < problem.slot[columns]]):
            rivals = columns[(rows == none) & (problem.slot[columns] > problem.slot[none])]
            self.row(np.append(rivals, none), 1.0, -np.inf, 1.0)

    def _budget_rows(self, elastic: bool) -> None:
        """`cost / bound <= excess`, where excess is 1, or a variable to be kept small when `elastic`.

        Divided by the bound, so that HiGHS' tolerance means the same share of every bound.
        """
        problem, every = self.problem, np.arange(len(self.problem.slot))
        excess = self.variables(1, -1.0 if elastic else 0.0, 0.0 if elastic else 1.0, np.inf if elastic else 1.0)

        def bound(variables: np.ndarray, shares: np.ndarray, base_share: float) -> None:
            self.row(np.append(variables, excess), np.append(shares, -1.0), -np.inf, -base_share)

        for values, base, limit in zip((problem.latency_ms, problem.params), problem.base, problem.limits):
            if np.isfinite(limit):
                bound(every, values / limit, base / limit)
        base_weights, base_peak, limit = problem.base[2], problem.base[3], problem.limits[2]
        if not np.isfinite(limit):
            return
        peak = self.variables(1, 0.0, base_peak / limit, np.inf)
        bound(np.append(every, peak), np.append(problem.weights_mb / limit, 1.0), base_weights / limit)
        for first, end in zip(problem.start, problem.start[1:]):
            columns = np.arange(first, end)
            self.row(np.append(columns, peak), np.append(-problem.peak_mb[columns] / limit, 1.0), 0.0, np.inf)

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


def infeasible(problem: Problem) -> BudgetError:
    """The error for a budget that no architecture meets; it names the cheapest one and its costs."""
    unpruned = replace(problem, allowed=np.isfinite(np.concatenate(problem.cost.terms().latency_ms)))
    program = Program.of(unpruned, np.zeros(len(problem.slot)), None, elastic=True)
    values, _, _ = program.maximize(60.0)
    if values is None:
        return BudgetError(
            f"budget: no architecture of '{problem.space.name}' runs on the device at all; "
            "every choice of some slot is infeasible in the table: offer it 'none'"
        )
    nearest = problem.space.decode(problem.codes(program.columns(values)))
    costs = problem.cost.predict(nearest)
    clip = "" if problem.budget.generation_s is None else f", {costs.generation_s:.4g} s a clip"
    return BudgetError(
        f"budget: no architecture meets {problem.budget}; the cheapest, {nearest}, costs "
        f"{costs.latency_ms:.4g} ms, {costs.memory_mb:.4g} MB, {costs.params} params{clip}; raise the bound it breaks"
    )


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
