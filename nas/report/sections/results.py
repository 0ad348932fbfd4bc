"""The page's last sections: how good the clips are, training curves, exports, and where the numbers come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nas.report import findings, svg
from nas.report.formatting import MISSING, counted_percent, duration, figures, megabytes
from nas.report.markup import Markup, bar, join, table, tag
from nas.report.sections.search import absent
from nas.runs.folder import RunFolder, file_in_run, layer_counts, layer_key, stage_order
from nas.spaces.colors import short_label

LINES = ("#1257c4", "#e0a03a", "#9c2488", "#009e73", "#d55e00", "#8b9097")
"""Colors of curves in one chart."""


def training(run: RunFolder) -> Markup:
    """Per stage: the loss, and every other number that was logged as a small curve."""
    parts, retrained = [], {n: h for n, h in run.histories.items() if n.startswith("retrain-") and "loss" in h}
    for stage, history in run.histories.items():
        if stage in retrained:
            if stage == next(iter(retrained)):
                parts.append(_retrained(run, retrained))
            continue
        columns = [c for c in history.columns if c != "step" and _tells(history[c])]
        main = [c for c in columns if c == "loss"] or columns[:1]
        told = [f"{int(history['step'].iloc[-1]):,} steps"]
        if stage in run.record.step_seconds:
            told.append(duration(run.record.step_seconds[stage]))
        large = [_curve(history, column, 300, 150) for column in main]
        small = [_curve(history, column, 190, 96) for column in columns if column not in main]
        title = tag("h3", stage, " ", tag("small", ", ".join(told)))
        curves = tag("div", large, tag("div", small, class_="small"), class_="curves")
        parts.append(tag("div", title, curves, class_="stage many" if len(small) > 1 else "stage"))
    parts = [tag("div", parts, class_="stages")] if parts else []
    broken = [why for part, why in run.missing.items() if part.startswith("history ")]
    parts += [tag("p", words, ".", class_="absent") for words in broken]
    return join(parts) if parts else absent(run, "training")


def _retrained(run: RunFolder, histories: Mapping[str, pd.DataFrame]) -> Markup:
    """The candidates' brief retrainings in one chart, so that they can be compared, with a line of words for each."""
    lines, items = {}, []
    for i, (stage, history) in enumerate(histories.items()):
        number = stage.removeprefix("retrain-")
        rank = int(number) if number.isdecimal() else -1
        candidate = run.record.candidates[rank] if 0 <= rank < len(run.record.candidates) else None
        color = LINES[i % len(LINES)]
        lines[stage] = color, history
        name = f"Candidate {rank + 1}" if rank >= 0 else stage
        told = []
        if candidate is not None:
            told.append(
                ", ".join(
                    f"{short_label(c)} \N{MULTIPLICATION SIGN}{n}" for c, n in layer_counts(candidate.choices).items()
                )
            )
            if candidate.retrained_loss is not None:
                told.append(f"validation loss {figures(candidate.retrained_loss, 4)}")
            if layer_key(candidate.choices) == layer_key(run.choices):
                told.append("chosen")
        swatch = tag("i", class_="swatch", style=f"background:{color}")
        items.append(tag("li", swatch, tag("span", name), tag("small", "; ".join(filter(None, told)))))
    steps = max(int(history["step"].iloc[-1]) for history in histories.values())
    seconds = run.record.step_seconds.get("choose")
    words = ", ".join(filter(None, [f"{steps:,} steps each", duration(seconds) if seconds else ""]))
    chart = tag("figure", tag("figcaption", "training loss, running median"), svg.curves(lines, "loss"))
    title = tag("h3", "retraining of the candidates ", tag("small", words))
    legend = tag("ul", items, class_="legend")
    return tag("div", title, tag("div", chart, legend, class_="curves retrained"), class_="stage many")


def _tells(values: pd.Series) -> bool:
    """Whether a column is worth a curve: not one that only ever takes one of two values, such as frames of a batch."""
    return values.nunique() > 2 or 0 < values.notna().sum() < 10


def _curve(history: pd.DataFrame, column: str, width: float, height: float) -> Markup:
    values = history[column].dropna()
    tail = values.iloc[-max(len(values) // 20, 1) :].median()
    caption = tag("figcaption", column, " ", tag("small", f"ends at {figures(float(tail))}"))
    return tag("figure", caption, svg.curve(history, column, width, height))


def quality(run: RunFolder) -> Markup:
    """Every model at every number of steps, with the control and the real clips; without a classifier, what there is."""
    if run.no_classifier:
        return _without_classifier(run)
    if not run.record.quality:
        return tag("p", "Not in this run yet: no stage has been evaluated.", class_="absent")
    finite = [row.frechet for row in run.record.quality if math.isfinite(row.frechet)]
    rows, top, before = [], max(finite, default=0.0) or 1.0, None
    for row in sorted(run.record.quality, key=lambda r: (r.steps == 0, -r.steps, stage_order(r.model))):
        classes = [row.model] * (row.model in ("real", "control")) + ["first"] * (before not in (None, row.steps))
        kind = {"real": "held-out real clips", "control": "control: continued training"}.get(row.model, row.model)
        rows.append(
            tag(
                "tr",
                tag("th", kind, scope="row"),
                tag("td", row.steps or MISSING, data_name="steps"),
                tag("td", figures(row.frechet), data_name="Fréchet distance"),
                tag("td", bar(row.frechet / top), class_="barcell"),
                tag("td", counted_percent(row.digit_accuracy, row.clips), data_name="digit"),
                tag("td", counted_percent(row.direction_accuracy, row.clips), data_name="direction"),
                tag("td", bar(row.direction_accuracy), class_="barcell"),
                class_=" ".join(classes) or None,
            )
        )
        before = row.steps
    heads = ("Model", "Steps", "Fréchet distance ↓", "", "Digit ↑", "Direction ↑", "")
    words = [tag("p", text, class_="caption") for text in [" ".join(findings.quality(run))] if text]
    return tag("div", words, table(heads, rows, "figures cards"))


def _without_classifier(run: RunFolder) -> Markup:
    """What was measured on data that no classifier here can judge."""
    words = (
        "No classifier for this data: whether clips show what their caption says is judged on moving digits only."
        " Measured on held-out clips instead: how well the decoder reconstructs them, and the denoiser's loss. The"
        " Fréchet video distance (FVD) needs a feature network that no package carries; with the file"
        " i3d_torchscript.pt, nas.metrics.fvd.FVD computes it."
    )
    rows = [
        tag("tr", tag("th", stage, scope="row"), tag("td", name, class_="name"), tag("td", figures(values[key], 4)))
        for stage, values in run.results.items()
        for key, name in findings.MEASURED.items()
        if key in values
    ]
    measured = table(("Stage", "Measure", ""), rows, "figures", words=("Measure",)) if rows else ""
    return tag("div", tag("p", words, class_="caption"), measured)


def exported(run: RunFolder) -> Markup:
    """The packages and the recipe."""
    if not run.record.exported:
        return tag("p", "Not in this run yet: nothing has been exported.", class_="absent")
    rows = [
        tag("tr", tag("th", e.format, scope="row"), tag("td", e.path, class_="key"), tag("td", megabytes(e.size_mb)))
        for e in run.record.exported
    ]
    heads = ("Format", "File in the run folder", "Size")
    return tag("div", table(heads, rows, "figures", words=heads[1:2]), class_="scroll")


def provenance(run: RunFolder) -> Markup:
    """Versions, machine, the table's own provenance, hashes of what the page was made from, times of the steps."""
    record, config = run.record, file_in_run(run.path, "config.yaml")
    identity = {"run": record.name, "search space": f"{record.space} {record.space_hash}".strip()}
    if run.space is not None and record.space_hash and run.space.hash != record.space_hash:
        identity["space.yaml now"] = f"{run.space.hash}: not what the run recorded"
    # the whole configuration is shown as the file that it was read from
    provenance = {key: value for key, value in record.provenance.items() if key != "config" or config is None}
    names = ("config.yaml", "space.yaml", "table.csv", "front.csv", "architecture.json")
    files = {name: _hash(run.path / name) for name in names if (run.path / name).is_file()}
    parts = [
        _steps(record.step_seconds),
        _facts("Run", {**identity, **provenance}),
        _facts("Lookup table", run.table.meta if run.table else {}),
        _facts("Files, SHA-256", files),
    ]
    if run.table is not None and run.table.calibration:
        c = run.table.calibration
        law = f"{figures(c.scale, 4)} \N{MULTIPLICATION SIGN} sum + {figures(c.offset_ms)} ms"
        parts.append(_facts("Calibration", {"latency": law}))
    if config is not None:
        with open(config, encoding="utf-8", errors="replace") as file:
            words = file.read(20_000)
        parts.append(tag("details", tag("summary", "config.yaml"), tag("pre", words)))
    return tag("div", [part for part in parts if part], class_="sources")


def _steps(seconds: Mapping[str, float]) -> Markup:
    if not seconds:
        return Markup()
    total = sum(seconds.values())
    rows = [
        tag(
            "tr",
            tag("th", step, scope="row"),
            tag("td", duration(s)),
            tag("td", bar(s / (total or 1)), class_="barcell"),
        )
        for step, s in seconds.items()
    ]
    rows.append(tag("tr", tag("th", "all", scope="row"), tag("td", duration(total)), tag("td", ""), class_="sum"))
    return tag("div", tag("h3", "Time of each step"), tag("table", tag("tbody", rows), class_="figures"))


def _facts(title: str, values: Mapping[str, Any]) -> Markup:
    if not values:
        return Markup()
    rows = [tag("div", tag("dt", key), tag("dd", value)) for key, value in _flat(values)]
    return tag("div", tag("h3", title), tag("dl", rows, class_="facts"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif isinstance(value, float):
            yield f"{prefix}{key}", figures(value, 4)
        else:
            yield f"{prefix}{key}", str(value)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
