"""What training can quietly do wrong, as numbers in the history and a line of warning: clips that stand still, latents
that drift, a discriminator that has won.
"""

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
    """Between which values the mean of a history's column over `window` measured steps is as it should be."""

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
    Bounds("heads_loss", 0.05, math.inf, "the discriminator has won: lower its rate, or raise the penalty", ""),
)


def motion_energy(clips: Tensor) -> float:
    """Mean squared difference of neighbouring frames of `(B, C, T, H, W)`; NaN for images."""
    return (clips[:, :, 1:] - clips[:, :, :-1]).square().mean().item()


@torch.no_grad()
def latent_statistics(made: Tensor, real: Tensor) -> dict[str, float]:
    """`motion` and `spread` of generated latents `(B, C, T, h, w)`: motion energy and standard deviation over the real's."""
    here, there = motion_energy(made), motion_energy(real)
    return {"motion": here / there if there else math.nan, "spread": (made.std() / real.std()).item()}


class HistoryMonitor:
    """Watches the rows of a history. A warning comes again only after its column has recovered.

    Args:
        rows: those there are already, when a run goes on: what they warned of is not said again.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self._recent = {bounds.column: deque(maxlen=bounds.window) for bounds in BOUNDS}
        self._ringing: set[str] = set()
        for row in rows:
            self.check(row)

    def check(self, row: Mapping[str, float]) -> list[str]:
        """The warnings that this row brings, a line each."""
        found = []
        for bounds in BOUNDS:
            value, recent = row.get(bounds.column, math.nan), self._recent[bounds.column]
            if math.isnan(value):
                continue
            recent.append(value)
            mean = sum(recent) / len(recent)
            if bounds.low <= mean <= bounds.high:
                self._ringing.discard(bounds.column)
            elif len(recent) == bounds.window and bounds.column not in self._ringing:
                self._ringing.add(bounds.column)
                what = bounds.below if mean < bounds.low else bounds.above
                found.append(f"step {row['step']}: {bounds.column} {mean:.3g}: {what}")
        return found


class TensorBoardLog:
    """`folder/tensorboard`, where tensorboard is installed; it forgets steps that are taken again.

    Training goes on without it when it cannot be written.
    """

    def __init__(self, folder: Path, steps_done: int) -> None:
        self._writer, self._folder = None, folder / "tensorboard"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        threading.excepthook = _without_tensorboard  # its thread would print a traceback over a full disk
        self._try(lambda: SummaryWriter(str(self._folder), purge_step=steps_done + 1), opens=True)

    def add(self, step: int, row: Mapping[str, float]) -> None:
        if self._writer is not None:
            self._try(lambda: [self._writer.add_scalar(name, value, step) for name, value in row.items()])

    def close(self) -> None:
        if self._writer is not None:
            self._try(self._writer.close)

    def _try(self, write: Callable[[], Any], opens: bool = False) -> None:
        try:
            done = write()
            self._writer = done if opens else self._writer
        except OSError as error:
            self._writer = None
            tqdm.write(f"warning: {self._folder}: is written no longer: {error.strerror or error}", file=sys.stderr)


def _without_tensorboard(failed: threading.ExceptHookArgs) -> None:
    """Threads' tracebacks as ever, but for tensorboard's over a disk: it raises the error again where it is used."""
    module = type(failed.thread).__module__
    if not (module.startswith("tensorboard") and issubclass(failed.exc_type, OSError)):
        threading.__excepthook__(failed)
