"""Samples paths of a supernet for training: uniformly, fairly (FairNAS), and within a budget.

`fits` is a predicate on architectures, for example from a cost model and a budget. At a site with several slots a path is
brought into canonical form (`none` last), so later slots are trained less often than the first, as they are used less.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.errors import BudgetError
from nas.spaces import NONE, Architecture, SearchSpace

Fits = Callable[[Architecture], bool]


def sample_path(
    space: SearchSpace, rng: np.random.Generator, fits: Fits | None = None, tries: int = 20
) -> Architecture:
    """One path: the choice of each slot is uniform and independent. With `fits`, rejection sampling.

    After `tries` rejected draws, slots of the last one are set to `none` in random order until it fits.

    Raises:
        BudgetError: no path fits, even with as many empty slots as possible.
    """
    path = space.random(rng)
    if fits is None:
        return path
    for _ in range(tries):
        if fits(path):
            return path
        path = space.random(rng)
    return empty_until_it_fits(space, path, rng, fits)


def fair_round(space: SearchSpace, rng: np.random.Generator, fits: Fits | None = None) -> list[Architecture]:
    """A round of paths in which each slot takes each of its choices once, in random order (FairNAS, arXiv 1907.01845).

    There are as many paths as the largest number of choices of a slot; slots with fewer choices repeat them. With
    `fits`, slots of paths over the budget are set to `none`, which skips some choices.

    Raises:
        BudgetError: as `sample_path`.
    """
    length = max(map(len, space.slots.values()))
    columns = {}
    for slot, choices in space.slots.items():
        rounds = [rng.permutation(len(choices)) for _ in range(-(-length // len(choices)))]
        columns[slot] = [choices[i] for i in np.concatenate(rounds)[:length]]
    paths = [space.architecture({slot: column[i] for slot, column in columns.items()}) for i in range(length)]
    return [path if fits is None else empty_until_it_fits(space, path, rng, fits) for path in paths]


def empty_until_it_fits(space: SearchSpace, path: Architecture, rng: np.random.Generator, fits: Fits) -> Architecture:
    """Set slots to `none`, one by one in random order, until the path fits.

    Raises:
        BudgetError: it does not fit even with as many empty slots as possible.
    """
    while not fits(path):
        filled = [slot for slot, choice in path.items if choice != NONE and NONE in space.slots[slot]]
        if not filled:
            raise BudgetError(
                f"no path of search space '{space.name}' fits the budget, "
                "not even one without temporal layers; raise the budget"
            )
        path = space.architecture({**path.choices, filled[rng.integers(len(filled))]: NONE})
    return path
