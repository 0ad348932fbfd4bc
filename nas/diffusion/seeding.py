"""Random generators that are functions of whole numbers, so that no random state has to be saved or restored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by all of these whole numbers, such as (seed, step)."""
    import torch  # here, so that `mixed_seed` can be used without torch

    return torch.Generator().manual_seed(mixed_seed(*numbers))


def normal_rows(count: int, items: Iterable[int], *numbers: int) -> torch.Tensor:
    """Normal numbers `(items, count)`, float32; each row is a function of its item and of all other whole numbers.

    So an item's numbers do not depend on which process draws them, or what other items it draws for.
    """
    import torch

    items = list(items)
    rows = torch.empty(len(items), count)
    for row, item in zip(rows, items):
        row.normal_(generator=generator(*numbers, item))
    return rows


def mixed_seed(*numbers: int) -> int:
    """A seed below 2^63 from whole numbers such as (seed, step): neighboring ones give unrelated seeds (splitmix64)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63
