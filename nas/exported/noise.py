"""The normal noise that torch's CPU generator draws, without torch: the same seed gives the same clip."""

from __future__ import annotations

from math import prod

import numpy as np

from nas.diffusion.seeding import mixed_seed

BLOCK = 16
"""torch draws tensors of at least this size in blocks of it."""


class Generator:
    """The draws of `torch.randn(shape, generator=nas.diffusion.seeding.generator(*numbers))`, to float32 rounding.

    torch draws 32-bit numbers from a Mersenne Twister, uniform numbers from their low bits, and normal numbers by
    Box-Muller: for 16 values or more from float32 uniforms (`normal_fill` in ATen's DistributionTemplates.h), for fewer
    from float64 uniforms, two at a time (`normal_distribution` in DistributionsHelper.h).
    """

    def __init__(self, *numbers: int) -> None:
        # RandomState seeds the twister as torch does, with the low 32 bits
        self._twister = np.random.RandomState(mixed_seed(*numbers) & 0xFFFFFFFF)
        self._second: float | None = None

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers, float32 `shape`."""
        size = prod(shape)
        if size < BLOCK:
            return np.array([self._normal() for _ in range(size)], np.float32).reshape(shape)
        values = self._uniform(size)
        whole = size - size % BLOCK
        values[:whole] = _box_muller(values[:whole])
        if whole < size:  # the last block is drawn anew and overlaps the one before
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values.astype(np.float32).reshape(shape)

    def _raw(self, count: int) -> np.ndarray:
        """The generator's next 32-bit numbers."""
        return self._twister.randint(0, 2**32, count, dtype=np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        """Multiples of 2^-24 in [0, 1)."""
        return (self._raw(count) & 0xFFFFFF) / 2.0**24

    def _normal(self) -> float:
        if self._second is not None:
            value, self._second = self._second, None
            return value
        high, low = self._raw(4).astype(np.uint64).reshape(2, 2).T
        first, second = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
        radius, angle = np.sqrt(-2 * np.log1p(-second)), 2 * np.pi * first
        self._second = float(radius * np.sin(angle))
        return float(radius * np.cos(angle))


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Normal numbers from uniform ones, in blocks: the first half gives the radius, the second the angle."""
    first, second = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
