"""The architectures that the page can draw: those of the Pareto front, the candidates, and the chosen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.runs.folder import RunFolder, layer_key
from nas.spaces import NONE


@dataclass
class PlottedArchitecture:
    """An architecture with its predicted cost. `score` is None for a chosen architecture that the search has not scored."""

    choices: dict[str, str]
    latency_ms: float
    memory_mb: float
    params: int
    score: float | None
    label: str
    score_std: float | None = None
    on_front: bool = False
    chosen: bool = False

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        return layer_key(self.choices)

    @property
    def has_finite_numbers(self) -> bool:
        """Whether it can be placed in a chart of cost against score."""
        numbers = (self.latency_ms, self.memory_mb, self.params, self.score)
        return all(n is not None and math.isfinite(n) for n in numbers)


def architectures(run: RunFolder) -> list[PlottedArchitecture]:
    """Each architecture once: the front by latency, then the candidates and the chosen one that are not on it."""
    by_key: dict[Any, PlottedArchitecture] = {}

    def add(architecture: PlottedArchitecture) -> PlottedArchitecture:
        return by_key.setdefault(architecture.key, architecture)

    if run.front is not None:
        rows = run.front.sort_values("latency_ms", kind="stable").to_dict("records")
        slots = [slot for slot in run.slots or run.front.columns[4:] if slot in run.front.columns]
        for i, row in enumerate(rows, start=1):
            choices = {slot: str(row[slot]) or NONE for slot in slots}
            numbers = (float(row["latency_ms"]), float(row["memory_mb"]), int(row["params"]), float(row["score"]))
            add(PlottedArchitecture(choices, *numbers, f"Front {i} of {len(rows)}", on_front=True))
    for i, candidate in enumerate(run.record.candidates, start=1):
        costs = candidate.predicted
        numbers = costs.latency_ms, costs.memory_mb, costs.params, candidate.score
        add(PlottedArchitecture(dict(candidate.choices), *numbers, f"Candidate {i}")).score_std = candidate.score_std
    costs = run.record.predicted or run.predicted_cost
    if run.choices and costs:
        chosen = add(PlottedArchitecture(run.choices, costs.latency_ms, costs.memory_mb, costs.params, None, ""))
        chosen.chosen, chosen.label = True, "The chosen architecture"
    return list(by_key.values())


def as_json(architecture: PlottedArchitecture, slots: list[str]) -> Mapping[str, Any]:
    """The data of an architecture that page.js reads."""
    numbers = {
        name: getattr(architecture, name) for name in ("latency_ms", "memory_mb", "params", "score", "score_std")
    }
    return {
        "label": architecture.label,
        "chosen": architecture.chosen,
        "choices": [architecture.choices.get(slot, NONE) for slot in slots],
        **{name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()},
    }
