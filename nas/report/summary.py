"""The text that `nas run` prints at its end: chosen architecture, cost, quality, and where the files are."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from nas.report import findings
from nas.report.formatting import (
    count,
    duration,
    format_number,
    megabytes,
    milliseconds,
    percent,
    percent_with_interval,
)
from nas.runs.folder import RunFolder, layer_counts, one_line
from nas.runs.record import CONTROL, REAL, StageQuality
from nas.spaces import NONE

WIDTH = 96


def summary(run: str | Path) -> str:
    """About a dozen lines of plain text on the run folder `run`, at most 96 columns wide.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = RunFolder.read(run)
    lines = []
    for label, part in (("Found", _found), ("Costs", _costs), ("Quality", _quality), ("Where", _where)):
        try:
            lines += part(folder)
        except Exception as error:  # a damaged file may raise anything; the other parts are still printed
            lines += _labeled(label, f"not available, a file of the run folder is damaged: {one_line(error)}")
    return "\n".join(lines)


def _found(run: RunFolder) -> list[str]:
    if not run.choices:
        return _labeled("Found", "nothing yet: " + run.missing.get("architecture", "the search has not run"))
    names = [f"{choice} x{n}" for choice, n in layer_counts(run.choices).items()]
    empty = sum(choice == NONE for choice in run.choices.values())
    names += [f"{empty} slots empty"] if empty else []
    tried = (
        f" (of {run.record.trials:,} tried, {run.record.infeasible_trials:,} over budget)" if run.record.trials else ""
    )
    return _labeled("Found", ", ".join(names) + tried)


def _costs(run: RunFolder) -> list[str]:
    predicted, measured = run.record.predicted or run.predicted_cost, run.record.measured
    lines = []
    for label, name, unit in (
        ("Latency", "latency_ms", milliseconds),
        ("Memory", "memory_mb", megabytes),
        ("Parameters", "params", count),
    ):
        prediction, value = getattr(predicted, name, None), getattr(measured, name, None)
        bound = run.record.budget.get(name)
        if prediction is None and value is None:
            continue
        parts = (
            [f"{unit(value)} {findings.total_cost_source(run, name)} whole"]
            if value is not None and name != "params"
            else []
        )
        parts += [f"{unit(prediction)} predicted"] if prediction is not None and name != "params" else []
        parts += [unit(value if value is not None else prediction)] if name == "params" else []
        if bound is not None:
            best = value if value is not None else prediction
            parts.append(f"budget {unit(bound)}: {'OVER' if best > bound else 'within'} ({_of_bound(best / bound)})")
        lines += _labeled(label, ", ".join(parts))
    lines += [line for sentence in findings.other_devices(run) for line in _labeled("Device", sentence)]
    return lines + [line for sentence in findings.clip_time(run) for line in _labeled("Clip", sentence)]


def _of_bound(share: float) -> str:
    """A cost in percent of its bound, with enough digits to differ from 100% where it does."""
    digits = next((digits for digits in range(4) if round(share * 100, digits) != 100), 0)
    return percent(share, digits)


def _quality(run: RunFolder) -> list[str]:
    rows = run.record.quality
    generated = [row for row in rows if row.model not in (REAL, CONTROL)]
    if run.no_classifier:
        return _labeled("Quality", "; ".join(["no classifier for this data", *findings.held_out(run)]))
    if not generated:
        return _labeled("Quality", "not evaluated yet")
    last = sorted((row for row in generated if row.model == generated[-1].model), key=lambda row: -row.steps)
    lines = []
    for row in last:
        others = [o for o in rows if o.steps == row.steps and o.model not in (row.model, REAL)]
        beside = f" ({', '.join(f'{o.model} {format_number(o.frechet)}' for o in others)})" if others else ""
        lines += _labeled(f"{row.steps} step{'s' * (row.steps != 1)}", f"{row.model}: {_numbers(row)}{beside}")
    real = next((row for row in rows if row.model == REAL), None)
    return lines + (_labeled("Real clips", _numbers(real)) if real else [])


def _numbers(row: StageQuality) -> str:
    accuracies = {"direction": row.direction_accuracy, row.shown: row.digit_accuracy, "all right": row.scene_accuracy}
    shares = [f"{name} {percent_with_interval(s, row.clips)}" for name, s in accuracies.items() if s is not None]
    return ", ".join([f"Frechet {format_number(row.frechet)}", *shares])


def _where(run: RunFolder) -> list[str]:
    lines = [line for sentence in findings.warnings(run) for line in _labeled("Note", sentence)]
    seconds = sum(run.record.step_seconds.values())
    lines += _labeled("Took", duration(seconds)) if seconds else []
    existing = [
        name for name in ("report.html", "architecture.json", "samples", "export") if (run.path / name).exists()
    ]
    places = ", ".join(existing) or "nothing yet"
    return [*lines, *_labeled("Where", f"{run.path}{os.sep} ({places})")]


def _labeled(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{label:<12}", subsequent_indent=" " * 12, break_on_hyphens=False)
