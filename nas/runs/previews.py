"""Preview clips of a finished stage: one clip per caption, side by side, as GIF and MP4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nas import checkpoint, distributed
from nas.data import video_writer
from nas.diffusion.sampling import generate
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.spaces import Architecture
from nas.training.stage import Inputs
from nas.training.stages import supernet

SUPERNET_GUIDANCE = 2.0


def write_previews(
    folder: Path, inputs: Inputs, arch: Architecture, captions: Sequence[str], steps: int, seed: int = 0
) -> tuple[Path, Path]:
    """Generate preview clips and write them to `folder` as `STEPS-steps.gif` and `.mp4`.

    Args:
        inputs: its `start` is the stage's folder: of `supernet`, from which `arch` is extracted, or of a stage with a checkpoint.
        steps: number of denoising steps.

    Returns:
        Paths of the GIF and the MP4.
    """
    with distributed.use_device(inputs.execution.device):
        device = distributed.device()
    denoiser, guidance, sampler = _model(inputs, arch)
    denoiser.to(device)
    context = PromptEncoder(inputs.space.text, device)([EMPTY, *captions])
    shape = inputs.space.input_shape()[1:]
    latents = generate(denoiser, context[1:], context[:1], shape, steps, guidance, sampler, seed)
    fps = checkpoint.data_fps(inputs.decoder, inputs.space.clip.fps)
    clips = checkpoint.load_autoencoder(inputs.decoder).to(device).decode(latents.to(device)).cpu()
    grid = video_writer.enlarge(video_writer.tile(video_writer.to_uint8(clips.numpy()), columns=len(captions)))
    return tuple(video_writer.save(folder / f"{steps}-steps{suffix}", grid, fps) for suffix in (".gif", ".mp4"))


def _model(inputs: Inputs, arch: Architecture) -> tuple[nn.Module, float, str]:
    """The stage's denoiser, its guidance scale and its sampler."""
    if (inputs.start / supernet.WEIGHTS).exists():
        return supernet.load(inputs.start, inputs).extract(arch), SUPERNET_GUIDANCE, "euler"
    loaded = checkpoint.load(inputs.start)
    return loaded.denoiser, loaded.info.guidance, loaded.info.sampler
