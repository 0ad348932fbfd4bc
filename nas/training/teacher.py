"""Distillation of the spatial backbone from a larger teacher, through its output and the features of its blocks.

BK-SDM (arXiv 2305.15798, section 3.2): L = L_task + L_output + L_features, where L_output is the squared difference of
the two predictions and L_features the sum over blocks of the squared difference of their features, all means over
elements. Where a block of the student is narrower than the teacher's, a 1x1 convolution that is trained with it and
discarded afterwards maps its features to the teacher's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas import checkpoint, distributed
from nas.data.batches import Batch
from nas.diffusion.losses import loss_weights
from nas.diffusion.predictions import Objective, add_noise, get_objective, model_input, to_velocity, velocity_fn
from nas.diffusion.scheduler_config import scheduler_objective
from nas.diffusion.seeding import generator
from nas.errors import ConfigError
from nas.models import UNet
from nas.models.diffusers_checkpoint import checkpoint_folder, load_unet
from nas.spaces import SearchSpace


@dataclass(frozen=True)
class Teacher:
    """A frozen backbone and its objective."""

    unet: UNet
    objective: Objective

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Noisy images `(B, C, 1, H, W)`, t `(B,)` and text -> the velocity, and the block features by block name."""
        predicted, features = block_features(self.unet, *model_input(self.objective, x, t), context)
        return to_velocity(self.objective, predicted, x, t), features


def load_teacher(folder: str | Path, space: SearchSpace) -> Teacher:
    """Load a teacher: a checkpoint of this library, or a diffusers one (folder or Hub name).

    Raises:
        ConfigError: it is neither, or its latents or text differ from the search space's.
    """
    if (Path(folder) / "checkpoint.json").exists():
        unet = checkpoint.load(folder).denoiser
        teacher = Teacher(unet, unet.objective)
    else:
        folder = checkpoint_folder(folder)
        teacher = Teacher(load_unet(folder).eval().requires_grad_(False), scheduler_objective(folder))
    shapes = {
        "latent.channels": (teacher.unet.conv_in.in_channels, space.latent.channels),
        "text.dim": (teacher.unet.context_dim, space.text.dim),
        "text.tokens": (teacher.unet.config.text_tokens or space.text.tokens, space.text.tokens),
    }
    for field, (theirs, ours) in shapes.items():
        if theirs != ours:
            raise ConfigError(f"{folder}: the teacher's {field} is {theirs}, the search space says {ours}")
    teacher.unet.to(distributed.device())
    return teacher


class Student(nn.Module):
    """A denoiser that also returns its block features at the teacher's widths.

    Attributes:
        denoiser: the trained backbone, without adapters.
        adapters: a 1x1 convolution for each block whose width differs from the teacher's.
    """

    def __init__(self, denoiser: UNet, teacher: Teacher) -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, get_objective(denoiser)
        own, theirs = block_widths(denoiser), block_widths(teacher.unet)
        self.blocks = [block for block in own if block in theirs]
        self.adapters = nn.ModuleDict(
            {
                block.replace(".", "_"): nn.Conv2d(own[block], theirs[block], 1)
                for block in self.blocks
                if own[block] != theirs[block]
            }
        )

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        predicted, features = block_features(self.denoiser, x, timestep, context)
        adapted = {}
        for block in self.blocks:
            name = block.replace(".", "_")
            adapted[block] = self.adapters[name](features[block]) if name in self.adapters else features[block]
        return predicted, adapted


def distillation_losses(model: nn.Module, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
    """`task`, `output` and `features` of a `Student`, maybe in a distributed wrapper, on a batch of images.

    `task` is the loss of the student's objective. `output` is weighted like the loss of the teacher's objective: for a
    teacher that predicts noise it is the squared difference in noise, which stays bounded at high noise levels.
    """
    objective = get_objective(model)
    x = add_noise(batch.latents, batch.noise, batch.t)
    target, target_features = teacher(x, batch.t, batch.context)
    predicted, features = model(*model_input(objective, x, batch.t), batch.context)
    velocity = to_velocity(objective, predicted, x, batch.t)
    return {
        "task": _mean_square(velocity - (batch.noise - batch.latents), loss_weights(objective, batch.t)),
        "output": _mean_square(velocity - target, loss_weights(teacher.objective, batch.t)),
        "features": sum(F.mse_loss(value, target_features[block]) for block, value in features.items()),
    }


@torch.no_grad()
def teacher_loss(model: UNet, teacher: Teacher, latents: Tensor, contexts: Tensor, seed: int = 0) -> float:
    """The `output` loss of a denoiser on images `(N, C, 1, H, W)`, with fixed noise and timesteps."""
    count, device = len(latents), next(model.parameters()).device
    noise = torch.randn(latents.shape, generator=generator(seed, count))
    t = (torch.arange(count) + 0.5) / count
    latents, contexts, noise, t = (values.to(device) for values in (latents, contexts, noise, t))
    x = add_noise(latents, noise, t)
    target, _ = teacher(x, t, contexts)
    return _mean_square(velocity_fn(model, contexts)(x, t) - target, loss_weights(teacher.objective, t)).item()


def block_features(unet: UNet, x: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Images `(B, C, 1, H, W)` -> the prediction, of the same shape, and the features `(B, C, H, W)` of each block.

    A block's features are taken after its last layer, before the resolution changes.
    """
    last, features = _last_sites(unet), {}

    def record(site: str, value: Tensor) -> Tensor:
        if site in last:
            features[last[site]] = value
        return value

    predicted = unet.denoise(x[:, :, 0], timestep, unet.read_text(context), record)
    return predicted[:, :, None], features


def block_widths(unet: UNet) -> dict[str, int]:
    """The channels of each block's features, by block name."""
    return {layer.block: layer.channels for layer in unet.topology if layer.site}


def _last_sites(unet: UNet) -> dict[str, str]:
    """The block name (`down.L`, `mid` or `up.L`, L the resolution level) of each block's last site."""
    last = {layer.block: layer.site for layer in unet.topology if layer.site}
    return {site: block for block, site in last.items()}


def _mean_square(difference: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over elements, each image's times its weight `(B,)` if given."""
    squares = difference.square().flatten(1).mean(1)
    return (squares if weights is None else squares * weights).mean()
