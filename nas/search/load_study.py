"""Load or create the study of a search, and warm-start one whose budget or costs have changed."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.errors import ConfigError
from nas.search.ask_tell import unsaved_trial
from nas.search.identity import costs_identity, evaluator_identity
from nas.search.optimize_loop import is_ended, set_costs
from nas.search.problem import Problem
from nas.search.samplers.base import distributions
from nas.search.storage import one_line
from nas.search.trial_history import is_reused
from nas.search.workers import Evaluator

WARM_STARTED = "reused"  # the name in stored studies
"""Attribute of a study: all known scores were added."""


def load_or_create_study(
    storage: optuna.storages.BaseStorage, name: str, problem: Problem, evaluator: Evaluator, where: str
) -> optuna.Study:
    """The study `name`; if that has another budget or other costs, one of its own with the known scores.

    Raises:
        ConfigError: the study has another space or evaluator.
    """
    scores = {"space_hash": problem.space.hash, "evaluator": evaluator_identity(evaluator)}
    costs: dict[str, Any] = {"budget": str(problem.budget), "costs": costs_identity(problem)}
    if problem.budget.generation_s is not None:
        costs |= {"steps": problem.cost.steps, "guidance": problem.cost.guidance}
    first = _open(storage, name, where)
    if not any(is_ended(trial) for trial in first.get_trials(deepcopy=False)):  # such as after a mistyped evaluator
        _set_user_attrs(first, scores, anew=("evaluator",))
    _check(first, scores, where)
    if _same(first, costs):
        _set_user_attrs(first, {"space": problem.space.name} | scores | costs)
        return first
    clip = f", {costs['steps']} steps, guidance {costs['guidance']}" if "steps" in costs else ""
    study = _open(storage, f"{name}, {problem.budget}, {costs['costs']}{clip}", where)
    _set_user_attrs(study, {"space": problem.space.name} | scores | costs)
    if WARM_STARTED not in study.user_attrs:
        others = [s.study_name for s in optuna.get_all_study_summaries(storage) if s.study_name.startswith(f"{name}, ")]
        for other in [name, *sorted(set(others) - {study.study_name})]:
            _warm_start(study, _open(storage, other, where), problem)
        study.set_user_attr(WARM_STARTED, True)
    return study


def _open(storage: optuna.storages.BaseStorage, name: str, where: str) -> optuna.Study:
    """Load the study, without a write, or create it."""
    try:
        if any(study.study_name == name for study in storage.get_all_studies()):
            return optuna.load_study(study_name=name, storage=storage)
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where}: study '{name}' cannot be read ({one_line(error)}); restore it, or give another --storage"
        ) from None


def _check(study: optuna.Study, scores: dict[str, Any], where: str) -> None:
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise ConfigError(f"{where}: study '{study.study_name}' does not maximize one score; give another study name")
    for key, value in scores.items():
        stored = study.user_attrs.get(key, value)
        if stored != value:
            raise ConfigError(
                f"{where}: study '{study.study_name}' was begun with {key.replace('_', ' ')} {stored}, not {value}; "
                "give another --storage or another study name"
            )


def _same(study: optuna.Study, costs: dict[str, Any]) -> bool:
    return all(study.user_attrs.get(key, value) == value for key, value in costs.items())


def _set_user_attrs(study: optuna.Study, identity: dict[str, Any], anew: tuple[str, ...] = ()) -> None:
    known = study.user_attrs
    for key, value in identity.items():
        if key not in known or (key in anew and known[key] != value):
            study.set_user_attr(key, value)


def _warm_start(study: optuna.Study, other: optuna.Study, problem: Problem) -> None:
    """Add the scored trials of another study, with the costs and constraints of this one.

    Scores do not depend on costs. An interrupted warm start is resumed.
    """
    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if is_reused(trial) or trial.params in known or set(trial.params) != set(problem.space.slots):
            continue
        study._storage.create_new_trial(study._study_id, template_trial=_copy(trial, other.study_name, problem))
        known.append(trial.params)


def _copy(trial: FrozenTrial, source: str, problem: Problem) -> FrozenTrial:
    copied = unsaved_trial(0)
    slots = distributions(problem)
    copied.params, copied.distributions = {slot: trial.params[slot] for slot in slots}, slots
    set_costs(copied, problem.space.architecture(copied.params), problem)
    copied.user_attrs["reused"] = f"{source}: trial {trial.number}"
    copied.values, copied.state = trial.values, TrialState.COMPLETE
    copied.datetime_start, copied.datetime_complete = trial.datetime_start, trial.datetime_complete
    return copied
