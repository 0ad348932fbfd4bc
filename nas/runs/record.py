"""The record of a run: what `nas run` found out, step by step, as one JSON file that the report reads.

A run folder holds::

    config.yaml            what was asked for
    record.json            this record, rewritten after every step
    space.yaml             the search space, as `SearchSpace.save` writes it
    table.csv              the lookup table (table.meta.json beside it)
    study.journal          the Optuna study
    front.csv              the Pareto front of the search: columns latency_ms, memory_mb, params, score, one per slot
    architecture.json      the winner
    checkpoints/STAGE/     per stage: history.csv (step, loss, ...) and the checkpoint
    samples/STAGE/         clips as GIF and MP4, named in `Sample`
    export/                packages and the training recipe
    report.html
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.config import AnyNumber, load_json
from nas.costs.sources import Source
from nas.files import write_json

RECORD = "record.json"


@dataclass(frozen=True)
class Costs:
    """Latency, peak memory and parameters of a denoiser, predicted from the table or of the whole model.

    `source` is that of the whole model's row; empty in a prediction, and in records of versions before it was kept.
    """

    latency_ms: AnyNumber
    memory_mb: AnyNumber
    params: int
    source: Source | Literal[""] = ""


@dataclass(frozen=True)
class Candidate:
    """One of the best architectures of the search, briefly retrained before the choice.

    Attributes:
        choices: choice by slot.
        score: what the search's evaluator said (higher is better).
        retrained_loss: validation loss after brief stand-alone training (lower is better).
        score_std: standard deviation of the score over draws of the evaluator's noise, on the same clips, without the
            part that moves all candidates together.
    """

    choices: dict[str, str]
    score: AnyNumber
    predicted: Costs
    retrained_loss: AnyNumber | None = None
    score_std: AnyNumber | None = None


@dataclass(frozen=True)
class Quality:
    """How good generated clips are after a stage, at a number of denoising steps.

    Attributes:
        model: the stage, or `control` (plain training continued instead of the adversarial stage), or `real`
            (held-out clips of the data under the same classifier: the best that can be expected).
        steps: denoising steps; 0 for real clips.
        frechet: Frechet distance to held-out clips in the classifier's features (lower is better).
        digit_accuracy, direction_accuracy: share of clips that show the digit / direction of their caption.
        clips: how many clips were judged, which decides how exact the shares are; 0 if that was not recorded.
    """

    model: str
    steps: int
    frechet: AnyNumber
    digit_accuracy: AnyNumber
    direction_accuracy: AnyNumber
    clips: int = 0


@dataclass(frozen=True)
class Sample:
    """Clips drawn after a stage: files relative to the run folder, one caption per clip in the grid."""

    model: str
    steps: int
    captions: tuple[str, ...]
    gif: str
    mp4: str


@dataclass(frozen=True)
class Exported:
    """One exported file or folder, relative to the run folder."""

    format: str
    path: str
    size_mb: float


@dataclass
class RunRecord:
    """Everything the report says that is not in another file of the run folder.

    Attributes:
        random_scores: scores of random architectures within the budget, to compare the search's result with.
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
    predicted: Costs | None = None
    measured: Costs | None = None
    quality: tuple[Quality, ...] = ()
    samples: tuple[Sample, ...] = ()
    exported: tuple[Exported, ...] = ()

    def save(self, run: str | Path) -> Path:
        return write_json(Path(run) / RECORD, asdict(self))

    @classmethod
    def load(cls, run: str | Path) -> RunRecord:
        """The record of the run folder `run`.

        Raises:
            ConfigError: no record there, or one that another version wrote.
        """
        return load_json(cls, Path(run) / RECORD, "run record")
