"""Stage `finetune`: all weights of the chosen architecture, on images and clips jointly.

Metrics: `validation_loss` before and after, and on moving digits `quality`: a list of Frechet distance and accuracies
at each number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.data.batches import Batches, held_out
from nas.diffusion.losses import batch_loss, validation_loss
from nas.diffusion.predictions import get_objective
from nas.diffusion.sampling import MAX_GUIDANCE, MAX_SAMPLING_STEPS
from nas.errors import ConfigError
from nas.metrics.evaluation import examine
from nas.ranges import check_range
from nas.spaces import Architecture
from nas.training.execution import Compute
from nas.training.learner import Learner, Optimization
from nas.training.loop import run
from nas.training.previews import Grids, Watch
from nas.training.stage import Inputs, finished, must_be_finite
from nas.training.stages import supernet


@dataclass(frozen=True)
class FinetuneConfig:
    """Config of the stage.

    Attributes:
        batch, images: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        drop: share of captions emptied for guidance.
        guidance: scale of classifier-free guidance when clips are generated.
        judged_steps, judged_clips: at which numbers of steps, and on how many generated clips, quality is measured.
        validation: held-out clips for the validation loss.
    """

    steps: int = 450
    batch: int = 16
    images: int = 64
    image_share: float = 0.3
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=2e-3))
    drop: float = 0.1
    guidance: float = 2.0
    judged_steps: tuple[int, ...] = (1, 2, 4, 25)
    judged_clips: int = 160
    validation: int = 128
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "images", "validation", "judged_clips", "save_every"), 1)
        check_range(self, ("image_share", "drop"), 0, 1)
        check_range(self, ("guidance",), 0, MAX_GUIDANCE)
        check_range(self, ("judged_steps",), 1, MAX_SAMPLING_STEPS)


def finetune(folder: Path, config: FinetuneConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    source = finished(inputs.decoder, "decoder")
    if inputs.architecture is None:
        raise ConfigError("finetune: needs an architecture; give the one that the search chose")
    arch = inputs.space.check(inputs.architecture)
    torch.manual_seed(config.seed)
    denoiser = supernet.denoiser_from(inputs.start, inputs)
    latents, contexts = held_out(source, config.validation)
    before = validation_loss(denoiser, latents, contexts)
    learner, seconds = joint("finetune", folder, denoiser, source, config, inputs.compute, inputs.watch)
    denoiser = learner.result()
    if not distributed.is_main():
        return {}, seconds
    after = must_be_finite(validation_loss(denoiser, latents, contexts), "finetune: validation_loss")
    write(folder, denoiser, source, config, inputs, arch, seconds)
    shape = inputs.space.input_shape()[1:]
    return {
        "validation_loss_before": before,
        "validation_loss": after,
        "quality": examine(
            "finetune", folder, source, denoiser, shape, config.judged_steps, config.guidance, config.judged_clips
        ),
    }, seconds


def joint(
    title: str,
    folder: Path,
    denoiser: nn.Module,
    source: Path,
    config: FinetuneConfig,
    compute: Compute | None = None,
    watch: Watch | None = None,
) -> tuple[Learner, float]:
    """Train all weights on images and clips; the adversarial stage's control is this as well."""
    denoiser.requires_grad_(True)
    learner = Learner(denoiser, config.optimization, config.steps, compute=compute, called=True)
    asked, grids = get_objective(denoiser), Grids(watch or Watch(), folder, source, config.guidance)
    batches = Batches(source, config.seed, config.batch, config.images, config.image_share, config.drop, asked)

    def step(number: int) -> dict[str, float]:
        batch = batches.joint(number)
        row = learner.descend(lambda part: batch_loss(learner.model, part), batch, number)
        return {**row, "frames": batch.latents.shape[2], **grids(denoiser, number + 1)}

    return learner, run(title, folder, config.steps, {"denoiser": learner}, step, config.save_every)


def write(
    folder: Path,
    denoiser: nn.Module,
    source: Path,
    config: FinetuneConfig,
    inputs: Inputs,
    arch: Architecture,
    seconds: float,
) -> None:
    info = checkpoint.CheckpointInfo(
        "finetune",
        steps=25,
        guidance=config.guidance,
        text_encoder=inputs.space.text.encoder,
        **checkpoint.prediction(denoiser),
        provenance={
            "training_steps": config.steps,
            "seconds": seconds,
            "seed": config.seed,
            "table_hash": inputs.table,
        },
    )
    checkpoint.save(folder, denoiser.state_dict(), inputs.space, arch, source, info)
