"""The trials of a study as arrays, for samplers and results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.spaces import SearchSpace


@dataclass(frozen=True)
class TrialHistory:
    """The trials of a study that are architectures of one search space.

    Attributes:
        codes: `(N, slots)` of the finished ones, in canonical form.
        values: `(N, objectives)`, negated where the study minimizes: higher is better.
        pending: `(M, slots)` of those still running.
        failed: `(K, slots)` of those that have no score: their evaluation failed, or they were pruned before it.
    """

    codes: np.ndarray
    values: np.ndarray
    pending: np.ndarray
    failed: np.ndarray

    @classmethod
    def of(cls, study: optuna.Study, space: SearchSpace, but: int = -1) -> TrialHistory:
        """Every trial of `study` except the one numbered `but`; pruned ones count with the last score they reported."""
        signs = np.array([1.0 if d == optuna.study.StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
        codes, values, pending, failed = [], [], [], []
        for trial in study.get_trials(deepcopy=False):
            found = trial_codes(trial, space)
            if found is None or trial.number == but:
                continue
            if trial.state == TrialState.RUNNING:
                pending.append(found)
            elif (score := _values(trial)) is not None and len(score) == len(signs):
                codes.append(found)
                values.append(signs * score)
            elif trial.state == TrialState.PRUNED or "error" in trial.user_attrs:
                failed.append(found)
        slots = len(space.slots)
        return cls(
            np.array(codes, dtype=np.intp).reshape(-1, slots),
            np.array(values, dtype=float).reshape(-1, len(signs)),
            np.array(pending, dtype=np.intp).reshape(-1, slots),
            np.array(failed, dtype=np.intp).reshape(-1, slots),
        )

    def taken(self) -> set[bytes]:
        """`codes.tobytes()` of every trial."""
        return {codes.tobytes() for codes in (*self.codes, *self.pending, *self.failed)}


def is_reused(trial: FrozenTrial) -> bool:
    """Whether a trial's score comes from another study, with other costs or another budget."""
    return "reused" in trial.user_attrs


def trial_codes(trial: FrozenTrial, space: SearchSpace) -> np.ndarray | None:
    """The codes of a trial's architecture, or None if the trial is not one of this space."""
    params = trial.params
    if any(params.get(slot) not in choices for slot, choices in space.slots.items()):
        return None
    return space.encode(space.architecture({slot: params[slot] for slot in space.slots}))


def _values(trial: FrozenTrial) -> np.ndarray | None:
    if trial.state == TrialState.COMPLETE:
        values = trial.values
    elif trial.state == TrialState.PRUNED and trial.intermediate_values:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    else:
        return None
    return np.array(values, dtype=float) if np.isfinite(values).all() else None
