"""Random generators that are functions of whole numbers, so that no random state has to be saved or restored."""

from __future__ import annotations

import torch


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by all of these whole numbers, such as (seed, step)."""
    mixed = 0
    for number in numbers:  # splitmix64: neighboring seeds give unrelated sequences
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed % 2**63)
