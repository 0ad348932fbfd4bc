"""Monitors of a training run: warnings about static clips, drifting latents and a saturated discriminator; TensorBoard."""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


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


class TensorBoardLog:
    """Writes the history to `folder/tensorboard`, if tensorboard is installed; steps that are repeated are replaced.

    If a file cannot be written, it prints a warning and training continues without it.
    """

    def __init__(self, folder: Path, steps_done: int) -> None:
        self._writer, self._folder = None, folder / "tensorboard"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        threading.excepthook = _without_tensorboard  # its writer thread prints a traceback when the disk is full
        self._try(lambda: SummaryWriter(str(self._folder), purge_step=steps_done + 1), opens=True)

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Write one row of the history."""
        if self._writer is not None:
            self._try(lambda: [self._writer.add_scalar(name, value, step) for name, value in row.items()])

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._try(self._writer.close)

    def _try(self, write: Callable[[], Any], opens: bool = False) -> None:
        try:
            done = write()
            self._writer = done if opens else self._writer
        except OSError as error:
            self._writer = None
            tqdm.write(
                f"warning: {self._folder}: cannot be written and is not updated any more: {error.strerror or error}",
                file=sys.stderr,
            )


def _without_tensorboard(failed: threading.ExceptHookArgs) -> None:
    """The default hook, except for disk errors in tensorboard's thread, which are raised again where it is used."""
    module = type(failed.thread).__module__
    if not (module.startswith("tensorboard") and issubclass(failed.exc_type, OSError)):
        threading.__excepthook__(failed)
