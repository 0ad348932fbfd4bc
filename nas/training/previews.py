"""Preview clips sampled during training, always from the same noise and captions, and their motion and spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.data import video_writer
from nas.data.batches import held_out
from nas.data.latent_cache import LatentCache
from nas.diffusion.sampling import MAX_SAMPLING_STEPS, generate
from nas.ranges import check_range
from nas.training.monitors import latent_statistics


@dataclass(frozen=True)
class PreviewConfig:
    """How often and what to sample during training on clips.

    Attributes:
        every: interval in steps; 0 for never.
        clips: number of clips, with the captions of the first held-out clips.
        steps: denoising steps.
    """

    every: int = 0
    clips: int = 4
    steps: int = 8

    def __post_init__(self) -> None:
        check_range(self, ("every",), 0)
        check_range(self, ("clips",), 1)
        check_range(self, ("steps",), 1, MAX_SAMPLING_STEPS)


class PreviewWriter:
    """Writes `samples/step-NUMBER.gif` and `.mp4` and measures motion and spread relative to the real clips.

    Args:
        folder: the stage's folder.
        decoder: the folder of the finished `decoder` stage.
        guidance: scale of classifier-free guidance.
    """

    def __init__(self, config: PreviewConfig, folder: Path, decoder: Path, guidance: float) -> None:
        self.config, self.folder, self.guidance = config, folder / "samples", guidance
        if config.every:
            self.real, self.context = held_out(decoder, config.clips)
            self.empty = LatentCache(decoder / "train").empty
            self.autoencoder = checkpoint.load_autoencoder(decoder).to(distributed.device())
            self.fps = checkpoint.data_fps(decoder)

    def __call__(self, denoiser: nn.Module, steps_done: int) -> dict[str, float]:
        """`sampled_motion` and `sampled_spread` after this step: NaN between intervals; {} if previews are off.

        Rank 0 writes the files; all workers must call, since a sharded denoiser runs on all of them.
        """
        if not self.config.every:
            return {}
        if steps_done % self.config.every:
            return {"sampled_motion": math.nan, "sampled_spread": math.nan}
        training = denoiser.training
        shape, config = tuple(self.real.shape[1:]), self.config
        latents = generate(denoiser.eval(), self.context, self.empty, shape, config.steps, self.guidance)
        denoiser.train(training)
        if distributed.is_main():
            self._write(latents, steps_done)
        return {f"sampled_{name}": value.item() for name, value in latent_statistics(latents, self.real).items()}

    @torch.no_grad()
    def _write(self, latents: torch.Tensor, steps_done: int) -> None:
        clips = self.autoencoder.decode(latents.to(distributed.device())).cpu()
        grid = video_writer.tile(video_writer.to_uint8(clips.numpy()), columns=len(latents))
        grid = video_writer.enlarge(grid)
        for suffix in (".gif", ".mp4"):
            video_writer.save(self.folder / f"step-{steps_done:07d}{suffix}", grid, self.fps)
