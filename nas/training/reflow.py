"""Reflow: pairs of noise and the clip that a teacher samples from it, as regression targets of a few-step student.

At t = 1 a student that regresses to real clips learns their mean, since noise and clip are drawn independently. The
teacher's sampling defines one clip per noise. Such pairs are the coupling of reflow (Liu et al. 2022, arXiv 2209.03003,
section 2.2) and the regression term of distribution matching distillation (Yin et al. 2024, arXiv 2311.18828, section
4.2).
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
    """A frozen denoiser that samples with guidance, from any time of a few-step schedule to its end.

    Args:
        denoiser: in evaluation mode.
        empty: `(1, tokens, dim)`, the context of the empty caption.
        guidance: scale of classifier-free guidance.
        times: sampling times, from noise to 0.
    """

    def __init__(self, denoiser: nn.Module, empty: Tensor, guidance: float, times: Sequence[float]) -> None:
        self.denoiser, self.empty, self.guidance, self.times = denoiser, empty, guidance, times

    def end(self, x: Tensor, context: Tensor, indices: Tensor) -> Tensor:
        """The end of the trajectories that start from `x` `(B, C, T, h, w)` at `times[indices]`, indices `(B,)`."""

        def velocity(clips: Tensor) -> Velocity:
            return guided_velocity_fn(self.denoiser, context[clips], self.empty.to(x.device), self.guidance)

        return advance(x, self.times, lambda step: indices <= step, velocity)


@torch.no_grad()
def advance(
    x: Tensor, times: Sequence[float], moves: Callable[[int], Tensor], velocity: Callable[[Tensor], Velocity]
) -> Tensor:
    """Euler's method along `times`; step i is taken by the clips for which the mask `moves(i)` `(B,)` is true.

    Args:
        velocity: the velocity function of the clips with these indices.
    """
    for step, schedule in enumerate(itertools.pairwise(times)):
        clips = moves(step).nonzero().flatten()
        if len(clips):
            x = x.index_copy(0, clips, sample_euler(velocity(clips), x[clips], schedule))
    return x


class ReflowPairs:
    """A fixed number of batches with the latents that the teacher samples for their noise and captions.

    Args:
        folder: one file per batch and worker; existing files are not computed again.
        batches: the source of captions, noise and real clips.
        count: number of batches; step n uses batch n modulo `count`.
    """

    def __init__(self, folder: Path, batches: Batches, count: int) -> None:
        self.folder, self.batches, self.count = folder, batches, count

    def generate(self, teacher: TeacherSampler) -> None:
        """Sample every missing batch with the teacher."""
        missing = [number for number in range(self.count) if not self._path(number).exists()]
        for number in progress(missing, "teacher batches", self.count, self.count - len(missing)):
            batch = self.batches.joint(number)
            indices = torch.zeros(len(batch.t), dtype=torch.long, device=batch.noise.device)
            latents = teacher.end(scale_noise(batch.noise, teacher.times[0]), batch.context, indices)
            safetensors_io.save(self._path(number), {"latents": latents.cpu()})

    def __call__(self, step: int) -> tuple[Batch, Tensor]:
        """A batch with real latents, and the teacher's latents `(B, C, T, h, w)` for its noise and captions."""
        number = step % self.count
        batch = self.batches.joint(number)
        return batch, safetensors_io.load(self._path(number))["latents"].to(batch.latents.device)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{distributed.rank()}.safetensors"
