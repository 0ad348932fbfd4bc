"""Noise coupled to the clip that a teacher makes of it: what a few-step student can be asked for exactly.

At t = 1 a student that is pulled to real clips can only give their mean, for nothing in the noise says which clip it
stands for. The teacher's sampling does say it. Pairs (noise, end of its trajectory) are reflow's coupling (Liu et al.
2022, arXiv 2209.03003, section 2.2) and the regression term of distribution matching distillation (Yin et al. 2024,
arXiv 2311.18828, section 4.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nas import distributed
from nas.data.batches import Batch, Batches
from nas.diffusion.predictions import Velocity, guided_velocity_fn
from nas.diffusion.sampling import sample_euler
from nas.diffusion.schedules import scale_noise
from nas.models import safetensors_io
from nas.progress import progress


class TeacherSampler:
    """A frozen denoiser that samples with guidance, from anywhere on a few-step schedule to its end.

    Args:
        denoiser: in evaluation mode.
        empty: `(1, tokens, dim)`, the context of the empty caption.
        guidance: scale of classifier-free guidance.
        times: sampling times, from noise to 0.
    """

    def __init__(self, denoiser: nn.Module, empty: Tensor, guidance: float, times: Sequence[float]) -> None:
        self.denoiser, self.empty, self.guidance, self.times = denoiser, empty, guidance, times

    def end(self, x: Tensor, context: Tensor, places: Tensor) -> Tensor:
        """Where it ends from `x` `(B, C, T, h, w)` at `times[places]`, places `(B,)`, under `context`."""

        def velocity(clips: Tensor) -> Velocity:
            return guided_velocity_fn(self.denoiser, context[clips], self.empty.to(x.device), self.guidance)

        return advance(x, self.times, lambda step: places <= step, velocity)


@torch.no_grad()
def advance(
    x: Tensor, times: Sequence[float], moves: Callable[[int], Tensor], velocity: Callable[[Tensor], Velocity]
) -> Tensor:
    """Euler's steps along `times`; in step i only the clips that `moves(i)` `(B,)` picks take it.

    Args:
        velocity: of the clips with these indices.
    """
    for step, schedule in enumerate(itertools.pairwise(times)):
        clips = moves(step).nonzero().flatten()
        if len(clips):
            x = x.index_copy(0, clips, sample_euler(velocity(clips), x[clips], schedule))
    return x


class ReflowPairs:
    """A fixed number of batches with the teacher's clips for their noise and captions, kept in a folder.

    Args:
        folder: one file a batch (and worker); what is there already is not made again.
        batches: where captions, noise and real clips come from.
        count: how many batches; step n uses batch n modulo `count`.
    """

    def __init__(self, folder: Path, batches: Batches, count: int) -> None:
        self.folder, self.batches, self.count = folder, batches, count

    def make(self, teacher: TeacherSampler, title: str = "teach") -> None:
        """Let the teacher sample every batch that is missing."""
        missing = [number for number in range(self.count) if not self._path(number).exists()]
        for number in progress(missing, title, self.count, self.count - len(missing)):
            batch = self.batches.joint(number)
            places = torch.zeros(len(batch.t), dtype=torch.long, device=batch.noise.device)
            made = teacher.end(scale_noise(batch.noise, teacher.times[0]), batch.context, places)
            safetensors_io.save(self._path(number), {"latents": made.cpu()})

    def __call__(self, step: int) -> tuple[Batch, Tensor]:
        """A batch, whose latents are real, and the teacher's latents `(B, C, T, h, w)` for its noise and captions."""
        number = step % self.count
        batch = self.batches.joint(number)
        return batch, safetensors_io.load(self._path(number))["latents"].to(batch.latents.device)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{distributed.rank()}.safetensors"
