"""Explain an architecture: the estimated score and the latency that each choice adds in its slot."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nas.errors import ConfigError
from nas.search.problem import Problem
from nas.search.result import Result
from nas.search.samplers.surrogate import Prior, Surrogate, fit
from nas.search.trial_history import TrialHistory
from nas.spaces import NONE, Architecture

DRAWS = 64


def explain(result: Result, arch: Architecture | None = None) -> pd.DataFrame:
    """The estimated value of every choice in its slot of `arch`, with all other slots unchanged.

    The values are those of the sampler's surrogate, fitted to every finished trial of the study: an estimate, with its
    standard deviation, not a measurement.

    Args:
        arch: the architecture to explain; `result.best` unless given.

    Returns:
        One row per slot and choice: slot, choice, chosen, value (score above `none`, or above the slot's cheapest choice
        where `none` is not offered), value_sd, latency_ms (above the same; with several devices the largest, followed by
        `latency_ms@NAME` for each), value_per_ms.

    Raises:
        ConfigError: fewer than two finished trials.
    """
    problem = Problem.build(result.space, result.cost, None)
    history = TrialHistory.of(result.study, result.space)
    if len(history.codes) < 2:
        raise ConfigError("explain: needs at least two finished trials")
    x, y = problem.columns(history.codes), history.values[:, 0]
    prior = Prior(problem, x)
    surrogate = Surrogate(prior, x, y, fit(prior, x, y))
    surrogate.condition(x[:0])
    rng = np.random.default_rng(0)
    here = problem.columns(result.space.encode(arch or result.best))
    values = np.stack([_values(problem, here, *surrogate.draw(rng)) for _ in range(DRAWS)])
    mean = _values(problem, here, *surrogate.expected())
    reference = _reference(problem)
    rows = []
    latencies = np.stack([own.latency_ms - own.latency_ms[reference][problem.slot] for own in problem.devices])
    for column, slot_index in enumerate(problem.slot):
        slot = list(result.space.slots)[slot_index]
        zero = reference[slot_index]
        value, latency = mean[column] - mean[zero], latencies[:, column].max()
        choice = result.space.slots[slot][column - problem.start[slot_index]]
        per_ms = value / latency if latency > 0 else float("nan")
        deviation = (values[:, column] - values[:, zero]).std()
        rows.append((slot, choice, column == here[slot_index], value, deviation, latency, per_ms))
    columns = ["slot", "choice", "chosen", "value", "value_sd", "latency_ms", "value_per_ms"]
    frame = pd.DataFrame(rows, columns=columns)
    for i, device in enumerate(problem.devices if len(problem.devices) > 1 else ()):
        frame.insert(6 + i, f"latency_ms@{device.name}", latencies[i])
    return frame


def _values(problem: Problem, here: np.ndarray, utilities: np.ndarray, interactions: np.ndarray) -> np.ndarray:
    """`(D,)`: the score that each column brings to its slot, given the other slots' columns."""
    towards = interactions[:, here]
    return np.asarray(utilities + towards.sum(1) - towards[np.arange(len(problem.slot)), problem.slot])


def _reference(problem: Problem) -> np.ndarray:
    """`(slots,)`: the column of `none`, or of the cheapest choice."""
    columns = []
    for choices, first, end in zip(problem.space.slots.values(), problem.start, problem.start[1:]):
        offset = choices.index(NONE) if NONE in choices else int(np.argmin(problem.latency_ms[first:end]))
        columns.append(first + offset)
    return np.array(columns)
