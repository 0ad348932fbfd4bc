"""Ask a sampler for parameters, and tell it results, so that each trial is written to the storage in one step."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

UNSAVED_ID = -1
"""The id of a trial that is not in the storage yet."""


def unsaved_trial(number: int, known: FrozenTrial | None = None) -> FrozenTrial:
    """A running trial without parameters, or with those that an unfinished stored trial already has."""
    fixed = dict((known.system_attrs if known else {}).get("fixed_params", {}))
    params = {**fixed, **(known.params if known else {})}
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions={},
        user_attrs={},
        system_attrs={
            k: v for k, v in (known.system_attrs if known else {}).items() if not k.startswith("constraints")
        },
        intermediate_values={},
        trial_id=UNSAVED_ID,
    )


def as_failed(trial: FrozenTrial, reason: str) -> FrozenTrial:
    """A copy of a stored trial, in the state that recording its failure will give it."""
    copied = copy.copy(trial)
    copied.user_attrs = {**trial.user_attrs, "error": reason}
    copied.state = TrialState.FAIL
    return copied


def sample_params(
    study: optuna.Study, trial: FrozenTrial, slots: Mapping[str, BaseDistribution], others: Iterable[FrozenTrial] = ()
) -> None:
    """Sample the parameters of an unsaved trial as `study.ask` does, without writing the trial.

    Attributes of the study that a sampler writes go to the storage.

    Args:
        others: trials that the sampler sees instead of the stored ones of the same numbers.
    """
    view = _view(study, trial, others)
    sampler, missing = study.sampler, [name for name in slots if name not in trial.params]
    trial.distributions = {name: slots[name] for name in slots if name in trial.params}
    if missing:
        sampler.before_trial(view, trial)
        space = sampler.infer_relative_search_space(view, trial)
        params = sampler.sample_relative(view, trial, space)
    for name in missing:
        value = params[name] if name in params else sampler.sample_independent(view, trial, name, slots[name])
        trial.params[name], trial.distributions[name] = value, slots[name]


def tell(study: optuna.Study, trial: FrozenTrial, state: TrialState, score: float | None = None) -> None:
    """Like `study.tell`: pass the result to the sampler, then to the storage. A sampler cannot stop the study."""
    study._thread_local.cached_all_trials = None
    values = None if score is None else [score]
    view = _stoppable(study)
    study.sampler.after_trial(optuna.pruners._filter_study(view, trial), trial, state, values)
    study._storage.set_trial_state_values(trial._trial_id, state, values)
    study._thread_local.cached_all_trials = None


def _view(study: optuna.Study, trial: FrozenTrial, others: Iterable[FrozenTrial]) -> optuna.Study:
    """The study with an unsaved trial among its trials."""
    study._thread_local.cached_all_trials = None
    view = _stoppable(study)
    view._storage = _StorageWithUnsavedTrial(study._storage, trial, others)  # type: ignore[assignment]
    return optuna.pruners._filter_study(view, trial)


def _stoppable(study: optuna.Study) -> optuna.Study:
    view = copy.copy(study)
    view.stop = lambda: None  # type: ignore[method-assign]  # Optuna raises outside `optimize`
    return view


class _StorageWithUnsavedTrial:
    """A storage with one unsaved trial added and some trials replaced."""

    def __init__(self, storage: optuna.storages.BaseStorage, trial: FrozenTrial, others: Iterable[FrozenTrial]) -> None:
        self._inner, self._trial = storage, trial
        self._replaced = {other.number: other for other in (*others, trial)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._inner.get_all_trials(study_id, deepcopy=deepcopy)
        known = {trial.number: trial for trial in trials} | self._replaced
        return [known[number] for number in sorted(known) if states is None or known[number].state in states]

    def get_n_trials(self, study_id: int, state: Any = None) -> int:
        states = (state,) if isinstance(state, TrialState) else state
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trial if trial_id == UNSAVED_ID else self._inner.get_trial(trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._trial.system_attrs if trial_id == UNSAVED_ID else self._inner.get_trial_system_attrs(trial_id)

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._trial.user_attrs if trial_id == UNSAVED_ID else self._inner.get_trial_user_attrs(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id == UNSAVED_ID:
            self._trial.system_attrs[key] = value
        else:
            self._inner.set_trial_system_attr(trial_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id == UNSAVED_ID:
            self._trial.user_attrs[key] = value
        else:
            self._inner.set_trial_user_attr(trial_id, key, value)
