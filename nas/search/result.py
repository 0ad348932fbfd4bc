"""The result of a search: its trials as a frame, the best architectures, the Pareto front, importances."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from nas.costs import Budget, Costs
from nas.errors import BudgetError
from nas.search.constraints import Constraints
from nas.search.problem import Problem
from nas.search.trial_history import is_reused, trial_codes
from nas.spaces import Architecture, SearchSpace

COSTS = ("latency_ms", "memory_mb", "params")


@dataclass(frozen=True, eq=False)
class Result:
    """A study of architectures.

    Attributes:
        study: the Optuna study; everything else here is computed from it.
        space, cost, budget, constraints: the arguments of the search.
    """

    study: optuna.Study
    space: SearchSpace
    cost: Costs
    budget: Budget
    constraints: Constraints = field(default_factory=Constraints)

    @property
    def frame(self) -> pd.DataFrame:
        """Every finished trial, in order: trial, score, the costs, feasible, pruned, and one column per slot.

        With several devices the costs are the largest over them, followed by those on each: `latency_ms@NAME`, ...
        """
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            codes = trial_codes(trial, self.space) if trial.state.is_finished() and trial.values else None
            if codes is not None:
                pruned = trial.state == TrialState.PRUNED
                rows.append((trial.number, trial.values[0], pruned, *codes))
        frame = pd.DataFrame(rows, columns=["trial", "score", "pruned", *self.space.slots])
        codes = frame[list(self.space.slots)].to_numpy(dtype=np.intp)
        costs = self.cost.predict_many(codes)
        names = {slot: np.array(choices)[codes[:, i]] for i, (slot, choices) in enumerate(self.space.slots.items())}
        problem = Problem.build(self.space, self.cost, None, self.constraints)
        feasible = (
            self.budget.mask(costs) & np.isfinite(costs["latency_ms"]) & problem.satisfies(problem.columns(codes))
        )
        return pd.concat(
            [frame[["trial", "score", "pruned"]], costs, feasible.rename("feasible"), pd.DataFrame(names)], axis=1
        )

    @property
    def failures(self) -> list[str]:
        """The errors of failed trials, in order."""
        return [t.user_attrs["error"] for t in self._trials(TrialState.FAIL) if "error" in t.user_attrs]

    @property
    def reused(self) -> int:
        """Number of scores taken from other searches: with another budget or table, or named by `warm_start`."""
        return sum(is_reused(trial) for trial in self._trials(TrialState.COMPLETE))

    def _trials(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(state,))

    def top(self, k: int) -> list[Architecture]:
        """The `k` best different architectures within the budget, best first.

        Raises:
            BudgetError: no trial was within the budget.
        """
        frame = self.frame
        slots = list(self.space.slots)
        if frame.empty:
            failed = f", the first one: {self.failures[0]}" if self.failures else ""
            raise BudgetError(f"search: no trial has a score; {len(self.failures)} failed{failed}")
        frame = frame[frame["feasible"] & ~frame["pruned"]].sort_values("score", ascending=False, kind="stable")
        if frame.empty:
            among = f" with {self.constraints}" if self.constraints else ""
            raise BudgetError(
                f"search: none of the {len(self.frame)} finished trials is within {self.budget}{among}; "
                "run more trials, or use the sampler 'budget' or one with '+repair', which propose only such architectures"
            )
        best = frame.drop_duplicates(slots)[slots].head(k)
        return [self.space.architecture(choices) for choices in best.to_dict("records")]

    @property
    def best(self) -> Architecture:
        """The architecture within the budget with the highest score.

        Raises:
            BudgetError: no trial was within the budget.
        """
        return self.top(1)[0]

    @property
    def front(self) -> pd.DataFrame:
        """The trials within the budget that no other beats in score and in every cost that the budget bounds.

        Columns as in `frame`, sorted by latency. Without any bound, latency counts.
        """
        frame = self.frame
        frame = frame[frame["feasible"] & ~frame["pruned"]].drop_duplicates(list(self.space.slots))
        against = list(self.budget.bounds()) or ["latency_ms"]
        lower = np.column_stack([-frame["score"], *(frame[name] for name in against)]).astype(float)
        keep = [not ((lower <= row).all(1) & (lower < row).any(1)).any() for row in lower]
        return frame[keep].sort_values(["latency_ms", "score"]).reset_index(drop=True)

    def importances(self) -> pd.Series:
        """Optuna's importance of each slot for the score (PED-ANOVA), highest first.

        Raises:
            ValueError: fewer than two different scores so far.
        """
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return pd.Series(optuna.importance.get_param_importances(self.study, evaluator=evaluator), name="importance")
