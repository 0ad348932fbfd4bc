"""Text to video: a checkpoint folder, and prompts in; frames, MP4 or GIF out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas import checkpoint
from nas.checkpoint import Checkpoint
from nas.data import video_writer
from nas.diffusion.sampling import MAX_GUIDANCE, MAX_SAMPLING_STEPS, generate
from nas.errors import ConfigError, NasError
from nas.failures import lacks_memory
from nas.models import Autoencoder
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.ranges import in_range

CHUNK = 8
"""Latent frames that are decoded at once where the space's `decoder.frames` does not say: what bounds the decoder's
memory, however long a clip is."""
MAX_SCALE = 64
MAX_PIXELS = 1 << 31
"""Of a clip, all frames together: more is taken for a typing error."""


@dataclass(frozen=True)
class Clips:
    """Generated clips.

    Attributes:
        frames: uint8 `(N, T, H, W, C)`.
        prompts: one per clip.
        fps: frames per second at which `save` writes them.
    """

    frames: np.ndarray
    prompts: tuple[str, ...]
    fps: float = video_writer.FPS

    def __len__(self) -> int:
        return len(self.frames)

    def save(self, path: str | Path, tiled: bool = False, scale: int = 1) -> list[Path]:
        """Write each clip at its own size as `.mp4`, `.gif`, or, without a suffix, a folder of PNG.

        One clip goes to `path`, several to `NAME-1.SUFFIX`, `NAME-2.SUFFIX`, ... beside it.

        Args:
            tiled: put several clips side by side into one instead.
            scale: repeat every pixel so often in height and width, for looking at small clips.

        Returns:
            What was written.

        Raises:
            ConfigError: another suffix, or a place that cannot be written.
        """
        in_range(scale, "scale", 1, MAX_SCALE)
        frames = video_writer.tile(self.frames)[None] if tiled and len(self) > 1 else self.frames
        frames = frames.repeat(scale, axis=2).repeat(scale, axis=3)
        paths = numbered(path, len(frames))
        return [video_writer.save(path, clip, self.fps) for path, clip in zip(paths, frames)]


def numbered(path: str | Path, count: int) -> list[Path]:
    """The path itself for one clip, `NAME-1.SUFFIX`, `NAME-2.SUFFIX`, ... for several."""
    path = Path(path)
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


class Pipeline:
    """Prompts to clips with a trained checkpoint.

    Args:
        checkpoint: as `nas.checkpoint.load` gives it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._text = PromptEncoder(checkpoint.space.text)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Pipeline:
        """Load the checkpoint that a finished `finetune` or `adversarial` stage left in `folder`.

        Raises:
            ConfigError: a file is missing, or does not fit the others.
        """
        return cls(checkpoint.load(folder))

    @torch.inference_mode()  # a twentieth faster than no_grad on small models, and what tables are measured in
    def __call__(
        self,
        prompts: str | Sequence[str],
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Clips:
        """Generate one clip per prompt.

        The same seed gives the same clips, bit for bit on one machine. Clip i is what its prompt alone gives at
        `seed + i`, so it does not depend on the other prompts.

        Args:
            steps: denoising steps; by default those the checkpoint was trained for.
            guidance: scale of classifier-free guidance; 1 is none, and halves the work. Default: the checkpoint's.
            frames: length T; by default as trained. Any length will do, at rising cost.
            height, width: in pixels; by default as trained.

        Raises:
            ConfigError: no prompt, a number that makes no clip, or a clip that memory does not suffice for.
            NasError: the model gives NaN or infinity for these prompts.
            MissingDependency: the text encoder is not installed.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts:
            raise ConfigError("prompts: there are none; give at least one")
        info = self.checkpoint.info
        for prompt in prompts:
            _check_text(prompt)
        steps = int(in_range(info.steps if steps is None else steps, "steps", 1, MAX_SAMPLING_STEPS))
        guidance = in_range(info.guidance if guidance is None else float(guidance), "guidance", 0, MAX_GUIDANCE)
        shape = self._latent_shape(frames, height, width)
        context, empty = self._text(prompts), self._text([EMPTY])
        try:
            made = [
                self._clip(context[i : i + 1], empty, shape, steps, guidance, seed + i) for i in range(len(prompts))
            ]
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise ConfigError(
                "frames, height, width: the memory does not suffice for this clip; ask for less"
            ) from None
        return Clips(np.concatenate(made), prompts)

    def _clip(
        self, context: Tensor, empty: Tensor, shape: tuple[int, int, int, int], steps: int, guidance: float, seed: int
    ) -> np.ndarray:
        """uint8 `(1, T, H, W, C)` for one prompt."""
        denoiser, sampler = self.checkpoint.denoiser, self.checkpoint.info.sampler
        latents = generate(denoiser, context, empty, shape, steps, guidance, sampler, seed)
        parts = []
        for part in decode(self.checkpoint.autoencoder, latents, self._chunk):
            if not torch.isfinite(part).all():
                raise NasError(
                    f"{self.checkpoint.folder}: the model gives NaN or infinity at {steps} steps and guidance "
                    f"{guidance:g}, and so no clip; give less guidance, or another checkpoint"
                )
            parts.append(video_writer.to_uint8(part.numpy()))
        return np.concatenate(parts, axis=1)

    @property
    def _chunk(self) -> int:
        """As many frames as the cost model's decoder row was measured with."""
        declared = self.checkpoint.space.decoder
        return declared.frames if declared and declared.frames else CHUNK

    @cached_property
    def _multiple(self) -> int:
        """Height and width in pixels must be a multiple of this: each level of both networks halves them."""
        levels = len(self.checkpoint.space.backbone.channels)
        return self.checkpoint.autoencoder.config.downsampling * 2 ** (levels - 1)

    def _latent_shape(self, frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int, int]:
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
        length = latent.frames if frames is None else _at_least_one(frames, "frames")
        pixels = length * in_latents[0] * in_latents[1] * factor**2
        if pixels > MAX_PIXELS:
            raise ConfigError(f"frames, height, width: {pixels:.3g} pixels are too many for one clip; ask for less")
        return latent.channels, length, in_latents[0], in_latents[1]


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """`autoencoder.decode` of latents `(B, C, T, h, w)` in parts of at most `chunk` frames each.

    The decoder's temporal convolutions look back only, at most two frames, which are carried from part to part: the
    parts together are the whole, and memory does not grow with T.
    """
    if latents.shape[2] <= chunk:
        yield autoencoder.decode(latents)
        return
    past: dict = {}
    for part in (latents / autoencoder.scaling_factor).split(chunk, dim=2):
        yield autoencoder.decode_unscaled(part, past)


def _at_least_one(value: int, name: str) -> int:
    return int(in_range(value, name, 1))


def _check_text(prompt: str) -> None:
    """A terminal in another encoding gives characters that no encoder knows (lone surrogates).

    Raises:
        ConfigError: it did.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"prompts: character {error.start + 1} of {prompt!a} is no text; type it again") from None
