"""Batches of cached latents for training a denoiser; a batch is a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas import distributed
from nas.data.latent_cache import LatentCache
from nas.data.source import bucket_batch
from nas.diffusion.predictions import Objective
from nas.diffusion.schedules import draw_timesteps
from nas.diffusion.seeding import normal_rows
from nas.distributed.prefetch import StepLoader
from nas.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """Clean latents `(B, C, T, h, w)`, contexts `(B, tokens, dim)`, noise like the latents, timesteps `(B,)`.

    `other_context` is that of the clip before each in the batch of all workers, if `Batches` was asked for it.
    """

    latents: Tensor
    context: Tensor
    noise: Tensor
    t: Tensor
    other_context: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields that are not None, in order."""
        fields = (self.latents, self.context, self.noise, self.t, self.other_context)
        return tuple(field for field in fields if field is not None)

    def split(self, parts: int) -> list[Batch]:
        """Split the batch into equal parts.

        Raises:
            ConfigError: the batch size is not a multiple of `parts`.
        """
        if parts == 1:
            return [self]
        if len(self.latents) % parts:
            raise ConfigError(f"batch: {len(self.latents)} clips cannot be accumulated in {parts} equal parts")
        return [Batch(*part) for part in zip(*(field.chunk(parts) for field in self.tensors()))]


class Batches:
    """Batches from a `decoder` stage's training cache.

    Args:
        decoder: folder of the finished stage.
        seed: with the step, it determines the batch.
        videos, images: batch sizes of clips and of images.
        image_share: share of the steps that train on images instead of clips.
        caption_dropout: share of captions that are replaced by the empty one, for classifier-free guidance.
        objective: distribution of the timesteps; default: flow matching.
        other_contexts: whether batches have an `other_context`.
    """

    def __init__(
        self,
        decoder: Path,
        seed: int,
        videos: int,
        images: int,
        image_share: float = 0.0,
        caption_dropout: float = 0.1,
        objective: Objective | None = None,
        other_contexts: bool = False,
    ) -> None:
        self.cache = LatentCache(decoder / "train")
        self.seed, self.videos, self.images = seed, videos, images
        self.image_share, self.caption_dropout = image_share, caption_dropout
        self.objective, self.other_contexts = objective or Objective(), other_contexts

    def of_videos(self, step: int) -> Batch:
        """The batch of clips of a step."""
        return self._on_device(self._batch("videos", step, self.videos))

    def of_images(self, step: int) -> Batch:
        """The batch of images of a step."""
        return self._on_device(self._batch("images", step, self.images))

    def joint(self, step: int) -> Batch:
        """Images in `image_share` of the steps, evenly distributed, clips in the others."""
        return self._on_device(self.joint_on_host(step))

    def ahead(self, workers: int) -> Callable[[int], Batch]:
        """`joint`, with processes that read the batches of the next steps; see `StepLoader`."""
        inputs = StepLoader(lambda step: self.joint_on_host(step).tensors(), workers)
        return lambda step: Batch(*inputs(step))

    def joint_on_host(self, step: int, rows: range | None = None) -> Batch:
        """The batch of `joint` in the memory of the host.

        Args:
            rows: numbers of the items in the batch of all workers; default: this process's share.
        """
        return self._batch("images" if self._of_images(step) else "videos", step, self.joint_size(step), rows)

    def joint_size(self, step: int) -> int:
        """Items of the batch of all workers of a `joint` step."""
        return self.images if self._of_images(step) else self.videos

    def _of_images(self, step: int) -> bool:
        return int((step + 1) * self.image_share) > int(step * self.image_share)

    def _on_device(self, batch: Batch) -> Batch:
        return Batch(*distributed.move(batch.tensors(), distributed.device()))

    def _batch(self, kind: str, step: int, size: int, rows: range | None = None) -> Batch:
        """This process's share of the batch of a step; its items and their noise do not depend on the number of workers."""
        mine = range(size)[distributed.share(size)] if rows is None else rows
        bucket, indices = bucket_batch(self.seed, step, size, self.cache.counts(kind))
        draw = (self.seed, step)
        latents, context = self.cache.latents(kind, indices[mine.start : mine.stop], bucket, draw)
        other = None
        if self.other_contexts:
            _, before = self.cache.latents(kind, [indices[mine.start - 1]], bucket, draw)
            other = torch.cat([before, context[:-1]])
        numbers = latents[0].numel()
        drawn = normal_rows(numbers + 2, mine, self.seed, step, kind == "images")
        t = draw_timesteps(self.objective, drawn[:, numbers], latents.shape[-2:])
        dropped = torch.special.ndtr(drawn[:, numbers + 1]) < self.caption_dropout
        context = torch.where(dropped[:, None, None], self.cache.empty, context)
        return Batch(latents, context, drawn[:, :numbers].reshape(latents.shape), t, other)


def held_out(decoder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Latents `(n, C, T, h, w)` and contexts `(n, tokens, dim)` of up to `count` held-out clips."""
    cache = LatentCache(decoder / "test")
    return cache.latents("videos", range(min(count, cache.videos)))
