"""The last sections of the page: quality of the clips, training curves, exported files, and provenance."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from nas.report import charts, findings
from nas.report.formatting import duration, format_number
from nas.report.sections import absent, absent_text
from nas.report.templating import render
from nas.runs.folder import RunFolder, file_in_run, layer_counts, layer_key, stage_order
from nas.runs.record import CONTROL, REAL, StageQuality
from nas.spaces.colors import short_label

LINE_COLORS = ("#1257c4", "#e0a03a", "#9c2488", "#009e73", "#d55e00", "#8b9097")
"""Colors of the curves in one chart."""


@dataclass(frozen=True)
class Curve:
    """The chart of one column of a training history, and the median of the column's last twentieth."""

    column: str
    last: float
    chart: Markup


@dataclass(frozen=True)
class RetrainedCandidate:
    """Legend entry of a candidate's brief retraining."""

    title: str
    color: str
    details: str


@dataclass(frozen=True)
class StageCurves:
    """The curves of a stage: the loss is large. Of the candidates' retrainings: one chart and its legend."""

    title: str
    details: str
    large: list[Curve] = field(default_factory=list)
    small: list[Curve] = field(default_factory=list)
    chart: Markup | None = None
    retrained: list[RetrainedCandidate] = field(default_factory=list)


@dataclass(frozen=True)
class QualityRow:
    """A row of the quality table with its title and CSS classes."""

    title: str
    quality: StageQuality
    classes: str


def training(run: RunFolder) -> Markup:
    """Per stage the loss, and every other logged number as a small curve; the retrainings in one chart."""
    retrained = {n: h for n, h in run.histories.items() if n.startswith("retrain-") and "loss" in h}
    stages = []
    for stage, history in run.histories.items():
        if stage not in retrained:
            stages.append(_stage(run, stage, history))
        elif stage == next(iter(retrained)):
            stages.append(_retrained(run, retrained))
    damaged = [reason for part, reason in run.missing.items() if part.startswith("history ")]
    return render("training", stages=stages, damaged=damaged) if stages or damaged else absent(run, "training")


def _stage(run: RunFolder, stage: str, history: pd.DataFrame) -> StageCurves:
    columns = [c for c in history.columns if c != "step" and _is_worth_a_curve(history[c])]
    main = [c for c in columns if c == "loss"] or columns[:1]
    details = [f"{int(history['step'].iloc[-1]):,} steps"]
    if stage in run.record.step_seconds:
        details.append(duration(run.record.step_seconds[stage]))
    large = [_curve(history, column, 300, 150) for column in main]
    small = [_curve(history, column, 190, 96) for column in columns if column not in main]
    return StageCurves(stage, ", ".join(details), large, small)


def _retrained(run: RunFolder, histories: Mapping[str, pd.DataFrame]) -> StageCurves:
    """The candidates' brief retrainings in one chart, to compare them."""
    line_colors, legend = {}, []
    for i, stage in enumerate(histories):
        number = stage.removeprefix("retrain-")
        rank = int(number) if number.isdecimal() else -1
        candidate = run.record.candidates[rank] if 0 <= rank < len(run.record.candidates) else None
        color = LINE_COLORS[i % len(LINE_COLORS)]
        line_colors[stage] = color
        details = []
        if candidate is not None:
            counts = layer_counts(candidate.choices)
            details.append(", ".join(f"{short_label(c)} \N{MULTIPLICATION SIGN}{n}" for c, n in counts.items()))
            if candidate.retrained_loss is not None:
                details.append(f"validation loss {format_number(candidate.retrained_loss, 4)}")
            if layer_key(candidate.choices) == layer_key(run.choices):
                details.append("chosen")
        title = f"Candidate {rank + 1}" if rank >= 0 else stage
        legend.append(RetrainedCandidate(title, color, "; ".join(filter(None, details))))
    steps = max(int(history["step"].iloc[-1]) for history in histories.values())
    seconds = run.record.step_seconds.get("choose")
    details = ", ".join(filter(None, [f"{steps:,} steps each", duration(seconds) if seconds else ""]))
    return StageCurves(
        "retraining of the candidates", details, chart=charts.curves(histories, "loss", line_colors), retrained=legend
    )


def _is_worth_a_curve(values: pd.Series) -> bool:
    """False for a column that takes only one or two values, such as the number of frames of a batch."""
    return values.nunique() > 2 or 0 < values.notna().sum() < 10


def _curve(history: pd.DataFrame, column: str, width: float, height: float) -> Curve:
    values = history[column].dropna()
    last = float(values.iloc[-max(len(values) // 20, 1) :].median())
    return Curve(column, last, charts.curve(history, column, width, height))


def quality(run: RunFolder) -> Markup:
    """Every model at every number of steps, with the control and real clips; without a classifier, held-out metrics."""
    if run.no_classifier:
        return _without_classifier(run)
    if not run.record.quality:
        return absent_text("no stage has been evaluated")
    finite = [row.frechet for row in run.record.quality if math.isfinite(row.frechet)]
    rows, previous = [], None
    for row in sorted(run.record.quality, key=lambda r: (r.steps == 0, -r.steps, stage_order(r.model))):
        classes = [row.model] * (row.model in (REAL, CONTROL)) + ["first"] * (previous not in (None, row.steps))
        title = {REAL: "held-out real clips", CONTROL: "control: continued training"}.get(row.model, row.model)
        rows.append(QualityRow(title, row, " ".join(classes)))
        previous = row.steps
    text = " ".join(findings.quality(run))
    shown = run.record.quality[0].shown
    return render("quality", text=text, rows=rows, shown=shown, largest_frechet=max(finite, default=0.0) or 1.0)


def evaluation(run: RunFolder) -> Markup:
    """What `nas evaluate` measured of the run's checkpoints, suite by suite."""
    return render("evaluation", stages=run.evaluations)


def _without_classifier(run: RunFolder) -> Markup:
    """The metrics measured on data for which there is no classifier."""
    text = (
        "No classifier for this data: whether clips show what their caption says is evaluated on moving digits and"
        " scenes only."
        " Measured on held-out clips instead: how well the decoder reconstructs them, and the denoiser's loss. The"
        " Fréchet video distance (FVD) needs a feature network that no package includes; with the file"
        " i3d_torchscript.pt, nas.metrics.fvd.FVD computes it."
    )
    rows = [
        (stage, name, values[key])
        for stage, values in run.results.items()
        for key, name in findings.HELD_OUT_METRICS.items()
        if key in values
    ]
    return render("held_out", text=text, rows=rows)


def exported(run: RunFolder) -> Markup:
    """The exported packages and the training recipe."""
    if not run.record.exported:
        return absent_text("nothing has been exported")
    return render("exported", files=run.record.exported)


def provenance(run: RunFolder) -> Markup:
    """Versions, machine, the table's provenance, hashes of the files behind the page, and durations of the steps."""
    record, config = run.record, file_in_run(run.path, "config.yaml")
    identity = {"run": record.name, "search space": f"{record.space} {record.space_hash}".strip()}
    if run.space is not None and record.space_hash and run.space.hash != record.space_hash:
        identity["space.yaml now"] = f"{run.space.hash}: not what the run recorded"
    # the config is shown as its file, not as the record's copy
    provenance = {key: value for key, value in record.provenance.items() if key != "config" or config is None}
    names = ("config.yaml", "space.yaml", "table.csv", "front.csv", "architecture.json")
    facts = {
        "Run": {**identity, **provenance},
        "Lookup table": run.table.meta if run.table else {},
        "Files, SHA-256": {name: _hash(run.path / name) for name in names if (run.path / name).is_file()},
    }
    if run.table is not None and run.table.calibration:
        c = run.table.calibration
        law = f"{format_number(c.scale, 4)} \N{MULTIPLICATION SIGN} sum + {format_number(c.offset_ms)} ms"
        facts["Calibration"] = {"latency": law}
    text = ""
    if config is not None:
        with open(config, encoding="utf-8", errors="replace") as file:
            text = file.read(20_000)
    return render(
        "provenance",
        steps=record.step_seconds,
        total=sum(record.step_seconds.values()),
        facts=[(title, list(_flat(values))) for title, values in facts.items() if values],
        config=text,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif isinstance(value, float):
            yield f"{prefix}{key}", format_number(value, 4)
        else:
            yield f"{prefix}{key}", str(value)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
