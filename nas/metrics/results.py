"""The result of `nas evaluate`: numbers with intervals, as a file, as text, and for the report. It needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.config import AnyNumber, load_json
from nas.files import write_json

FOLDER = "evaluation"
"""Folder in a checkpoint's folder with the file SUITE.json of each suite."""
MIN_JUDGE = 0.97
"""Least accuracy of a judge on held-out real clips for its number to be trusted."""
JUDGED = ("class", "color", "object", "count", "relation", "direction", "speed", "presence", "scene")
"""What is compared with labels, see `nas.metrics.scene_scores`."""
TITLES = {
    "class": "object class",
    "color": "color",
    "object": "object (class and color)",
    "scene": "multi-object accuracy",
    "count": "count",
    "relation": "spatial relation",
    "direction": "direction",
    "speed": "speed",
    "presence": "appears, vanishes",
    "subject": "subject consistency",
    "background": "background consistency",
    "smoothness": "motion smoothness",
    "flicker": "temporal flicker",
    "dynamic": "dynamic degree",
    "drift": "drift",
    "found": "objects found",
    "frechet": "Frechet video distance",
    "fvd": "Frechet video distance (I3D)",
    "clip_score": "CLIP score",
}
"""Names of the measures in tables, in their order."""


@dataclass(frozen=True)
class Measure:
    """A number of generated clips.

    Attributes:
        value, low, high: the estimate and its 95% bootstrap interval over clips; None for what VBench measures.
        count: of the clips or objects that it is from.
        real: the same of held-out real clips: the accuracy of the judge, or what a perfect model would reach; None if
            there are none.
        seeds: the estimate of each noise seed, if there are several.
    """

    value: AnyNumber
    low: AnyNumber | None
    high: AnyNumber | None
    count: int
    real: AnyNumber | None = None
    seeds: tuple[AnyNumber, ...] = ()

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.seeds) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class CaseResult:
    """The measures of a case of a suite at a number of denoising steps.

    Attributes:
        clips: generated, over all noise seeds.
        frames: of each clip.
    """

    title: str
    steps: int
    guidance: AnyNumber
    clips: int
    frames: int
    seeds: int
    measures: dict[str, Measure]

    def doubtful(self) -> dict[str, float]:
        """The judges that are less accurate on real clips than `MIN_JUDGE`."""
        found = {name: self.measures[name].real for name in JUDGED if name in self.measures and name != "scene"}
        return {name: real for name, real in found.items() if real is not None and real < MIN_JUDGE}

    def heading(self) -> str:
        """What the numbers are of, in one line."""
        seeds = f", {self.seeds} noise seeds" if self.seeds > 1 else ""
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        return f"{self.title}: {self.clips} clips of {self.frames} frames, {steps}, guidance {self.guidance:g}{seeds}"

    def rows(self) -> Iterable[tuple[str, str, str, str, str]]:
        """Per measure its title, value, interval, spread over seeds, and the value of real clips."""
        known = [name for name in TITLES if name in self.measures]
        for name in [*known, *(name for name in self.measures if name not in TITLES)]:
            one = self.measures[name]
            interval = "" if one.low is None or one.high is None else f"{short(one.low)} to {short(one.high)}"
            spread = "" if one.spread is None else f"+-{short(one.spread)}"
            real = "" if one.real is None else short(one.real)
            yield TITLES.get(name, name.replace("_", " ")), short(one.value), interval, spread, real


@dataclass(frozen=True)
class Evaluation:
    """The result of a suite.

    Attributes:
        checkpoint, data: the folders.
        clip: frames, fps, height and width of the trained length, as text.
        validation_loss: on held-out clips; None if it was not asked for.
        quality: of moving digits: `steps` and the fields of `nas.metrics.digit_classifier.DigitQuality`.
        network: where the features of the Frechet distance are from.
    """

    checkpoint: str
    data: str
    suite: str
    clip: str
    validation_loss: AnyNumber | None = None
    quality: tuple[dict[str, Any], ...] = ()
    cases: tuple[CaseResult, ...] = ()
    network: str = ""
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON."""
        return write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """
        Raises:
            ConfigError: the file is not such a result.
        """
        return load_json(cls, path, "evaluation")

    def text(self) -> str:
        """All numbers as tables for a terminal."""
        lines = [] if self.validation_loss is None else [f"loss on held-out clips: {self.validation_loss:.4f}"]
        for row in self.quality:
            lines.append(
                f"{row['steps']} steps: Frechet distance {row['frechet']:.1f}, digit {row['digit_accuracy']:.2f}, "
                f"direction {row['direction_accuracy']:.2f}"
            )
        for case in self.cases:
            lines += ["", case.heading(), _table(case)]
            lines += [
                f"the judge of '{TITLES[name]}' is right on only {real:.3f} of real ones, below {MIN_JUDGE}"
                for name, real in case.doubtful().items()
            ]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]).lstrip("\n")


def short(value: float) -> str:
    """A number with three decimals below 10, one above."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _table(case: CaseResult) -> str:
    rows = [("", "value", "95% interval", "seeds", "real clips"), *case.rows()]
    columns = [number for number in range(5) if any(row[number] for row in rows[1:])]
    widths = [max(len(row[number]) for row in rows) for number in columns]
    return "\n".join(
        "  "
        + "  ".join(
            f"{row[number]:<{width}}" if number == 0 else f"{row[number]:>{width}}"
            for number, width in zip(columns, widths)
        )
        for row in rows
    )
