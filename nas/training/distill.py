"""Stage `distill`: the spatial backbone, on images.

There is no teacher yet: this is the plain flow-matching objective on images (T = 1), which skips temporal layers. Metric: `validation_loss`
on held-out frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nas.models import build
from nas.training import distributed, objective, tensors
from nas.training.batches import Batches, held_out
from nas.training.cache import Cache
from nas.training.loop import Learner, Optimization, run
from nas.training.objective import validation_loss
from nas.training.stage import Inputs, finished


@dataclass(frozen=True)
class DistillConfig:
    """Config of the stage. `batch` counts images, `drop` is the share of captions emptied for guidance."""

    steps: int = 300
    batch: int = 64
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=2e-3))
    drop: float = 0.1
    validation: int = 128
    save_every: int = 100
    seed: int = 0


def distill(folder: Path, config: DistillConfig, inputs: Inputs) -> tuple[dict[str, Any], float]:
    source = finished(inputs.decoder, "decoder")
    torch.manual_seed(config.seed)
    backbone = build(inputs.space, inputs.space.architecture({}))
    if backbone.text_embedding is not None:
        backbone.text_embedding.fit(Cache(source / "train").all_contexts())
    backbone.objective = inputs.objective
    learner = Learner(backbone, config.optimization, config.steps, compute=inputs.compute, called=True)
    batches = Batches(source, config.seed, 0, config.batch, drop=config.drop, objective=inputs.objective)

    def step(number: int) -> dict[str, float]:
        batch = batches.of_images(number)
        return learner.descend(lambda part: objective.of_batch(learner.model, part), batch, number)

    seconds = run("distill", folder, config.steps, {"backbone": learner}, step, config.save_every)
    backbone = learner.result()
    if not distributed.is_main():
        return {}, seconds
    tensors.save(folder / "denoiser.safetensors", backbone.state_dict())
    latents, contexts = held_out(source, config.validation)
    return {"validation_loss": validation_loss(backbone, latents[:, :, :1], contexts)}, seconds
