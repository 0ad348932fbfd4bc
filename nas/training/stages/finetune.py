"""Stage `finetune`: trains the chosen architecture on images and clips jointly: all weights, or LoRA's additions to them.

Metrics: `validation_loss_before`, `validation_loss`, and for moving digits `quality`: Frechet distance and accuracies at
each number of steps in `eval_steps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.config import renamed
from nas.data.batches import Batches, held_out
from nas.diffusion.losses import batch_losses, validation_loss
from nas.diffusion.predictions import Objective, get_objective
from nas.diffusion.sampling import MAX_SAMPLING_STEPS
from nas.errors import ConfigError
from nas.files import local_or_hub
from nas.metrics.evaluation import evaluate_denoiser
from nas.models import Denoiser, build
from nas.models.diffusers_checkpoint import checkpoint_folder, load_spatial_weights
from nas.models.lora import add_lora, is_lora, merge_lora
from nas.models.safetensors_io import load_into
from nas.ranges import MAX_GUIDANCE, check_range
from nas.spaces import Architecture
from nas.training.execution import ExecutionConfig
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.previews import PreviewConfig, PreviewWriter
from nas.training.stage import Inputs, check_finite, require_finished
from nas.training.stages import supernet


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank additions to linear layers, which are trained instead of all weights and merged into them at the end.

    Attributes:
        rank: of the additions; `alpha / rank` is their scale.
        targets: `attention`: its linear layers; `linear`: all linear layers.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: Literal["attention", "linear"] = "attention"

    def __post_init__(self) -> None:
        check_range(self, ("rank",), 1, 4096)
        check_range(self, ("alpha",), 0, above=True)


@dataclass(frozen=True)
class FinetuneConfig:
    """Config of the stage.

    Attributes:
        start: what to start from instead of the stage before: a checkpoint of this library with the same architecture, the
            folder of a stage, or a checkpoint of diffusers (a folder or Hub name), which gives the spatial layers.
        lora: train low-rank additions instead of all weights.
        batch, image_batch_size: clips in a video step, images in an image step; `image_share` of the steps are image steps.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        guidance: scale of classifier-free guidance when clips are generated.
        eval_steps: numbers of denoising steps at which quality is measured.
        eval_clips: number of generated clips it is measured on.
        validation: held-out clips for the validation loss.
        validate_every: interval in steps at which the history gets the `validation_loss` of the EMA weights; 0 for only at
            the end, in the metrics.
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
    validate_every: int = 0
    save_every: int = 100
    seed: int = 0
    start: str | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "image_batch_size", "validation", "eval_clips", "save_every"), 1)
        check_range(self, ("validate_every",), 0)
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
    start = inputs.start if config.start is None else local_or_hub(config.start, inputs.path("."))
    denoiser = supernet.denoiser_from(start, inputs) if config.start is None else denoiser_from_any(start, inputs)
    latents, contexts = held_out(source, config.validation)
    denoiser.to(distributed.device())
    before = validation_loss(denoiser, latents, contexts) if distributed.is_main() else math.nan
    learner, seconds = train_jointly("finetune", folder, denoiser, source, config, inputs.execution, inputs.previews)
    denoiser = learner.result()
    if not distributed.is_main():
        return {}, seconds
    merge_lora(denoiser)
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


def denoiser_from_any(folder: str | Path, inputs: Inputs) -> Denoiser:
    """The denoiser of `inputs.architecture` in training mode, with the weights of a checkpoint; see `FinetuneConfig.start`.

    Raises:
        ConfigError: the checkpoint is of another architecture or objective, or none.
    """
    folder = Path(folder)
    if (folder / "result.json").exists() and not (folder / "checkpoint.json").exists():
        return supernet.denoiser_from(folder, inputs)
    denoiser = build(inputs.space, inputs.architecture)
    if (folder / "checkpoint.json").exists():
        loaded = checkpoint.load(folder)
        different = [
            f
            for f in fields(Objective)
            if getattr(loaded.denoiser.objective, f.name) != getattr(inputs.objective, f.name)
        ]
        if different:
            value = getattr(loaded.denoiser.objective, different[0].name)
            raise ConfigError(
                f"finetune.start: {folder} was trained with objective.{different[0].name}: {value}; set the same"
            )
        described = "the search space and the architecture to train"
        load_into(denoiser, folder / "denoiser.safetensors", described=described)
    else:
        load_spatial_weights(denoiser, checkpoint_folder(folder))
    denoiser.objective = inputs.objective
    return denoiser.train()


def train_jointly(
    title: str,
    folder: Path,
    denoiser: nn.Module,
    source: Path,
    config: FinetuneConfig,
    execution: ExecutionConfig | None = None,
    previews: PreviewConfig | None = None,
) -> tuple[Learner, float]:
    """Train on images and clips; also used for the control of the `adversarial` stage.

    Args:
        title: of the progress bar and the warnings.
        source: the folder of the finished `decoder` stage.

    Returns:
        The learner after the last step, and the seconds spent.
    """
    denoiser.requires_grad_(True)
    options = {"execution": execution, "use_ddp": True, "unused": config.image_share > 0}  # images skip temporal layers
    if config.lora is not None:
        if not add_lora(denoiser, config.lora.rank, config.lora.alpha, config.lora.targets == "attention"):
            raise ConfigError("finetune.lora: this architecture has no such layers; train all weights")
        options["trained"] = is_lora
    learner = Learner(denoiser, config.optimization, config.steps, **options)
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
    batch_of = batches.ahead(learner.execution.loaders(learner.device))
    held = held_out(source, config.validation) if config.validate_every else None

    def validate(steps_done: int) -> dict[str, float]:
        """`validation_loss` after this step: NaN between intervals; {} if it is not asked for."""
        if held is None:
            return {}
        if steps_done % config.validate_every and steps_done != config.steps:
            return {"validation_loss": math.nan}
        with learner.ema_weights():
            return {"validation_loss": validation_loss(learner.module, *held)}

    def step(number: int) -> dict[str, float]:
        batch = batch_of(number)
        row = learner.train_step(lambda part: batch_losses(learner.model, part), batch, number)
        watched = {**validate(number + 1), **preview_writer(denoiser, number + 1)}
        return {**row, "frames": batch.latents.shape[2], **watched}

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
