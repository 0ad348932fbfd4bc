"""The default sampler: Thompson sampling from a Bayesian linear surrogate, maximized within the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas.costs import Budget, CostModel, Costs
from nas.search.constraints import Constraints
from nas.search.exact import infeasible, solve
from nas.search.problem import Problem
from nas.search.samplers.base import BaseArchitectureSampler, scalarize
from nas.search.samplers.local_search import LocalSearch
from nas.search.samplers.repair import repair
from nas.search.samplers.surrogate import Prior, Surrogate, fit
from nas.search.trial_history import TrialHistory
from nas.spaces import SearchSpace

STARTS = 6
"""Local searches per proposal; what they reach is measured in docs/benchmarks/search.md."""

TEMPERATURES = (1.0, 0.5, 0.25, 0.0)
"""Factors, in turn, of a Thompson draw's deviation from the posterior mean: 1 explores, 0 exploits. A study may end at any
trial, so they alternate."""

FITS = (4, *(int(8 * 1.3**i) for i in range(17)))
"""After how many finished trials the variances are fitted anew; at most about 500 trials enter a fit."""


class BudgetSampler(BaseArchitectureSampler):
    """Proposes only architectures within the budget, and finds the best one in few evaluations.

    The idea is BOCS' (Baptista and Poloczek, ICML 2018): a Bayesian linear model with pairwise terms, Thompson draws, and
    a solver that maximizes each draw; here with terms that know slots, operators, stages, skip connections and costs, and with budgets as
    constraints of the maximization. The first `startup` proposals maximize random scores; then each is a draw of the
    posterior, shrunk toward its mean (`TEMPERATURES`), and maximized within the budget. Running trials count as
    scored just as expected. No architecture is proposed twice while others are left. Several objectives are scalarized
    at random, anew for each proposal (`nas.search.samplers.base.scalarize`).

    Args:
        space, cost, budget, constraints: what is searched; `cost` is a cost model, or one by each device's name. The
            study's parameters are the slots, categorical over their choices.
        startup: proposals before the surrogate is asked.
        seed: see `BaseArchitectureSampler`.
        links: pairs of slots that may interact as neighbors do; None: `space.links`, such as a UNet's skip connections.

    Raises:
        BudgetError: no architecture meets the budget; the text names the cheapest one.
        ConfigError: no architecture satisfies the constraints, or one cannot be read.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Costs | Mapping[str, CostModel],
        budget: Budget | None = None,
        startup: int = 5,
        seed: int | None = None,
        links: Sequence[tuple[str, str]] | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        super().__init__(Problem.build(space, cost, budget, constraints), seed)
        self.startup = startup
        self._typical = self._spread_out(np.random.default_rng(self._seed), 16)
        self._prior = Prior(self.problem, self._typical, links)
        self._variances: dict[bytes, np.ndarray] = {}

    def _spread_out(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Columns `(count, slots)` of feasible architectures: exact maximizers of random scores."""
        found = []
        for _ in range(count):
            best = solve(self.problem, rng.normal(size=len(self.problem.slot)))
            if best is None:
                raise infeasible(self.problem)
            found.append(best.columns)
        return np.array(found)

    def propose(self, history: TrialHistory, rng: np.random.Generator) -> np.ndarray:
        problem = self.problem
        taken = history.taken()
        score = scalarize(history.values, rng)
        if len(history.codes) < 2 or len(taken) < self.startup:
            utilities, interactions = self._optimistic_draw(rng)
        else:
            utilities, interactions = self._tempered_draw(history, score, rng)
        starts = self._starts(history, score, rng)
        best = LocalSearch(problem, utilities, interactions).best(starts, taken)
        if best is None:  # everything near was tried: a small space, nearly exhausted
            return repair(problem, problem.space.encode(problem.space.random(rng)), rng, exclude=history.failed)
        return problem.codes(best)

    def _optimistic_draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Utilities from the prior in which any layer is worth something: its maximizers use the budget up."""
        utilities, interactions = self._prior.draw(rng)
        utilities = utilities + self._prior.layer * np.abs(utilities).mean()
        return utilities, np.zeros_like(interactions)

    def _tempered_draw(
        self, history: TrialHistory, score: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        x = self.problem.columns(history.codes)
        variances = self._fitted(x, history.values)
        if len(history.failed):  # as bad as the worst, so that the search turns away from what fails
            x = np.concatenate([x, self.problem.columns(history.failed)])
            score = np.concatenate([score, np.full(len(history.failed), score.min())])
        surrogate = Surrogate(self._prior, x, score, variances)
        surrogate.condition(self.problem.columns(history.pending))
        (u, q), (mean_u, mean_q) = surrogate.draw(rng), surrogate.expected()
        temperature = TEMPERATURES[(len(x) + len(history.pending)) % len(TEMPERATURES)]
        return mean_u + temperature * (u - mean_u), mean_q + temperature * (q - mean_q)

    def _fitted(self, x: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """Variances fitted to the first trials, as many as `FITS` says, so that a resumed study fits the same.

        Of several objectives, to one scalarization of them: variances are shares, and much the same for all.
        """
        counts = [count for count in FITS if count <= len(x)]
        if not counts:
            return None
        x, score = x[: counts[-1]], scalarize(values[: counts[-1]], np.random.default_rng(0))
        key = x.tobytes() + score.tobytes()
        if key not in self._variances:
            self._variances = {key: fit(self._prior, x, score)}
        return self._variances[key]

    def _starts(self, history: TrialHistory, score: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Where to climb from: the best feasible trials, and random feasible architectures."""
        order = np.argsort(-score, kind="stable")[:20]
        good = order[self.problem.feasible(history.codes[order])] if len(order) else order
        starts = list(self.problem.columns(history.codes[good[: STARTS // 2]]))
        others = rng.integers(len(self._typical), size=STARTS - len(starts))
        return starts + list(self._typical[others])
