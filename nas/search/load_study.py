"""Load or create the study of a search, and warm-start it with the scores of other searches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from nas.csv_files import read_csv
from nas.errors import ConfigError, SpaceError
from nas.search.ask_tell import unsaved_trial
from nas.search.evaluators import parse_score
from nas.search.identity import costs_identity, evaluator_identity
from nas.search.optimize_loop import is_ended, set_costs
from nas.search.problem import Problem
from nas.search.samplers.base import distributions
from nas.search.storage import check_trials, one_line, open_storage, storage_file, without_password
from nas.search.trial_history import trial_codes
from nas.search.workers import Evaluator
from nas.spaces import Architecture

WARM_STARTED = "reused"  # the name in stored studies
"""Attribute of a study: all known scores were added."""


def load_or_create_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    problem: Problem,
    evaluator: Evaluator,
    where: str,
    strict: bool = False,
) -> optuna.Study:
    """The study `name`; if that has another budget, other costs, devices or constraints, one of its own with the known scores.

    Raises:
        ConfigError: the study has another space or evaluator; or, if `strict`, another budget, costs, devices or constraints.
    """
    scores = {"space_hash": problem.space.hash, "evaluator": evaluator_identity(evaluator)}
    costs: dict[str, Any] = {"budget": str(problem.budget), "costs": costs_identity(problem)}
    if problem.constraints:
        costs["constraints"] = str(problem.constraints)
    if names := [device.name for device in problem.devices if device.name]:
        costs["devices"] = ", ".join(names)
    if any(key.startswith("generation_s") for key in problem.budget.bounds()):
        costs |= {"steps": problem.cost.steps, "guidance": problem.cost.guidance}
    first = _open(storage, name, where)
    if not any(is_ended(trial) for trial in first.get_trials(deepcopy=False)):  # such as after a mistyped evaluator
        _set_user_attrs(first, scores, anew=("evaluator",))
    _check(first, scores, where)
    if _same(first, costs):
        _set_user_attrs(first, {"space": problem.space.name} | scores | costs)
        return first
    clip = f", {costs['steps']} steps, guidance {costs['guidance']}" if "steps" in costs else ""
    own = f"{name}, {problem.budget}, {costs['costs']}{clip}"
    names = [s.study_name for s in optuna.get_all_study_summaries(storage) if s.study_name.startswith(f"{name}, ")]
    others = [_open(storage, other, where) for other in [name, *sorted(set(names) - {own})]]
    if strict and own not in names:
        for other in others:
            if any(is_ended(trial) for trial in other.get_trials(deepcopy=False)):
                raise _begun_with(other, costs, where)
    study = _open(storage, own, where)
    _set_user_attrs(study, {"space": problem.space.name} | scores | costs)
    if WARM_STARTED not in study.user_attrs:
        for other in others:
            _add_scores(study, _scored_trials(other, problem), problem)
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


def _begun_with(study: optuna.Study, costs: dict[str, Any], where: str) -> ConfigError:
    """The error for a study that has another budget, or other costs, devices or constraints."""
    begun = {"budget": costs["budget"]} | study.user_attrs
    changed = [
        key for key in ("budget", "constraints", "devices", "steps", "guidance") if begun.get(key) != costs.get(key)
    ]
    change = "a lookup table with other costs"
    if changed:
        change = f"{changed[0]} {begun.get(changed[0], 'none')}, not {costs.get(changed[0], 'none')}"
    return ConfigError(
        f"{where}: study '{study.study_name}' was begun with {change}; give another --out, "
        f"and --storage {where} to reuse its scores"
    )


def _set_user_attrs(study: optuna.Study, identity: dict[str, Any], anew: tuple[str, ...] = ()) -> None:
    known = study.user_attrs
    for key, value in identity.items():
        if key not in known or (key in anew and known[key] != value):
            study.set_user_attr(key, value)


# -- scores of other searches ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """An architecture, its score, and where it is from, such as `nas: trial 3`; the times are of its evaluation."""

    arch: Architecture
    score: float
    source: str
    start: datetime | None = None
    complete: datetime | None = None


def add_known_scores(study: optuna.Study, source: str | Path, problem: Problem, evaluator: Evaluator) -> None:
    """Add the scored architectures of another search, with the costs and constraints of this one.

    Architectures that the study already has are left out; so an interrupted warm start is resumed.

    Args:
        source: a CSV file with the column `score` and one per slot, such as a saved `Result.frame` or the `front.csv` of
            a run; other columns are ignored, and so are rows that `pruned` marks. Or a storage with studies of the
            same evaluator.

    Raises:
        ConfigError: the file is missing or invalid, has no scored architecture of this space, or has scores of another
            evaluator.
    """
    if str(source).lower().endswith(".csv"):
        _add_scores(study, _read_scores(source, problem), problem)
    else:
        _add_scores(study, _stored_scores(source, problem, evaluator), problem)


def _add_scores(study: optuna.Study, scored: Iterable[_Scored], problem: Problem) -> None:
    """Scores do not depend on costs or budgets, which are those of the problem."""
    slots, space = distributions(problem), problem.space
    trials = study.get_trials(deepcopy=False)
    known = {space.decode(codes) for trial in trials if (codes := trial_codes(trial, space)) is not None}
    for item in scored:
        if item.arch in known:
            continue
        trial = unsaved_trial(0)
        trial.params, trial.distributions = item.arch.choices, slots
        set_costs(trial, item.arch, problem)
        trial.user_attrs["reused"] = item.source
        trial.values, trial.state = [item.score], TrialState.COMPLETE
        trial.datetime_start = item.start or datetime.now()
        trial.datetime_complete = item.complete or trial.datetime_start
        study._storage.create_new_trial(study._study_id, template_trial=trial)
        known.add(item.arch)


def _scored_trials(study: optuna.Study, problem: Problem) -> Iterator[_Scored]:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if (codes := trial_codes(trial, problem.space)) is not None and trial.values:
            times = trial.datetime_start, trial.datetime_complete
            source = f"{study.study_name}: trial {trial.number}"
            yield _Scored(problem.space.decode(codes), trial.values[0], source, *times)


def _stored_scores(source: str | Path, problem: Problem, evaluator: Evaluator) -> list[_Scored]:
    """The scored architectures of every study in a storage that has the same space and evaluator.

    Raises:
        ConfigError: there are none.
    """
    where, file = f"warm start: {without_password(source)}", storage_file(source)
    if file is not None and not file.exists():
        raise ConfigError(f"{where}: no such file; give the journal of a search, or a CSV of scored architectures")
    try:
        storage = open_storage(source)
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    except ConfigError as error:
        raise ConfigError(f"warm start: {str(error).replace('another --storage', 'the journal of a search')}") from None
    needed = {"space_hash": problem.space.hash, "evaluator": evaluator_identity(evaluator)}
    found: list[_Scored] = []
    others = ""
    for name in names:
        study = _open(storage, name, where)
        if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            continue
        for key, value in needed.items():
            if study.user_attrs.get(key, value) != value:
                others = others or f"{key.replace('_', ' ')} {study.user_attrs[key]}, not {value}"
                break
        else:
            check_trials(study, problem.space, where)
            found += _scored_trials(study, problem)
    if not found and others:
        raise ConfigError(f"{where}: has scores of {others}; if they are comparable nevertheless, give them as a CSV")
    if not found:
        raise ConfigError(f"{where}: no study in it has a scored architecture of '{problem.space.name}'")
    return found


def _read_scores(file: str | Path, problem: Problem) -> list[_Scored]:
    """
    Raises:
        ConfigError: a missing column, a choice that its slot does not offer, or a score that is no number; an architecture
            with two scores; or no rows.
    """
    slots = list(problem.space.slots)
    read = read_csv(file, "score list", ("score", *slots))
    columns = {name: place for place, name in enumerate(read.header)}
    found: dict[Architecture, _Scored] = {}
    for row, line in zip(read.rows, read.lines):
        if "pruned" in columns and row[columns["pruned"]].strip().lower() in ("true", "1"):
            continue
        score = parse_score(read.number(row[columns["score"]]), f"{file}:{line}: score")
        try:
            arch = problem.space.architecture({slot: row[columns[slot]].strip() for slot in slots})
        except SpaceError as error:
            raise ConfigError(f"{file}:{line}: {error}") from None
        if arch in found and found[arch].score != score:
            first = found[arch].source.rpartition(":")[2]
            raise ConfigError(f"{file}:{line}: another score of the architecture of line {first}; keep one of them")
        found.setdefault(arch, _Scored(arch, score, f"{file}:{line}"))
    if not found:
        raise ConfigError(f"{file}: has no scores; a score list has a row for each architecture")
    return list(found.values())
