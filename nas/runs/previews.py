"""Sample grids of a finished stage, to look at: one clip per caption, side by side, as GIF and MP4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nas import checkpoint
from nas.data import video
from nas.metrics.evaluation import generate
from nas.models.text_encoder import EMPTY, TextEncoder
from nas.spaces import Architecture
from nas.training.stage import Inputs
from nas.training.stages import supernet

SUPERNET_GUIDANCE = 2.0


def write_samples(
    folder: Path, inputs: Inputs, arch: Architecture, captions: Sequence[str], steps: int, seed: int = 0
) -> tuple[Path, Path]:
    """Generate and write `STEPS-steps.gif` and `.mp4` into `folder`.

    Args:
        inputs: its `start` is the stage to look at: `supernet` (the path of `arch`), or one that wrote a checkpoint.
        steps: denoising steps.

    Returns:
        The GIF and the MP4.
    """
    denoiser, guidance, sampler = _model(inputs, arch)
    context = TextEncoder(inputs.space.text)([EMPTY, *captions])
    shape = inputs.space.input_shape()[1:]
    latents = generate(denoiser, context[1:], context[:1], shape, steps, guidance, sampler, seed)
    clips = video.to_uint8(checkpoint.load_autoencoder(inputs.decoder).decode(latents).numpy())
    grid = video.enlarge(video.tile(clips, columns=len(captions)))
    return tuple(video.save(folder / f"{steps}-steps{suffix}", grid) for suffix in (".gif", ".mp4"))


def _model(inputs: Inputs, arch: Architecture) -> tuple[nn.Module, float, str]:
    """The stage's denoiser, its guidance scale and its sampler."""
    if (inputs.start / supernet.WEIGHTS).exists():
        return supernet.load(inputs.start, inputs).extract(arch), SUPERNET_GUIDANCE, "euler"
    there = checkpoint.load(inputs.start)
    return there.denoiser, there.info.guidance, there.info.sampler
