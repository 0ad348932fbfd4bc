"""Pruning of a diffusers checkpoint to a search space's backbone (`nas prune`).

It writes `unet/` in the format of diffusers, from which distillation starts, and a report of what was removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from nas import distributed
from nas.costs import LookupTable
from nas.data.batches import Batches
from nas.diffusion.predictions import Objective, add_noise, model_input
from nas.diffusion.scheduler_config import scheduler_objective
from nas.errors import ConfigError, suggestion
from nas.files import write_atomic, write_json
from nas.locks import output_lock
from nas.models import UNet
from nas.models.diffusers_checkpoint import checkpoint_folder, load_unet, save_unet
from nas.pruning.blocks import prune
from nas.pruning.report import PruningReport, report
from nas.spaces import SearchSpace
from nas.training.stage import require_finished

Importance = Literal["norm", "taylor"]
IMPORTANCE = get_args(Importance)


@dataclass(frozen=True)
class PruningData:
    """The latents and captions that channels are scored on: one batch of a finished `decoder` or `nas prepare` folder."""

    folder: Path
    images: int = 8
    seed: int = 0


def prune_checkpoint(
    checkpoint: str | Path,
    space: SearchSpace,
    out: str | Path,
    importance: Importance = "norm",
    calibration: PruningData | None = None,
    table: LookupTable | None = None,
    device: str | None = None,
) -> PruningReport:
    """Prune a checkpoint's UNet to `space.backbone`; writes `out/unet/`, `out/report.txt` and `out/report.json`.

    Args:
        checkpoint: a diffusers folder, or a Hub name.
        importance: `norm` of the weights, or `taylor`: first-order effect on the distance to the original's output.
        calibration: the data that `taylor` requires.
        table: a lookup table, for the latency of both backbones if it has them.
        device: as in `nas.distributed.use_device`.

    Raises:
        ConfigError: a file is missing or does not match, or the backbone is not contained in the checkpoint's.
    """
    if importance not in IMPORTANCE:
        raise ConfigError(f"importance: unknown importance '{importance}'{suggestion(importance, IMPORTANCE)}")
    if space.backbone is None:
        raise ConfigError(f"search space '{space.name}' is cost-only and has no backbone to prune to")
    with distributed.use_device(device), output_lock(out, folder=True):
        return _prune(checkpoint, space, Path(out), importance, calibration, table)


def _prune(
    checkpoint: str | Path,
    space: SearchSpace,
    out: Path,
    importance: Importance,
    calibration: PruningData | None,
    table: LookupTable | None,
) -> PruningReport:
    folder = checkpoint_folder(checkpoint)
    unet, loss = load_unet(folder).eval(), None
    if importance == "taylor":
        if calibration is None:
            raise ConfigError(
                "importance: 'taylor' scores channels on data; give the folder of a finished decoder stage or of 'nas prepare'"
            )
        loss = output_distance_loss(unet, scheduler_objective(folder), calibration)
    pruned, removed = prune(unet, space.backbone, loss)
    summary = report(unet, pruned, removed, space.latent, space.text)
    if table is not None:
        before, after = (_latency_ms(table, space, model) for model in (unet, pruned))
        summary = replace(summary, latency_before_ms=before, latency_after_ms=after)
    save_unet(pruned, out / "unet")
    write_json(out / "report.json", summary.as_dict())
    write_atomic(out / "report.txt", summary.text() + "\n")
    return summary


def output_distance_loss(unet: UNet, objective: Objective, calibration: PruningData) -> Callable[[UNet], Tensor]:
    """A loss function of other UNets: the mean squared difference to this one's output on noisy images."""
    batches = Batches(
        require_finished(calibration.folder, "decoder"), calibration.seed, 0, calibration.images, objective=objective
    )
    batch = batches.of_images(0)
    channels, dim = batch.latents.shape[1], batch.context.shape[2]
    if (channels, dim) != (unet.conv_in.in_channels, unet.context_dim):
        raise ConfigError(
            f"{calibration.folder}: latents of {channels} channels and text of width {dim}; the checkpoint expects "
            f"{unet.conv_in.in_channels} and {unet.context_dim}; prepare the data with its own autoencoder and encoder"
        )
    unet.to(distributed.device())
    noisy = add_noise(batch.latents, batch.noise, batch.t)
    x, timestep = model_input(objective, noisy, batch.t)
    x = x[:, :, 0]
    with torch.no_grad():
        target = unet(x, timestep, batch.context)

    def loss(other: UNet) -> Tensor:
        return F.mse_loss(other(x, timestep, batch.context), target)

    return loss


def _latency_ms(table: LookupTable, space: SearchSpace, unet: UNet) -> float | None:
    row = table.rows().get(str(replace(space.backbone_workload(), part=unet.config)))
    return None if row is None else row.latency_ms
