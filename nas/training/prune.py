"""A diffusers checkpoint pruned to a search space's backbone: what `nas prune` does.

The folder it writes holds `unet/` in diffusers' own form, which distillation starts from, and the report of what went.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.costs import LookupTable
from nas.data.batches import Batches
from nas.diffusion.predictions import Objective, add_noise, model_input
from nas.errors import ConfigError, suggestion
from nas.files import write_atomic, write_json
from nas.locks import output_lock
from nas.models import UNet
from nas.models.diffusers_checkpoint import checkpoint_folder, load_unet, prediction, save_unet
from nas.pruning.blocks import prune
from nas.pruning.report import PruningReport, report
from nas.spaces import SearchSpace
from nas.training.stage import require_finished

IMPORTANCE = ("norm", "taylor")


@dataclass(frozen=True)
class PruningData:
    """Latents and captions to judge channels on: one batch of a finished `decoder` stage's or `nas prepare`'s."""

    folder: Path
    images: int = 8
    seed: int = 0


def prune_checkpoint(
    checkpoint: str | Path,
    space: SearchSpace,
    out: str | Path,
    importance: str = "norm",
    calibration: PruningData | None = None,
    table: LookupTable | None = None,
) -> PruningReport:
    """Prune a checkpoint's UNet to `space.backbone`; writes `out/unet/`, `out/report.txt` and `out/report.json`.

    Args:
        checkpoint: a diffusers folder, or a Hub name.
        importance: `norm`, or `taylor`: by the effect on how far the pruned model's output is from the original's.
        calibration: what to judge on; `taylor` needs it.
        table: a lookup table in which to look for the latency of either backbone.

    Raises:
        ConfigError: a file is missing or does not fit, or the backbone is no part of the checkpoint's.
    """
    if importance not in IMPORTANCE:
        raise ConfigError(f"importance: there is no '{importance}'{suggestion(importance, IMPORTANCE)}")
    if space.backbone is None:
        raise ConfigError(f"search space '{space.name}' is cost-only: it has no backbone to prune to")
    with output_lock(out, folder=True):
        return _prune(checkpoint, space, Path(out), importance, calibration, table)


def _prune(
    checkpoint: str | Path,
    space: SearchSpace,
    out: Path,
    importance: str,
    calibration: PruningData | None,
    table: LookupTable | None,
) -> PruningReport:
    folder = checkpoint_folder(checkpoint)
    unet, loss = load_unet(folder).eval(), None
    if importance == "taylor":
        if calibration is None:
            raise ConfigError(
                "importance: 'taylor' judges channels on data; give a finished decoder stage or 'nas prepare' folder"
            )
        loss = output_distance_loss(unet, Objective(prediction(folder)), calibration)
    pruned, removed = prune(unet, space.backbone, loss)
    found = report(unet, pruned, removed, space.latent, space.text)
    if table is not None:
        before, after = (_latency_ms(table, space, model) for model in (unet, pruned))
        found = replace(found, latency_before_ms=before, latency_after_ms=after)
    save_unet(pruned, out / "unet")
    write_json(out / "report.json", found.as_dict())
    write_atomic(out / "report.txt", found.text() + "\n")
    return found


def output_distance_loss(unet: UNet, asked: Objective, calibration: PruningData):
    """A loss for other UNets: the mean squared difference from this one's output on noised images."""
    batches = Batches(
        require_finished(calibration.folder, "decoder"), calibration.seed, 0, calibration.images, objective=asked
    )
    batch = batches.of_images(0)
    channels, dim = batch.latents.shape[1], batch.context.shape[2]
    if (channels, dim) != (unet.conv_in.in_channels, unet.context_dim):
        raise ConfigError(
            f"{calibration.folder}: latents of {channels} channels and text {dim} wide, the checkpoint wants "
            f"{unet.conv_in.in_channels} and {unet.context_dim}; prepare the data with its own autoencoder and encoder"
        )
    noisy = add_noise(batch.latents, batch.noise, batch.t)
    x, timestep = model_input(asked, noisy, batch.t)
    x = x[:, :, 0]
    with torch.no_grad():
        wanted = unet(x, timestep, batch.context)

    def loss(other: UNet) -> Tensor:
        return F.mse_loss(other(x, timestep, batch.context), wanted)

    return loss


def _latency_ms(table: LookupTable, space: SearchSpace, unet: UNet) -> float | None:
    row = table.rows().get(str(replace(space.backbone_workload(), part=unet.config)))
    return None if row is None else row.latency_ms
