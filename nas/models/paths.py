"""Drawing paths through a supernet to train: uniform, fair, and inside a budget.

`fits` is any predicate on architectures, such as one made from a cost model and a budget; this floor knows neither.
At a site of several slots a draw is brought into canonical form (`none` last), so its later slots train less often
than its first: they are also used less often.
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
    """One path: each slot's choice uniform and independent; with `fits`, uniform among those that fit if it can.

    Up to `tries` draws are rejected; the last is then brought inside by emptying slots in random order.

    Raises:
        BudgetError: nothing fits, not even with every slot emptied that may be.
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

    As many paths as the slot with the most choices has; a slot with fewer goes through them again. With `fits`, paths
    outside the budget are brought inside by emptying slots, which takes some choices' turns away.

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
        BudgetError: it does not fit even then.
    """
    while not fits(path):
        filled = [slot for slot, choice in path.items if choice != NONE and NONE in space.slots[slot]]
        if not filled:
            raise BudgetError(
                f"no path of search space '{space.name}' fits the budget, "
                "not even without temporal layers; raise the budget"
            )
        path = space.architecture({**path.choices, filled[rng.integers(len(filled))]: NONE})
    return path
