"""Stage `finetune`: trains all weights of the chosen architecture on images and clips jointly.

Metrics: `validation_loss_before`, `validation_loss`, and for moving digits `quality`: Frechet distance and accuracies at
each number of steps in `eval_steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.config import renamed
from nas.data.batches import Batches, held_out
from nas.diffusion.losses import batch_loss, validation_loss
from nas.diffusion.predictions import get_objective
from nas.diffusion.sampling import MAX_SAMPLING_STEPS
from nas.errors import ConfigError
from nas.metrics.evaluation import evaluate_denoiser
from nas.ranges import MAX_GUIDANCE, check_range
from nas.spaces import Architecture
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner, Optimization
from nas.training.loop import run
from nas.training.previews import PreviewConfig, PreviewWriter
from nas.training.stage import Inputs, check_finite, require_finished
from nas.training.stages import supernet


@dataclass(frozen=True)
class FinetuneConfig:
    """Config of the stage.

    Attributes:
        batch, image_batch_size: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        guidance: scale of classifier-free guidance when clips are generated.
        eval_steps: numbers of denoising steps at which quality is measured.
        eval_clips: number of generated clips it is measured on.
        validation: held-out clips for the validation loss.
    """

    steps: int = 450
    batch: int = 16
    image_batch_size: int = renamed("images", default=64)
    image_share: float = 0.3
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=2e-3))
    caption_dropout: float = renamed("drop", default=0.1)
    guidance: float = 2.0
    eval_steps: tuple[int, ...] = renamed("judged_steps", default=(1, 2, 4, 25))
    eval_clips: int = renamed("judged_clips", default=160)
    validation: int = 128
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "image_batch_size", "validation", "eval_clips", "save_every"), 1)
        check_range(self, ("image_share", "caption_dropout"), 0, 1)
        check_range(self, ("guidance",), 0, MAX_GUIDANCE)
        check_range(self, ("eval_steps",), 1, MAX_SAMPLING_STEPS)


def finetune(folder: Path, config: FinetuneConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    source = require_finished(inputs.decoder, "decoder")
    if inputs.architecture is None:
        raise ConfigError("finetune: needs an architecture; give the result of the search")
    arch = inputs.space.check(inputs.architecture)
    torch.manual_seed(config.seed)
    denoiser = supernet.denoiser_from(inputs.start, inputs)
    latents, contexts = held_out(source, config.validation)
    denoiser.to(distributed.device())
    before = validation_loss(denoiser, latents, contexts) if distributed.is_main() else math.nan
    learner, seconds = train_jointly("finetune", folder, denoiser, source, config, inputs.execution, inputs.previews)
    denoiser = learner.result()
    if not distributed.is_main():
        return {}, seconds
    after = check_finite(validation_loss(denoiser, latents, contexts), "finetune: validation_loss")
    _save_checkpoint(folder, denoiser, source, config, inputs, arch, seconds)
    shape = inputs.space.input_shape()[1:]
    return {
        "validation_loss_before": before,
        "validation_loss": after,
        "quality": evaluate_denoiser(
            "finetune", folder, source, denoiser, shape, config.eval_steps, config.guidance, config.eval_clips
        ),
    }, seconds


def train_jointly(
    title: str,
    folder: Path,
    denoiser: nn.Module,
    source: Path,
    config: FinetuneConfig,
    execution: ExecutionConfig | None = None,
    previews: PreviewConfig | None = None,
) -> tuple[Learner, float]:
    """Train all weights on images and clips; also used for the control of the `adversarial` stage.

    Args:
        title: of the progress bar and the warnings.
        source: the folder of the finished `decoder` stage.

    Returns:
        The learner after the last step, and the seconds spent.
    """
    denoiser.requires_grad_(True)
    learner = Learner(denoiser, config.optimization, config.steps, execution=execution, use_ddp=True)
    preview_writer = PreviewWriter(previews or PreviewConfig(), folder, source, config.guidance)
    batches = Batches(
        source,
        config.seed,
        config.batch,
        config.image_batch_size,
        config.image_share,
        config.caption_dropout,
        get_objective(denoiser),
    )

    def step(number: int) -> dict[str, float]:
        batch = batches.joint(number)
        row = learner.train_step(lambda part: batch_loss(learner.model, part), batch, number)
        return {**row, "frames": batch.latents.shape[2], **preview_writer(denoiser, number + 1)}

    return learner, run(title, folder, config.steps, {"denoiser": learner}, step, config.save_every)


def _save_checkpoint(
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
