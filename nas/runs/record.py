"""The record of a run: the results of each step of `nas run` in one JSON file, which the report reads.

A run folder holds::

    config.yaml            a copy of the job's config
    record.json            this record, rewritten after every step
    space.yaml             the search space, as `SearchSpace.save` writes it
    table.csv              the lookup table (table.meta.json beside it)
    tables/NAME.csv        the lookup tables of other devices, if the job has some
    study.journal          the Optuna study
    front.csv              the Pareto front of the search: columns latency_ms, memory_mb, params, score, one per slot
    architecture.json      the winner
    checkpoints/STAGE/     per stage: history.csv (step, loss, ...) and the checkpoint
    samples/STAGE/         clips as GIF and MP4, named in `Preview`
    export/                packages and the training recipe
    report.html
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.config import AnyNumber, build
from nas.costs.row import Source
from nas.files import read_json, write_json

RECORD = "record.json"
REAL, CONTROL = "real", "control"
"""Values of `StageQuality.model` that are no stage: held-out real clips, and the control of the adversarial stage."""


@dataclass(frozen=True)
class DenoiserCost:
    """Latency, peak memory and parameters of a denoiser: predicted from the table, or of the whole model.

    `source` is the source of the whole model's row; empty for predictions and in records written before it existed.
    """

    latency_ms: AnyNumber
    memory_mb: AnyNumber
    params: int
    source: Source | Literal[""] = ""


@dataclass(frozen=True)
class Candidate:
    """One of the best architectures of the search, retrained briefly before one is chosen.

    Attributes:
        choices: choice by slot.
        score: the search evaluator's score (higher is better).
        retrained_loss: validation loss after brief stand-alone training (lower is better).
        score_std: standard deviation of the score over noise seeds on the same clips, without the shift that all
            candidates share.
    """

    choices: dict[str, str]
    score: AnyNumber
    predicted: DenoiserCost
    retrained_loss: AnyNumber | None = None
    score_std: AnyNumber | None = None


@dataclass(frozen=True)
class StageQuality:
    """Quality of the clips that a stage's model generates at a number of denoising steps.

    Attributes:
        model: the stage, or `control` (plain training continued instead of the adversarial stage), or `real`
            (held-out clips of the data under the same classifier: an upper bound).
        steps: denoising steps; 0 for real clips.
        frechet: Frechet distance to held-out clips in the classifier's features (lower is better).
        digit_accuracy, direction_accuracy: share of clips that show the digit / direction of their caption. Of scenes:
            share of the objects whose class and color, and whose direction, are their caption's.
        scene_accuracy: of scenes: share of the clips in which every object and their number are right; None of digits.
        clips: number of evaluated clips, for confidence intervals of the shares; 0 if not recorded.
    """

    model: str
    steps: int
    frechet: AnyNumber
    digit_accuracy: AnyNumber
    direction_accuracy: AnyNumber
    clips: int = 0
    scene_accuracy: AnyNumber | None = None

    @property
    def shown(self) -> str:
        """What `digit_accuracy` is about, in words."""
        return "digit" if self.scene_accuracy is None else "objects"


@dataclass(frozen=True)
class Preview:
    """Preview clips of a stage: files relative to the run folder, one caption per clip in the grid."""

    model: str
    steps: int
    captions: tuple[str, ...]
    gif: str
    mp4: str


@dataclass(frozen=True)
class ExportedFile:
    """One exported file or folder, relative to the run folder."""

    format: str
    path: str
    size_mb: float


@dataclass
class RunRecord:
    """Results of a run that are in no other file of the run folder.

    Attributes:
        step_seconds: duration of each finished step by name; a step that is missing has not finished.
        budget: by the names of the costs; those of the job's other devices as `latency_ms@NAME`.
        predicted_on: the chosen architecture's costs on the job's other devices, from their tables.
        random_scores: scores of random architectures within the budget, the baseline of the search's result.
    """

    name: str
    space: str
    space_hash: str
    provenance: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, float] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)
    trials: int = 0
    infeasible_trials: int = 0
    candidates: tuple[Candidate, ...] = ()
    random_scores: tuple[AnyNumber, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    predicted: DenoiserCost | None = None
    measured: DenoiserCost | None = None
    predicted_on: dict[str, DenoiserCost] = field(default_factory=dict)
    quality: tuple[StageQuality, ...] = ()
    previews: tuple[Preview, ...] = ()
    exported: tuple[ExportedFile, ...] = ()

    def save(self, run: str | Path) -> Path:
        """Write the record to the run folder `run`; returns the file's path."""
        return write_json(Path(run) / RECORD, asdict(self))

    @classmethod
    def load(cls, run: str | Path) -> RunRecord:
        """Read the record of the run folder `run`; names of earlier versions are converted.

        Raises:
            ConfigError: there is no record, or it is invalid.
        """
        path = Path(run) / RECORD
        values = read_json(path, "run record", dict)
        for mapping in (values, values.get("step_seconds")):
            if isinstance(mapping, dict) and "samples" in mapping and "previews" not in mapping:
                mapping["previews"] = mapping.pop("samples")
        return build(cls, values, str(path))
