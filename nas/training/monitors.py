"""Monitors of a training run: warnings about static clips, drifting latents and a saturated discriminator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """The normal range of a history column's mean over `window` steps, and the warnings below and above it."""

    column: str
    low: float
    high: float
    below: str
    above: str
    window: int = 20


STATIC, FLICKER = (
    "clips move far less than real ones: they turn static",
    "clips move far more than real ones: they flicker",
)
FADED, SATURATED = "latents fade towards their mean", "latents drift outwards: clips will saturate"
BOUNDS = (
    Bounds("motion", 0.3, 3.0, STATIC, FLICKER),
    Bounds("spread", 0.6, 1.5, FADED, SATURATED),
    Bounds("sampled_motion", 0.3, 3.0, STATIC, FLICKER, window=1),
    Bounds("sampled_spread", 0.6, 1.5, FADED, SATURATED, window=1),
    Bounds(
        "heads_loss", 0.05, math.inf, "the discriminator has won: lower its learning rate, or raise the penalty", ""
    ),
)


def motion_energy(clips: Tensor) -> Tensor:
    """Mean squared difference `()` of neighboring frames of `(B, C, T, H, W)`; NaN for images."""
    return (clips[:, :, 1:] - clips[:, :, :-1]).square().mean()


@torch.no_grad()
def latent_statistics(generated: Tensor, real: Tensor) -> dict[str, Tensor]:
    """`motion` and `spread` `()`: motion energy and standard deviation of generated latents relative to real ones.

    Args:
        generated, real: latents `(B, C, T, h, w)`.
    """
    motion, real_motion = motion_energy(generated), motion_energy(real)
    motion = torch.where(real_motion == 0, math.nan, motion / real_motion)
    return {"motion": motion, "spread": generated.std() / real.std()}


class HistoryMonitor:
    """Checks the rows of a history. A warning is repeated only after its column has returned to the normal range.

    Args:
        rows: the rows of a resumed run, whose warnings are not repeated.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self._recent = {bounds.column: deque(maxlen=bounds.window) for bounds in BOUNDS}
        self._active: set[str] = set()
        for row in rows:
            self.check(row)

    def check(self, row: Mapping[str, float]) -> list[str]:
        """New warnings after this row, one line each."""
        warnings = []
        for bounds in BOUNDS:
            value, recent = row.get(bounds.column, math.nan), self._recent[bounds.column]
            if math.isnan(value):
                continue
            recent.append(value)
            mean = sum(recent) / len(recent)
            if bounds.low <= mean <= bounds.high:
                self._active.discard(bounds.column)
            elif len(recent) == bounds.window and bounds.column not in self._active:
                self._active.add(bounds.column)
                what = bounds.below if mean < bounds.low else bounds.above
                warnings.append(f"step {row['step']}: {bounds.column} {mean:.3g}: {what}")
        return warnings
