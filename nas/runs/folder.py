"""Reads a run folder file by file; a missing or damaged file is noted with the reason and never raises."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from nas.costs import Cost, CostModel, LookupTable
from nas.errors import ConfigError, NasError
from nas.files import read_json, read_text
from nas.metrics.results import FOLDER, Evaluation
from nas.runs.record import RECORD, Candidate, RunRecord
from nas.spaces import NONE, Architecture, SearchSpace, colors

COST_COLUMNS = ("latency_ms", "memory_mb", "params")
STAGES = ("decoder", "distill", "supernet", "retrain", "finetune", "control", "adversarial")
"""Stages in display order (`retrain-0` is a `retrain`); other stages come after these, real clips last."""

T = TypeVar("T")


@dataclass
class RunFolder:
    """The contents of a run folder. Missing parts are None or empty, and `missing` has the reasons.

    Attributes:
        path: the run folder.
        record, space, table: the run's record, search space and lookup table.
        cost_model: predicts costs from the space and the table, estimated rows included.
        front: columns latency_ms, memory_mb, params, score, and one per slot.
        choices: choice by slot of the chosen architecture; empty before the choice.
        histories: training history by stage, in display order; columns `step` and any other numeric ones.
        results: numeric metrics of each finished stage: stage -> name -> value.
        evaluations: what `nas evaluate` has written of each stage's checkpoint: stage -> one result per suite.
        missing: part -> reason why it is missing, one line each.
    """

    path: Path
    record: RunRecord
    space: SearchSpace | None = None
    table: LookupTable | None = None
    cost_model: CostModel | None = None
    front: pd.DataFrame | None = None
    choices: dict[str, str] = field(default_factory=dict)
    histories: dict[str, pd.DataFrame] = field(default_factory=dict)
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> RunFolder:
        """Read the files that exist.

        Raises:
            ConfigError: there is no such folder.
        """
        path = Path(path)
        if not path.is_dir():
            raise ConfigError(f"{path}: no such run folder; give the folder that 'nas run' writes")
        run = cls(path, RunRecord(name=path.resolve().name, space="", space_hash=""))
        run.record = run._part("record", RECORD, RunRecord.load, run.record)
        run.space = run._part("space", "space.yaml", SearchSpace.load)
        run.table = run._part("table", "table.csv", _read_table)
        run.cost_model = run._cost_model()
        run.front = run._part("front", "front.csv", run._read_front)
        run.choices = run._winner()
        run.histories = run._histories()
        run.results = run._results()
        run.evaluations = run._evaluations()
        return run

    @property
    def slots(self) -> list[str]:
        """Slots in execution order."""
        if self.space is not None:
            return list(self.space.slots)
        return list(self.choices)

    @cached_property
    def colors(self) -> dict[str, str]:
        """Color by choice, for every choice of the space, the architecture and the candidates."""
        mentioned = list(self.choices.values())
        mentioned += [choice for candidate in self.record.candidates for choice in candidate.choices.values()]
        return colors.choice_colors(self.space, mentioned)

    @property
    def no_classifier(self) -> bool:
        """Whether there is no classifier for this run's data; it exists for moving digits and scenes only."""
        return (
            "decoder" in self.results and not self.record.quality and "digit_classifier" not in self.results["decoder"]
        )

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that was chosen; None if the chosen architecture is none of the candidates."""
        candidates = self.record.candidates if self.choices else ()
        return next((c for c in candidates if layer_key(c.choices) == layer_key(self.choices)), None)

    @cached_property
    def predicted_cost(self) -> Cost | None:
        """Predicted cost of the chosen architecture, with its breakdown."""
        return self.predict(self.choices) if self.choices else None

    @cached_property
    def slot_latencies_ms(self) -> dict[str, dict[str, float]]:
        """Latency by slot and choice, without infeasible choices; empty without a cost model."""
        if self.cost_model is None:
            return {}
        latencies = zip(self.space.slots.items(), self.cost_model.terms().latency_ms)
        return {
            slot: {c: float(ms) for c, ms in zip(choices, column) if np.isfinite(ms)}
            for (slot, choices), column in latencies
        }

    def predict(self, choices: dict[str, str]) -> Cost | None:
        """Predicted cost of the architecture with these choices; None if it cannot be predicted."""
        if self.cost_model is None:
            return None
        try:
            return self.cost_model.predict(self.space.architecture(choices))
        except (NasError, KeyError, TypeError, ValueError, AttributeError):
            return None

    def _part(self, name: str, file: str, read: Callable[[Path], T], default: T | None = None) -> T | None:
        path = self.path / file
        if not path.exists():
            self.missing[name] = f"{file} is not there yet"
            return default
        if not path.is_file():  # opening a named pipe may block forever
            self.missing[name] = f"{file} cannot be read: it is not a regular file"
            return default
        try:
            return read(path.parent if file == RECORD else path)
        except Exception as error:  # a damaged file may raise anything; the other parts are still read
            self.missing[name] = f"{file} cannot be read: {one_line(error)}"
            return default

    def _cost_model(self) -> CostModel | None:
        if self.space is None or self.table is None:
            return None
        try:
            return CostModel(self.space, self.table, estimates=True)
        except Exception as error:
            self.missing["cost_model"] = f"costs cannot be predicted: {one_line(error)}"
            return None

    def _read_front(self, path: Path) -> pd.DataFrame:
        try:
            frame = pd.read_csv(path, keep_default_na=False, dtype=str)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ConfigError(f"invalid CSV ({' '.join(str(error).split())})") from None
        for column in (*COST_COLUMNS, "score"):
            if column not in frame.columns:
                raise ConfigError(f"column '{column}' is missing")
            frame[column] = pd.to_numeric(frame[column], errors="coerce")
        frame = frame[np.isfinite(frame[[*COST_COLUMNS, "score"]]).all(axis=1)].reset_index(drop=True)
        if frame.empty:
            raise ConfigError("no complete row")
        return frame

    def _winner(self) -> dict[str, str]:
        arch = self._part("architecture", "architecture.json", Architecture.load)
        choices = arch.choices if arch else self.record.choices
        if choices and self.space is not None:
            try:
                arch = arch or Architecture(self.record.space, self.record.space_hash, tuple(choices.items()))
                choices = self.space.check(arch).choices
            except (NasError, TypeError, ValueError, AttributeError) as error:
                self.missing["architecture"] = f"the architecture does not fit the search space: {one_line(error)}"
                return {}
        if choices:
            self.missing.pop("architecture", None)
        return dict(choices)

    def _histories(self) -> dict[str, pd.DataFrame]:
        paths = sorted(self.path.glob("checkpoints/**/history.csv"))
        names = [path.parent.name for path in paths]  # e.g. control, of adversarial/control
        by_stage = {n if names.count(n) == 1 else str(p.parent.relative_to(self.path)): p for n, p in zip(names, paths)}
        histories = {}
        for stage in sorted(by_stage, key=lambda stage: (stage_order(stage), stage)):
            file = str(by_stage[stage].relative_to(self.path))
            frame = self._part(f"history {stage}", file, _read_history)
            if frame is not None:
                histories[stage] = frame
        if not by_stage:
            self.missing["training"] = "no stage has written a checkpoints/STAGE/history.csv yet"
        return histories

    def _results(self) -> dict[str, dict[str, float]]:
        results = {}
        for path in sorted(self.path.glob("checkpoints/**/result.json")):
            stage, file = path.parent.name, str(path.relative_to(self.path))
            value = self._part(f"result {stage}", file, _read_result)
            if value is not None:
                results[stage] = value
        return {stage: results[stage] for stage in sorted(results, key=lambda stage: (stage_order(stage), stage))}

    def _evaluations(self) -> dict[str, list[Evaluation]]:
        found: dict[str, list[Evaluation]] = {}
        for path in sorted(self.path.glob(f"checkpoints/**/{FOLDER}/*.json")):
            stage, file = path.parent.parent.name, str(path.relative_to(self.path))
            value = self._part(f"evaluation {stage} {path.stem}", file, Evaluation.load)
            if value is not None and value.cases:
                found.setdefault(stage, []).append(value)
        return {stage: found[stage] for stage in sorted(found, key=lambda stage: (stage_order(stage), stage))}


def one_line(error: Exception) -> str:
    """An error's message on one line of at most 300 characters, with its type unless it is a `NasError`."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, NasError) and text else f"{type(error).__name__} {text}".strip()


def file_in_run(run: Path, name: str) -> Path | None:
    """The regular file `name` of the run folder; None if it is missing or outside of the folder.

    Links are resolved first, so that a link in the folder cannot lead to a file outside of it.
    """
    try:
        path = (run / name).resolve()
        return path if name and path.is_relative_to(run.resolve()) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # an invalid file name, or a circular link
        return None


def _read_table(path: Path) -> LookupTable:
    table = LookupTable.load(path)
    return table


def _read_result(path: Path) -> dict[str, float]:
    """Finite numbers among a finished stage's metrics; `digit_classifier` is 1 if one was trained.

    Earlier versions called this metric `judge`.
    """
    value = read_json(path, "stage result")
    metrics = value.get("metrics") if isinstance(value, dict) else None
    if not isinstance(metrics, dict):
        raise ConfigError("'metrics' is missing or not a mapping")
    numbers = {n: float(v) for n, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    judged = {"digit_classifier", "judge", "scene_judges"} & metrics.keys()
    return numbers | ({"digit_classifier": 1.0} if judged else {})


def _read_history(path: Path) -> pd.DataFrame:
    """Numeric columns of a training history, `step` first, without a truncated last line and empty columns."""
    text = read_text(path, "history")
    header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()) if "\n" in text else [[]]
    if not rows:
        raise ConfigError("no rows yet")
    frame = pd.DataFrame([row for row in rows if len(row) == len(header)], columns=header)
    frame = frame.loc[:, ~frame.columns.duplicated()].apply(pd.to_numeric, errors="coerce")
    frame = frame.replace([np.inf, -np.inf], np.nan).dropna(axis="columns", how="all")
    if "step" not in frame.columns:
        frame.insert(0, "step", np.arange(1, len(frame) + 1))
    frame = frame.dropna(subset="step").sort_values("step", kind="stable").reset_index(drop=True)
    if frame.empty or len(frame.columns) < 2:
        raise ConfigError("no numeric columns")
    return frame[["step", *[c for c in frame.columns if c != "step"]]]


def stage_order(stage: str) -> int:
    """Position of a stage in display order."""
    kind = stage.split("-")[0]
    return STAGES.index(kind) if kind in STAGES else len(STAGES) + (stage == "real")


def layer_key(choices: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A key that is equal for choices of the same model; a slot without a choice is empty."""
    return tuple(sorted((slot, choice) for slot, choice in choices.items() if choice != NONE))


def layer_counts(choices: dict[str, str]) -> dict[str, int]:
    """Number of slots by choice, without `none`, most frequent first."""
    counts: dict[str, int] = {}
    for choice in choices.values():
        if choice != NONE:
            counts[choice] = counts.get(choice, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
