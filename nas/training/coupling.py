"""Noise coupled to the clip that a teacher makes of it: what a few-step student can be asked for exactly.

At t = 1 a student that is pulled to real clips can only give their mean, for nothing in the noise says which clip it
stands for. The teacher's sampling does say it: pairs (noise, end of its trajectory), on the straight line between which
the student learns, are reflow (Liu et al. 2022, arXiv 2209.03003, section 2.2), and the regression term of
distribution matching distillation (Yin et al. 2024, arXiv 2311.18828, section 4.2).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nas.training import distributed, objective, tensors
from nas.training.batches import Batch, Batches
from nas.training.loop import progress


class Coupling:
    """A fixed number of batches with the teacher's clips for their noise and captions, kept in a folder.

    Args:
        folder: one file a batch (and worker); what is there already is not made again.
        batches: where captions, noise and real clips come from.
        count: how many batches; step n uses batch n modulo `count`.
    """

    def __init__(self, folder: Path, batches: Batches, count: int) -> None:
        self.folder, self.batches, self.count = folder, batches, count

    def make(self, teacher: nn.Module, steps: int, guidance: float, title: str = "teach") -> None:
        """Let the teacher sample for every batch, by Euler's method in `steps` steps."""
        was_training = teacher.training
        teacher.eval()
        missing = [number for number in range(self.count) if not self._path(number).exists()]
        for number in progress(missing, title, self.count, self.count - len(missing)):
            batch = self.batches.joint(number)
            made = _sample(teacher, batch, self.batches.cache.empty, steps, guidance)
            tensors.save(self._path(number), {"latents": made.cpu()})
        teacher.train(was_training)

    def __call__(self, step: int) -> tuple[Batch, Tensor]:
        """A batch, whose latents are real, and the teacher's latents `(B, C, T, h, w)` for its noise and captions."""
        number = step % self.count
        batch = self.batches.joint(number)
        return batch, tensors.load(self._path(number))["latents"].to(batch.latents.device)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{distributed.rank()}.safetensors"


@torch.no_grad()
def _sample(teacher: nn.Module, batch: Batch, empty: Tensor, steps: int, guidance: float) -> Tensor:
    schedule = objective.schedule(teacher, steps, batch.latents.shape[-2:])
    velocity = objective.guided(teacher, batch.context, empty.to(batch.context.device), guidance)
    return objective.sample_euler(velocity, objective.start(batch.noise, schedule[0]), schedule)
