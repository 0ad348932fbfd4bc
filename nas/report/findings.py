"""Sentences on a run's result, cost and quality, shared by the page and the final summary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nas.costs.clip_summary import clip_summary
from nas.costs.sources import memory_source, whole_model_source
from nas.report.formatting import (
    MISSING,
    count,
    format_number,
    join_words,
    megabytes,
    milliseconds,
    percent,
    percent_with_interval,
    plural,
    plus_minus,
)
from nas.runs.folder import RunFolder, layer_counts
from nas.runs.record import CONTROL, REAL, StageQuality
from nas.spaces import NONE


@dataclass(frozen=True)
class Quantity:
    """A quantity that a budget may bound: its title, its name in a sentence, and how its numbers are formatted."""

    title: str
    phrase: str
    format: Callable[[float | None], str]


QUANTITIES = {
    "latency_ms": Quantity("Latency", "latency of a step", milliseconds),
    "memory_mb": Quantity("Peak memory", "peak memory", megabytes),
    "params": Quantity("Parameters", "parameters", count),
}
"""By their names in a run's record."""

SCORE = "The score is minus the supernet's validation loss on held-out clips, so it is below 0 and higher is better."


def one_sentence_summary(run: RunFolder) -> str:
    """The run's result and its numbers in one sentence, for the top of the page; empty before there are any."""
    record, parts = run.record, []
    predicted = record.predicted or run.predicted_cost
    costs = record.measured or predicted
    if costs is not None:
        bound = record.budget.get("latency_ms")
        limit = f", budget {milliseconds(bound)}" if bound is not None else ""
        how = whole_model_source(total_cost_source(run, "latency_ms")) if record.measured else "predicted"
        parts.append(f"a denoising step takes {milliseconds(costs.latency_ms)} ({how}{limit})")
        parts.append(f"the denoiser has {count(costs.params)} parameters")
    last = _last_stage(record.quality)
    if last:
        row = last[0]
        of = f" of {row.clips} clips" if row.clips else ""
        parts.append(f"at {plural(row.steps, 'step')} {_accuracies(row, of)}")
    if record.trials and run.choices:
        score = f", score {_score(run)}" if _score(run) != MISSING else ""
        against = (
            f" against {_range(record.random_scores)} of random architectures"
            if score and len(finite_scores(run)) > 1
            else ""
        )
        parts.append(
            f"it was chosen from {plural(record.trials, 'architecture')} that the search tried{score}{against}"
        )
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def finite_scores(run: RunFolder) -> list[float]:
    """The finite scores of the random architectures."""
    return [score for score in run.record.random_scores if math.isfinite(score)]


def _score(run: RunFolder) -> str:
    return plus_minus(run.chosen.score, run.chosen.score_std) if run.chosen else MISSING


def _range(values) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{format_number(min(finite), 4)} to {format_number(max(finite), 4)}"


def _last_stage(rows: tuple[StageQuality, ...]) -> list[StageQuality]:
    """The rows of the last evaluated stage, most steps first."""
    generated = [row for row in rows if row.model not in (REAL, CONTROL)]
    return sorted((row for row in generated if row.model == generated[-1].model), key=lambda row: -row.steps)


def search_result(run: RunFolder) -> list[str]:
    """The search: number of trials, layers of the chosen architecture, and its rank among the candidates."""
    record, sentences = run.record, []
    space = run.space.name if run.space else record.space
    if record.trials:
        beyond = record.infeasible_trials
        outside = f"; {beyond:,} of them exceeded the budget" if beyond else ""
        size = f", which has {_combinations(run.space.size)}" if run.space else ""
        tried = plural(record.trials, "architecture")
        sentences.append(f"The search tried {tried} of the space {space}{size}{outside}.")
    if run.choices:
        counted = layer_counts(run.choices)
        empty = sum(choice == NONE for choice in run.choices.values())
        names = [f"{choice} \N{MULTIPLICATION SIGN}{n}" for choice, n in counted.items()]
        text = f"The chosen architecture has {plural(sum(counted.values()), 'temporal layer')}"
        text += f" in {plural(len(run.choices), 'slot')}: {join_words(names)}" if names else ": none at all"
        text += f"; {plural(empty, 'slot')} {'stays' if empty == 1 else 'stay'} empty." if empty and names else "."
        sentences.append(text)
    ranked = [c for c in record.candidates if c.retrained_loss is not None]
    if len(ranked) > 1 and run.choices:
        best = min(ranked, key=lambda c: c.retrained_loss)
        if _same(best.choices, run.choices):
            place = [_same(c.choices, run.choices) for c in record.candidates].index(True) + 1
            sentences.append(
                f"It had the lowest validation loss of the {len(ranked)} best after brief retraining"
                f" ({format_number(best.retrained_loss)}), and was number {place} in the search's own ranking."
            )
    if finite_scores(run) and run.chosen:
        number = len(finite_scores(run))
        sentences.append(
            f"{SCORE} The chosen architecture scores {_score(run)}; {plural(number, 'random architecture')} within the"
            f" budget {'scores' if number == 1 else 'score'} {_range(run.record.random_scores)}."
        )
        if run.chosen.score_std is not None:
            sentences.append(
                "\N{PLUS-MINUS SIGN} is the standard deviation over noise seeds, without the shift that all candidates"
                " share."
            )
    return sentences


def costs(run: RunFolder) -> list[str]:
    """Cost of the chosen architecture: whole model, prediction and budget, one sentence per quantity."""
    record, sentences = run.record, []
    predicted = record.predicted or run.predicted_cost
    for name, quantity in QUANTITIES.items():
        phrase, unit = quantity.phrase, quantity.format
        value = getattr(record.measured or predicted, name, None)
        against = _against(value, record.budget.get(name), unit)
        if name == "params":
            text = f"It has {unit(value)} parameters{against}" if value is not None else ""
        else:
            text = _measured_and_predicted(run, name, phrase, unit, predicted, against)
        if text:
            sentences.append(text + ".")
    return sentences + other_devices(run)


def other_devices(run: RunFolder) -> list[str]:
    """Predicted cost of the chosen architecture on each of the job's other devices, one sentence per device."""
    sentences = []
    for device, predicted in run.record.predicted_on.items():
        parts = []
        for name, quantity in QUANTITIES.items():
            value, bound = getattr(predicted, name), run.record.budget.get(f"{name}@{device}")
            if bound is not None or name != "params":
                parts.append(f"{quantity.phrase} {quantity.format(value)}{_against(value, bound, quantity.format)}")
        sentences.append(f"On {device}, predicted from its table: {'; '.join(parts)}.")
    return sentences


def total_cost_source(run: RunFolder, name: str) -> str:
    """The source (as of table rows) of the whole model's `latency_ms`, `memory_mb` or `params`."""
    sources = run.cost_model.sources if run.cost_model else ()
    source = (run.record.measured and run.record.measured.source) or (sources[0] if len(sources) == 1 else "measured")
    return memory_source(source, run.table.provenance) if name == "memory_mb" and run.table else source


def clip_time(run: RunFolder) -> list[str]:
    """Generation time of a clip at the pipeline's number of steps, if the table has all parts of the pipeline."""
    if run.predicted_cost is None or run.predicted_cost.generation_s is None:
        return []
    return [clip_summary(run.cost_model, run.space.architecture(run.choices))]


def quality(run: RunFolder) -> list[str]:
    """Quality of the last stage at its most and fewest steps, compared with the other models and real clips."""
    rows = run.record.quality
    last = _last_stage(rows)
    if not last:
        return []
    sentences = []
    for row in last[:1] + last[1:][-1:]:
        text = (
            f"After the {row.model} stage, at {plural(row.steps, 'step')}, the Fréchet distance to held-out clips"
            f" is {format_number(row.frechet)}{_beside(rows, row)}; {_accuracies(row, ' of the clips')}"
        )
        sentences.append(text + ".")
    real = next((row for row in rows if row.model == REAL), None)
    if real:
        sentences.append(
            f"Held-out real clips reach {format_number(real.frechet)}, {percent_with_interval(real.direction_accuracy, real.clips)}"
            f" and {percent_with_interval(real.digit_accuracy, real.clips)} under the same"
            f" {'classifier' if real.shown == 'digit' else 'judges'}, an upper bound."
        )
    judged = {row.clips for row in last if row.clips}
    if judged:
        numbers = join_words([f"{n:,}" for n in sorted(judged)])
        sentences.append(
            f"Each number is from {numbers} clips; the 95% confidence interval of each share is in parentheses."
        )
    return sentences


HELD_OUT_METRICS = {
    "ssim": "SSIM of reconstructed held-out clips",
    "psnr_db": "PSNR of reconstructed held-out clips / dB",
    "fvd": "FVD of generated clips",
    "validation_loss_before": "held-out loss before",
    "validation_loss": "held-out loss",
}
"""Metrics of a stage on held-out data that need no classifier, with their names."""


def held_out(run: RunFolder) -> list[str]:
    """Held-out metrics of the stages for data without a classifier, such as `decoder: SSIM of ... 0.81`."""
    return [
        f"{stage}: {name} {format_number(values[key])}"
        for stage, values in run.results.items()
        for key, name in HELD_OUT_METRICS.items()
        if key in values and not stage.startswith("retrain")
    ]


def warnings(run: RunFolder) -> list[str]:
    """An exceeded budget, a prediction that is far off, and estimates among the measurements."""
    record, sentences = run.record, []
    for costs in (record.measured, record.predicted):
        for name, quantity in QUANTITIES.items():
            phrase, unit = quantity.phrase, quantity.format
            label = "predicted" if costs is record.predicted else f"{total_cost_source(run, name)} whole"
            bound, value = record.budget.get(name), getattr(costs, name, None)
            if bound is not None and value is not None and value > bound:
                sentences.append(f"Over budget: the {phrase}, {label}, is {unit(value)} against at most {unit(bound)}.")
    for device, costs in record.predicted_on.items():
        for name, quantity in QUANTITIES.items():
            bound, value = record.budget.get(f"{name}@{device}"), getattr(costs, name)
            if bound is not None and value > bound:
                shown = f"{quantity.format(value)} against at most {quantity.format(bound)}"
                sentences.append(f"Over budget on {device}: the {quantity.phrase}, predicted, is {shown}.")
    if record.measured and record.predicted and record.measured.latency_ms > 0:
        error = record.predicted.latency_ms / record.measured.latency_ms - 1
        if abs(error) > 0.1:
            direction = "below" if error < 0 else "above"
            source = whole_model_source(total_cost_source(run, "latency_ms"))
            sentences.append(
                f"The predicted latency is {percent(abs(error))} {direction} the one {source}, more than 10% off."
            )
    sources = [source for source in (run.cost_model.sources if run.cost_model else ()) if source != "measured"]
    if sources:
        sentences.append(
            f"The lookup table holds {join_words(sources)} rows: {'nothing' if 'measured' not in run.cost_model.sources else 'not everything'} in it was measured."
        )
    return sentences


def _measured_and_predicted(run, name, phrase, unit, predicted, against) -> str:
    measured, prediction = getattr(run.record.measured, name, None), getattr(predicted, name, None)
    if measured is None:
        return f"The {phrase} is predicted to be {unit(prediction)}{against}" if prediction is not None else ""
    text = f"The {phrase}, {whole_model_source(total_cost_source(run, name))}, is {unit(measured)}{against}"
    if prediction is None or not measured > 0:
        return text
    error = prediction / measured - 1
    gap = "the same" if abs(error) < 0.005 else f"{percent(abs(error))} {'less' if error < 0 else 'more'}"
    return f"{text}; the prediction was {unit(prediction)} ({gap})"


def _against(value: float | None, bound: float | None, unit) -> str:
    if bound is None or value is None:
        return ""
    verdict = "within the budget of" if value <= bound else "over the budget of"
    return f", {verdict} {unit(bound)}"


def _accuracies(row: StageQuality, of: str) -> str:
    """How many clips, or how many objects of scenes, are as their caption says."""
    direction, shown = (
        percent_with_interval(share, row.clips) for share in (row.direction_accuracy, row.digit_accuracy)
    )
    if row.scene_accuracy is None:
        return f"{direction}{of} move as their caption says and {shown} show its digit"
    every = percent_with_interval(row.scene_accuracy, row.clips)
    return (
        f"{direction} of the objects move as their caption says, {shown} have its class and color, and in {every}{of} every"
        " object is right"
    )


def _beside(rows: tuple[StageQuality, ...], row: StageQuality) -> str:
    """The Frechet distances of other models at the same number of steps, such as `(finetune 13.9, control 12.5)`."""
    others = [other for other in rows if other.steps == row.steps and other.model not in (row.model, REAL)]
    return f" ({join_words([f'{o.model} {format_number(o.frechet)}' for o in others])})" if others else ""


def _combinations(size: int) -> str:
    if size < 1e9:
        return f"{size:,} combinations"
    power = str(round(math.log10(size))).translate(
        str.maketrans("0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"about 10{power} combinations"


def _same(a: dict[str, str], b: dict[str, str]) -> bool:
    slots = a.keys() | b.keys()
    return all(a.get(slot, NONE) == b.get(slot, NONE) for slot in slots)
