"""Small and large cost-only searches for the tests of this folder."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from nas.costs import Budget, CostModel, LookupTable
from nas.search import ScoreTable
from nas.spaces import SearchSpace


def make(seed: int, slots: int, choices: int, share: float = 0.3, pairs: bool = False):
    """A space, its cost model, a budget that about `share` of architectures meet, and a score table."""
    rng = np.random.default_rng(seed)
    names = ["none", *(f"o{c}" for c in range(choices - 1))]
    space = SearchSpace(name="test", slots={f"s{i}": names for i in range(slots)})
    rows = [
        {
            "workload": f"{slot}/{choice}",
            "latency_ms": rng.gamma(2.0),
            "memory_mb": 20 * rng.gamma(2.0),
            "weights_mb": rng.gamma(2.0),
            "params": int(1e6 * rng.gamma(2.0)),
        }
        for slot in space.slots
        for choice in names[1:]
    ]
    cost = CostModel(space, LookupTable.from_frame(pd.DataFrame(rows)))
    costs = cost.predict_many(rng.integers(choices, size=(4000, slots)))
    budget = Budget(*(max(float(costs[name].quantile(share)), 1e-3) for name in ("latency_ms", "memory_mb", "params")))
    scores = {slot: {choice: float(rng.gamma(2.0)) for choice in names[1:]} for slot in space.slots}
    tables = {}
    if pairs:
        for first, second in itertools.pairwise(space.slots):
            tables[first, second] = {(a, b): float(rng.normal()) for a in names for b in names if rng.random() < 0.7}
    return space, cost, budget, ScoreTable(scores, tables)


def everything(space: SearchSpace) -> np.ndarray:
    """All codes `(N, slots)`."""
    return np.array(list(itertools.product(*(range(len(c)) for c in space.slots.values()))))
