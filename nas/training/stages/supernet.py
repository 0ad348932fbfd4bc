"""Stage `supernet`: single-path training of every operator in every slot, on images and clips jointly.

Each step trains one path. Paths are sampled in fair rounds (FairNAS, arXiv 1907.01845): in a round, every choice of
every slot is trained once. Metric: `validation_loss`, the mean over a fixed set of random paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas import distributed
from nas.config import renamed
from nas.data.batches import Batches, held_out
from nas.diffusion.losses import batch_losses, validation_losses
from nas.models import Denoiser, Supernet, build, fair_round, safetensors_io
from nas.models.safetensors_io import load_into
from nas.ranges import check_range
from nas.spaces import Architecture
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization
from nas.training.stage import Inputs, check_finite, require_finished

WEIGHTS = "supernet.safetensors"


@dataclass(frozen=True)
class SupernetConfig:
    """Config of the stage.

    Attributes:
        batch, image_batch_size: clips in a video step, images in an image step.
        image_share: share of steps that are image steps; these train the spatial backbone only.
        spatial_rate: learning rate of the spatial backbone relative to that of the temporal layers; 0 freezes it.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        validation: held-out clips for the validation loss of `paths` random paths.
    """

    steps: int = 400
    batch: int = 16
    image_batch_size: int = renamed("images", default=64)
    image_share: float = 0.1
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=2e-3))
    spatial_rate: float = 0.25
    caption_dropout: float = renamed("drop", default=0.1)
    validation: int = 64
    paths: int = 4
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("steps", "batch", "image_batch_size", "validation", "paths", "save_every"), 1)
        check_range(self, ("image_share", "caption_dropout"), 0, 1)
        check_range(self, ("spatial_rate",), 0)


def supernet(folder: Path, config: SupernetConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    """The stage function; see the module's docstring."""
    source, start = require_finished(inputs.decoder, "decoder"), require_finished(inputs.start, "distill")
    torch.manual_seed(config.seed)
    model = Supernet(inputs.space)
    load_into(model, start / "denoiser.safetensors", optional=["temporal."])
    model.objective = inputs.objective

    def spatial(name: str) -> bool:
        return not name.startswith("temporal.")

    learner = Learner(
        model,
        config.optimization,
        config.steps,
        slow=spatial,
        slow_rate=config.spatial_rate,
        trained=lambda name: config.spatial_rate > 0 or not spatial(name),
        execution=inputs.execution,
    )
    image_share = config.image_share if config.spatial_rate > 0 else 0.0
    batches = Batches(
        source,
        config.seed,
        config.batch,
        config.image_batch_size,
        image_share,
        config.caption_dropout,
        inputs.objective,
    )
    batch_of, rounds = batches.ahead(inputs.execution.loaders(learner.device)), fair_paths(inputs, config.seed)

    def step(number: int) -> dict[str, float]:
        batch = batch_of(number)
        row = learner.train_step(lambda part: batch_losses(learner.model, part, rounds(number)), batch, number)
        return {**row, "frames": batch.latents.shape[2]}

    seconds = run("supernet", folder, config.steps, {"supernet": learner}, step, config.save_every)
    model = learner.result()
    if not distributed.is_main():
        return {}, seconds
    latents, contexts = held_out(source, config.validation)
    losses = validation_losses(model, latents, contexts, [inputs.space.random(path) for path in range(config.paths)])
    metrics = {"validation_loss": check_finite(float(np.mean(losses)), "supernet: validation_loss")}
    safetensors_io.save(folder / WEIGHTS, model.state_dict())
    return metrics, seconds


def fair_paths(inputs: Inputs, seed: int) -> Callable[[int], Architecture]:
    """A function from the step to its path; each fair round is a function of (seed, number of the round)."""
    length = max(map(len, inputs.space.slots.values()))

    @lru_cache(maxsize=2)
    def round_of(number: int) -> list[Architecture]:
        return fair_round(inputs.space, np.random.default_rng((seed, number)))

    return lambda step: round_of(step // length)[step % length]


def load(folder: Path, inputs: Inputs) -> Supernet:
    """The trained supernet of a finished stage, in evaluation mode."""
    model = Supernet(inputs.space)
    load_into(model, require_finished(folder, "supernet") / WEIGHTS)
    model.objective = inputs.objective
    return model.eval().requires_grad_(False)


def denoiser_from(folder: Path | None, inputs: Inputs) -> Denoiser:
    """The denoiser of `inputs.architecture` in training mode, with the weights of a finished stage.

    From a `supernet` stage it has the supernet's weights; from a `distill` stage the spatial backbone's, with temporal
    layers whose output is zero-initialized.
    """
    folder = require_finished(folder, "supernet")
    if (folder / WEIGHTS).exists():
        denoiser = load(folder, inputs).extract(inputs.architecture)
    else:
        denoiser = build(inputs.space, inputs.architecture)
        load_into(denoiser, folder / "denoiser.safetensors", optional=["temporal."])
    denoiser.objective = inputs.objective
    return denoiser.train()
