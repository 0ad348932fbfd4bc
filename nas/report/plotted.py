"""The architectures that a page can draw: the Pareto front's, the candidates', and the winner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.runs.folder import RunFolder, layer_key
from nas.spaces import NONE


@dataclass
class Shown:
    """One architecture with its predicted costs. `score` is None for a winner that the search's files do not score."""

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
    def can_be_drawn(self) -> bool:
        """Whether it has a place in a chart of cost against score."""
        numbers = (self.latency_ms, self.memory_mb, self.params, self.score)
        return all(n is not None and math.isfinite(n) for n in numbers)


def architectures(run: RunFolder) -> list[Shown]:
    """Each architecture once: the front by latency, then candidates and the winner if they are not on it."""
    found: dict[Any, Shown] = {}

    def add(shown: Shown) -> Shown:
        return found.setdefault(shown.key, shown)

    if run.front is not None:
        rows = run.front.sort_values("latency_ms", kind="stable").to_dict("records")
        slots = [slot for slot in run.slots or run.front.columns[4:] if slot in run.front.columns]
        for i, row in enumerate(rows, start=1):
            choices = {slot: str(row[slot]) or NONE for slot in slots}
            numbers = (float(row["latency_ms"]), float(row["memory_mb"]), int(row["params"]), float(row["score"]))
            add(Shown(choices, *numbers, f"Front {i} of {len(rows)}", on_front=True))
    for i, candidate in enumerate(run.record.candidates, start=1):
        costs = candidate.predicted
        numbers = costs.latency_ms, costs.memory_mb, costs.params, candidate.score
        add(Shown(dict(candidate.choices), *numbers, f"Candidate {i}")).score_std = candidate.score_std
    costs = run.record.predicted or run.predicted_cost
    if run.choices and costs:
        winner = Shown(run.choices, costs.latency_ms, costs.memory_mb, costs.params, None, "")
        add(winner)
        found[winner.key].chosen = True
        found[winner.key].label = "The chosen architecture"
    return list(found.values())


def as_json(shown: Shown, slots: list[str]) -> Mapping[str, Any]:
    """What page.js needs of an architecture."""
    numbers = {name: getattr(shown, name) for name in ("latency_ms", "memory_mb", "params", "score", "score_std")}
    return {
        "label": shown.label,
        "chosen": shown.chosen,
        "choices": [shown.choices.get(slot, NONE) for slot in slots],
        **{name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()},
    }
