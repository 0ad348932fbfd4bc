"""Batches of cached latents for training a denoiser; a batch is a function of (seed, step) alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas import distributed
from nas.data.latent_cache import LatentCache
from nas.data.source import bucket_batch
from nas.diffusion.predictions import Objective
from nas.diffusion.schedules import draw_timesteps
from nas.diffusion.seeding import generator
from nas.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """Clean latents `(B, C, T, h, w)`, contexts `(B, tokens, dim)`, noise like the latents, timesteps `(B,)`."""

    latents: Tensor
    context: Tensor
    noise: Tensor
    t: Tensor

    def split(self, parts: int) -> list[Batch]:
        """Split the batch into equal parts.

        Raises:
            ConfigError: the batch size is not a multiple of `parts`.
        """
        if parts == 1:
            return [self]
        if len(self.latents) % parts:
            raise ConfigError(f"batch: {len(self.latents)} clips cannot be accumulated in {parts} equal parts")
        fields = (self.latents, self.context, self.noise, self.t)
        return [Batch(*part) for part in zip(*(field.chunk(parts) for field in fields))]


class Batches:
    """Batches from a `decoder` stage's training cache.

    Args:
        decoder: folder of the finished stage.
        seed: with the step, it determines the batch.
        videos, images: batch sizes of clips and of images.
        image_share: share of the steps that train on images instead of clips.
        caption_dropout: share of captions that are replaced by the empty one, for classifier-free guidance.
        objective: distribution of the timesteps; default: flow matching.
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
    ) -> None:
        self.cache = LatentCache(decoder / "train")
        self.seed, self.videos, self.images = seed, videos, images
        self.image_share, self.caption_dropout = image_share, caption_dropout
        self.objective = objective or Objective()

    def of_videos(self, step: int) -> Batch:
        """The batch of clips of a step."""
        return self._batch("videos", step, self.videos)

    def of_images(self, step: int) -> Batch:
        """The batch of images of a step."""
        return self._batch("images", step, self.images)

    def joint(self, step: int) -> Batch:
        """Images in `image_share` of the steps, evenly distributed, clips in the others."""
        images = self.image_share
        image_step = int((step + 1) * images) > int(step * images)
        return self.of_images(step) if image_step else self.of_videos(step)

    def _batch(self, kind: str, step: int, size: int) -> Batch:
        """This process's share of the batch of a step."""
        mine = distributed.share(size)
        bucket, indices = bucket_batch(self.seed, step, size, self.cache.counts(kind))
        latents, context = self.cache.latents(kind, indices[mine], bucket, (self.seed, step))
        stream = generator(self.seed, step, kind == "images")
        noise = torch.randn((size, *latents.shape[1:]), generator=stream)
        t = draw_timesteps(self.objective, size, stream, latents.shape[-2:])
        dropped = torch.rand(size, generator=stream) < self.caption_dropout
        context = torch.where(dropped[mine][:, None, None], self.cache.empty, context)
        return Batch(*(values.to(distributed.device()) for values in (latents, context, noise[mine], t[mine])))


def held_out(decoder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Latents `(n, C, T, h, w)` and contexts `(n, tokens, dim)` of up to `count` held-out clips."""
    cache = LatentCache(decoder / "test")
    return cache.latents("videos", range(min(count, cache.videos)))
