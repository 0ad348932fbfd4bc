"""Small and large cost-only searches for the tests of this folder."""

from __future__ import annotations

import itertools

import numpy as np

from nas.spaces import SearchSpace
from nas.testing.samplers import random_search_instance


def make(seed: int, slots: int, choices: int, share: float = 0.3, pairs: bool = False):
    """A space, its cost model, a budget that about `share` of architectures meet, and a score table."""
    instance = random_search_instance(seed, slots, choices, share, pairs)
    return instance.space, instance.cost, instance.budget, instance.scores


def everything(space: SearchSpace) -> np.ndarray:
    """All codes `(N, slots)`."""
    return np.array(list(itertools.product(*(range(len(c)) for c in space.slots.values()))))
