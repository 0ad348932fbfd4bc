"""Text-to-video pipeline: generates clips from prompts with a trained checkpoint, and saves them as MP4, GIF or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas import checkpoint, distributed
from nas.checkpoint import Checkpoint
from nas.data import video_writer
from nas.data.video_writer import Clips
from nas.diffusion.sampling import MAX_SAMPLING_STEPS, generate
from nas.errors import ConfigError, NasError
from nas.failures import lacks_memory
from nas.models import decode_chunks
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.ranges import MAX_GUIDANCE, in_range

CHUNK = 8
"""Latent frames decoded at once, unless the space sets `decoder.frames`; bounds the memory of decoding."""
MAX_PIXELS = 1 << 31
"""Most pixels of a clip over all frames; more is taken for a typing error."""


class Pipeline:
    """Generates clips from prompts with a trained checkpoint.

    Args:
        checkpoint: from `nas.checkpoint.load`; its modules are moved to the device.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; default: a CUDA GPU if there is one, otherwise the CPU.

    Raises:
        ConfigError: an unknown device, or one that this machine lacks.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | None = None) -> None:
        self.checkpoint = checkpoint
        with distributed.use_device(device):
            self.to(distributed.device())

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None) -> Pipeline:
        """Load the checkpoint of a finished `finetune` or `adversarial` stage.

        Raises:
            ConfigError: a file is missing, or does not match the others, or the device is not there.
        """
        return cls(checkpoint.load(folder), device)

    def to(self, device: str | torch.device) -> Pipeline:
        """Move all models to a device; returns the pipeline."""
        self.device = device if isinstance(device, torch.device) else distributed.find_device(device)
        self.checkpoint.denoiser.to(self.device)
        self.checkpoint.autoencoder.to(self.device)
        self._text = PromptEncoder(self.checkpoint.space.text, self.device)
        return self

    @torch.inference_mode()  # 5% faster than no_grad on small models; tables are measured with it too
    def __call__(
        self,
        prompts: str | Sequence[str],
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        seconds: float | None = None,
    ) -> Clips:
        """Generate one clip per prompt.

        The same seed gives the same clips, bitwise on one machine. Clip i is generated with `seed + i` and does not
        depend on the other prompts.

        Args:
            prompts: one text, or several.
            steps: denoising steps; default: as the checkpoint was trained.
            guidance: scale of classifier-free guidance; 1 disables it, which halves the cost. Default: the
                checkpoint's.
            seed: of the noise.
            frames: length in frames, 1 + a multiple of the autoencoder's temporal compression; default: as trained. A
                longer clip is denoised in overlapping windows of the trained length, see `nas.diffusion.windows`.
            height, width: in pixels; default: as trained.
            seconds: length in seconds, rounded up to the next possible number of frames; instead of `frames`.

        Raises:
            ConfigError: no prompt, a number out of range, or not enough memory for the clip.
            NasError: the model returns NaN or infinity.
            MissingDependency: the text encoder is not installed.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts:
            raise ConfigError("prompts: the list is empty; give at least one")
        info = self.checkpoint.info
        for prompt in prompts:
            _check_text(prompt)
        steps = int(in_range(info.steps if steps is None else steps, "steps", 1, MAX_SAMPLING_STEPS))
        guidance = in_range(info.guidance if guidance is None else float(guidance), "guidance", 0, MAX_GUIDANCE)
        if seconds is not None:
            frames = self._frames_of(seconds, frames)
        shape = self._latent_shape(frames, height, width)
        context, empty = self._text(prompts), self._text([EMPTY])
        try:
            clips = [
                self._clip(context[i : i + 1], empty, shape, steps, guidance, seed + i) for i in range(len(prompts))
            ]
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise ConfigError("frames, height, width: not enough memory for this clip; reduce them") from None
        return Clips(np.concatenate(clips), prompts, self.checkpoint.clip.fps)

    def _clip(
        self, context: Tensor, empty: Tensor, shape: tuple[int, int, int, int], steps: int, guidance: float, seed: int
    ) -> np.ndarray:
        """uint8 `(1, T, H, W, C)` for one prompt."""
        denoiser, sampler = self.checkpoint.denoiser, self.checkpoint.info.sampler
        trained = self.checkpoint.space.latent.frames
        latents = generate(denoiser, context, empty, shape, steps, guidance, sampler, seed, window=trained)
        parts = []
        for part in decode_chunks(self.checkpoint.autoencoder, latents, self._chunk):
            if not torch.isfinite(part).all():
                raise NasError(
                    f"{self.checkpoint.folder}: the model returns NaN or infinity at {steps} steps and guidance "
                    f"{guidance:g}; reduce the guidance, or use another checkpoint"
                )
            parts.append(video_writer.to_uint8(part.cpu().numpy()))
        return np.concatenate(parts, axis=1)

    @property
    def _chunk(self) -> int:
        """Latent frames per decoder call: those with which the decoder was measured, if the space sets them."""
        declared = self.checkpoint.space.decoder
        return declared.frames if declared and declared.frames else CHUNK

    @cached_property
    def _multiple(self) -> int:
        """Height and width in pixels must be multiples of this: each level of both networks halves them."""
        levels = len(self.checkpoint.space.backbone.channels)
        return self.checkpoint.autoencoder.config.downsampling * 2 ** (levels - 1)

    def _frames_of(self, seconds: float, frames: int | None) -> int:
        """The fewest frames that the autoencoder can decode to and that last at least `seconds`."""
        if frames is not None:
            raise ConfigError("seconds: give either 'seconds' or 'frames'")
        vae, fps = self.checkpoint.autoencoder.config, self.checkpoint.clip.fps
        length = in_range(seconds, "seconds", 0, MAX_PIXELS / fps, above=True) * fps
        return vae.pixel_frames(vae.latent_frames(max(1, ceil(length - 1e-9))))

    def _latent_shape(self, frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        """`(C, T, h, w)` of the latents of a clip; None stands for the trained size."""
        latent, factor = self.checkpoint.space.latent, self.checkpoint.autoencoder.config.downsampling
        sizes = {"height": (height, latent.height), "width": (width, latent.width)}
        in_latents = []
        for name, (pixels, trained) in sizes.items():
            if pixels is None:
                pixels = trained * factor
            if _at_least_one(pixels, name) % self._multiple:
                nearest = max(1, round(pixels / self._multiple)) * self._multiple
                raise ConfigError(f"{name}: {pixels} is not a multiple of {self._multiple}; try {nearest}")
            in_latents.append(pixels // factor)
        vae = self.checkpoint.autoencoder.config
        length = latent.frames if frames is None else vae.latent_frames(_at_least_one(frames, "frames"))
        if frames is not None and vae.pixel_frames(length) != frames:
            raise ConfigError(
                f"frames: {frames} is not 1 + a multiple of {vae.temporal_compression}; "
                f"try {vae.pixel_frames(length - 1)} or {vae.pixel_frames(length)}"
            )
        pixels = vae.pixel_frames(length) * in_latents[0] * in_latents[1] * factor**2
        if pixels > MAX_PIXELS:
            raise ConfigError(f"frames, height, width: {pixels:.3g} pixels are too many for one clip; reduce them")
        return latent.channels, length, in_latents[0], in_latents[1]


def _at_least_one(value: int, name: str) -> int:
    return int(in_range(value, name, 1))


def _check_text(prompt: str) -> None:
    """Check for lone surrogates, which a terminal with another encoding produces.

    Raises:
        ConfigError: the prompt is not valid Unicode.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"prompts: character {error.start + 1} of {prompt!a} is not valid Unicode; type it again"
        ) from None
