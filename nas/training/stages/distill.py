"""Stage `distill`: trains the spatial backbone on images, optionally distilling it from a larger teacher.

Images have T = 1, for which temporal layers are skipped. For the losses with a teacher see `nas.training.teacher`.
Metrics: `validation_loss` on held-out frames, and with a teacher `teacher_loss` on the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas import distributed
from nas.config import renamed
from nas.data.batches import Batch, Batches, held_out
from nas.data.latent_cache import LatentCache
from nas.diffusion.losses import batch_losses, validation_loss
from nas.files import local_or_hub
from nas.models import build, safetensors_io
from nas.models.diffusers_checkpoint import load_spatial_weights
from nas.ranges import check_range
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.stage import Inputs, check_finite, require_finished
from nas.training.teacher import Student, distillation_losses, load_teacher, teacher_loss


@dataclass(frozen=True)
class DistillConfig:
    """Config of the stage.

    Attributes:
        batch: images per step.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        teacher: a larger backbone: the folder of a checkpoint of this library or of diffusers, or a Hub name; None: no
            distillation.
        pruned: a folder that `nas prune` wrote, whose weights are the initial ones; None: random initialization. Both
            folders are relative to the file that names them.
        output_weight, feature_weight: weights of the teacher losses relative to the task loss; both 1 in BK-SDM.
    """

    steps: int = 300
    batch: int = 64
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=2e-3))
    caption_dropout: float = renamed("drop", default=0.1)
    validation: int = 128
    save_every: int = 100
    seed: int = 0
    teacher: str | None = None
    pruned: str | None = None
    output_weight: float = 1.0
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "validation", "save_every"), 1)
        check_range(self, ("caption_dropout",), 0, 1)
        check_range(self, ("output_weight", "feature_weight"), 0)


def distill(folder: Path, config: DistillConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    source = require_finished(inputs.decoder, "decoder")
    torch.manual_seed(config.seed)
    backbone = build(inputs.space, inputs.space.architecture({}))
    if config.pruned is not None:  # it keeps the text embedding of the original, which needs no fitting
        load_spatial_weights(backbone, inputs.path(config.pruned))
    elif backbone.text_embedding is not None:
        backbone.text_embedding.fit(LatentCache(source / "train").all_contexts())
    backbone.objective = inputs.objective
    teacher = (
        None if config.teacher is None else load_teacher(local_or_hub(config.teacher, inputs.path(".")), inputs.space)
    )
    trained = backbone if teacher is None else Student(backbone, teacher)
    learner = Learner(trained, config.optimization, config.steps, execution=inputs.execution, use_ddp=True)
    batches = Batches(source, config.seed, 0, config.batch, 1.0, config.caption_dropout, inputs.objective)
    batch_of = batches.ahead(inputs.execution.loaders(learner.device))

    def step(number: int) -> dict[str, float]:
        batch = batch_of(number)
        if teacher is None:
            return learner.train_step(lambda part: batch_losses(learner.model, part), batch, number)

        def loss(part: Batch) -> dict[str, Tensor]:
            values = distillation_losses(learner.model, teacher, part)
            weighted = config.output_weight * values["output"] + config.feature_weight * values["features"]
            return {"loss": values["task"] + weighted, **values}

        return learner.train_step(loss, batch, number)

    seconds = run("distill", folder, config.steps, {"backbone": learner}, step, config.save_every)
    trained = learner.result()
    backbone = trained if teacher is None else trained.denoiser
    if not distributed.is_main():
        return {}, seconds
    latents, contexts = held_out(source, config.validation)
    loss = validation_loss(backbone, latents[:, :, :1], contexts)
    metrics = {"validation_loss": check_finite(loss, "distill: validation_loss")}
    if teacher is not None:
        metrics["teacher_loss"] = teacher_loss(backbone, teacher, latents[:, :, :1], contexts)
    safetensors_io.save(folder / "denoiser.safetensors", backbone.state_dict())
    return metrics, seconds
