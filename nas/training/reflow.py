"""Reflow: pairs of noise and the clip that a teacher samples from it, as regression targets of a few-step student.

At t = 1 a student that regresses to real clips learns their mean, since noise and clip are drawn independently. The
teacher's sampling defines one clip per noise. Such pairs are the coupling of reflow (Liu et al. 2022, arXiv 2209.03003,
section 2.2) and the regression term of distribution matching distillation (Yin et al. 2024, arXiv 2311.18828, section
4.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas import distributed
from nas.data.batches import Batch, Batches
from nas.diffusion.predictions import Velocity, guided_velocity_fn
from nas.diffusion.sampling import sample_euler
from nas.diffusion.schedules import scale_noise
from nas.distributed.prefetch import StepLoader
from nas.models import safetensors_io
from nas.progress import progress
from nas.training.execution import ExecutionConfig

Clips = Callable[[int], Tensor]
"""(index of a step of a schedule) -> indices `(n,)` of the clips that take it."""


@dataclass(frozen=True)
class Starts:
    """The index into a schedule at which each clip of a batch starts.

    Since the host knows how many clips take each step, it need not wait for the device to find them.

    Attributes:
        indices: `(B,)`, on the CPU.
        order: the clips `(B,)` by falling index, on the device of the clips.
    """

    indices: Tensor
    order: Tensor

    @staticmethod
    def order_of(indices: Tensor) -> Tensor:
        """`order` of these indices, on the CPU."""
        return indices.argsort(descending=True, stable=True)

    def later(self, step: int) -> Tensor:
        """The clips that start after a step."""
        return self.order[: int((self.indices > step).sum())]

    def begun(self, step: int) -> Tensor:
        """The clips that have started by a step, except those that start at the first one."""
        return self.order[int((self.indices > step).sum()) : int((self.indices > 0).sum())]


class TeacherSampler:
    """A frozen denoiser that samples with guidance, from any time of a few-step schedule to its end.

    Args:
        denoiser: in evaluation mode.
        empty: `(1, tokens, dim)`, the context of the empty caption.
        guidance: scale of classifier-free guidance.
        times: sampling times, from noise to 0.
    """

    def __init__(self, denoiser: nn.Module, empty: Tensor, guidance: float, times: Sequence[float]) -> None:
        self.denoiser, self.guidance, self.times = denoiser, guidance, times
        self.empty = empty.to(next(denoiser.parameters()).device)

    def end(self, x: Tensor, context: Tensor, moves: Clips) -> Tensor:
        """`x` `(B, C, T, h, w)` with each clip at the end of the trajectory of the steps that it takes."""

        def velocity(clips: Tensor) -> Velocity:
            return guided_velocity_fn(self.denoiser, context[clips], self.empty, self.guidance)

        return advance(x, self.times, moves, velocity)


@torch.no_grad()
def advance(x: Tensor, times: Sequence[float], moves: Clips, velocity: Callable[[Tensor], Velocity]) -> Tensor:
    """Euler's method along `times`; step i is taken by the clips `moves(i)`.

    Args:
        velocity: the velocity function of the clips with these indices.
    """
    for step, schedule in enumerate(itertools.pairwise(times)):
        clips = moves(step)
        if len(clips):
            x = x.index_copy(0, clips, sample_euler(velocity(clips), x[clips], schedule))
    return x


class ReflowPairs:
    """A fixed number of batches with the latents that the teacher samples for their noise and captions.

    Args:
        folder: one file per batch; existing files are not computed again.
        batches: the source of captions, noise and real clips.
        count: number of batches; step n uses batch n modulo `count`.
    """

    def __init__(self, folder: Path, batches: Batches, count: int) -> None:
        self.folder, self.batches, self.count = folder, batches, count

    def generate(self, teacher: TeacherSampler, execution: ExecutionConfig | None = None) -> None:
        """Sample every missing batch with the teacher, in the precision of `execution`. All workers must call this.

        Each worker samples some of the batches, in parts of the size of its share of a batch.
        """
        execution, workers = execution or ExecutionConfig(), distributed.world_size()
        numbers = range(distributed.rank(), self.count, workers)
        missing = [number for number in numbers if not self._path(number).exists()]
        done, shown = len(numbers) - len(missing), distributed.is_main()
        for number in progress(missing, "teacher batches", len(numbers), done, shown=shown):
            size = self.batches.joint_size(number)
            parts = [range(size)[part] for part in distributed.shares(size)]
            latents = torch.cat([self._sample(teacher, number, part, execution) for part in parts])
            safetensors_io.save(self._path(number), {"latents": latents})
        distributed.barrier()

    def _sample(self, teacher: TeacherSampler, number: int, rows: range, execution: ExecutionConfig) -> Tensor:
        batch = self.batches.joint_on_host(number, rows)
        noise, context = distributed.move([batch.noise, batch.context], distributed.device())
        everything = torch.arange(len(noise), device=noise.device)
        with execution.autocast(noise.device):
            return teacher.end(scale_noise(noise, teacher.times[0]), context, lambda step: everything).cpu()

    def __call__(self, step: int) -> tuple[Batch, Tensor]:
        """A batch with real latents, and the teacher's latents `(B, C, T, h, w)` for its noise and captions."""
        return self.ahead(0)(step)

    def ahead(self, workers: int) -> Callable[[int], tuple[Batch, Tensor]]:
        """The same, with processes that read the pairs of the next steps; see `StepLoader`."""
        inputs = StepLoader(self._read, workers)

        def pair(step: int) -> tuple[Batch, Tensor]:
            *fields, latents = inputs(step)
            return Batch(*fields), latents

        return pair

    def _read(self, step: int) -> list[Tensor]:
        number = step % self.count
        latents = safetensors_io.load(self._path(number))["latents"][distributed.share(self.batches.joint_size(number))]
        return [*self.batches.joint_on_host(number).tensors(), latents]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
