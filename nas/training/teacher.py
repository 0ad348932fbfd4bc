"""Distillation of the spatial backbone from a larger one: its output, and the features of its blocks.

BK-SDM (arXiv 2305.15798, section 3.2): L = L_task + L_output + L_features, where L_output is the squared difference of
the two predictions and L_features the sum over blocks of that of their features, all means over elements. Where a
block of the student is narrower than the teacher's, a linear map of its channels, trained along with it and thrown
away, brings its features to the teacher's width.
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
from nas.diffusion.seeding import generator
from nas.errors import ConfigError
from nas.models import UNet
from nas.models.diffusers_checkpoint import checkpoint_folder, load_unet, prediction
from nas.spaces import SearchSpace


@dataclass(frozen=True)
class Teacher:
    """A frozen backbone and what it predicts."""

    unet: UNet
    objective: Objective

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Noised images `(B, C, 1, H, W)`, t `(B,)`, text -> its velocity like them, and its block features."""
        predicted, features = block_features(self.unet, *model_input(self.objective, x, t), context)
        return to_velocity(self.objective, predicted, x, t), features


def load_teacher(folder: str | Path, space: SearchSpace) -> Teacher:
    """The teacher in a folder: a checkpoint of this library, or a diffusers one (folder or Hub name).

    Raises:
        ConfigError: it is neither, or its latents or text are not the search space's.
    """
    if (Path(folder) / "checkpoint.json").exists():
        unet = checkpoint.load(folder).denoiser
        found = Teacher(unet, unet.objective)
    else:
        folder = checkpoint_folder(folder)
        found = Teacher(load_unet(folder).eval().requires_grad_(False), Objective(prediction(folder)))
    shapes = {
        "latent.channels": (found.unet.conv_in.in_channels, space.latent.channels),
        "text.dim": (found.unet.context_dim, space.text.dim),
        "text.tokens": (found.unet.config.text_tokens or space.text.tokens, space.text.tokens),
    }
    for field, (theirs, ours) in shapes.items():
        if theirs != ours:
            raise ConfigError(f"{folder}: the teacher's {field} is {theirs}, the search space says {ours}")
    found.unet.to(distributed.device())
    return found


class Student(nn.Module):
    """A denoiser that also gives its block features at the teacher's widths.

    Attributes:
        denoiser: what is kept in the end.
        adapters: a 1x1 convolution for each block that is of another width than the teacher's.
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


def losses(model: nn.Module, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
    """`task`, `output` and `features` of a `Student`, maybe in a distributed wrapper, on a batch of images.

    `task` is the objective's own loss. `output` is weighed as the teacher's own loss is: of a teacher that predicts
    noise it is the squared difference in noise, which has no pole where nearly all is noise.
    """
    asked = get_objective(model)
    x = add_noise(batch.latents, batch.noise, batch.t)
    wanted, wanted_features = teacher(x, batch.t, batch.context)
    predicted, features = model(*model_input(asked, x, batch.t), batch.context)
    velocity = to_velocity(asked, predicted, x, batch.t)
    return {
        "task": _mean_square(velocity - (batch.noise - batch.latents), loss_weights(asked, batch.t)),
        "output": _mean_square(velocity - wanted, loss_weights(teacher.objective, batch.t)),
        "features": sum(F.mse_loss(value, wanted_features[block]) for block, value in features.items()),
    }


@torch.no_grad()
def distance(model: UNet, teacher: Teacher, latents: Tensor, contexts: Tensor, seed: int = 0) -> float:
    """How far a denoiser is from its teacher: the `output` loss on images `(N, C, 1, H, W)`, noise and times fixed."""
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator(seed, count)).to(latents)
    t = ((torch.arange(count) + 0.5) / count).to(latents)
    x = add_noise(latents, noise, t)
    wanted, _ = teacher(x, t, contexts)
    return _mean_square(velocity_fn(model, contexts)(x, t) - wanted, loss_weights(teacher.objective, t)).item()


def block_features(unet: UNet, x: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Images `(B, C, 1, H, W)` -> the prediction like them, and by block its features `(B, C, H, W)`.

    A block's features are those after its last layer, before it changes the resolution.
    """
    last, features = _last_sites(unet), {}

    def record(site: str, value: Tensor) -> Tensor:
        if site in last:
            features[last[site]] = value
        return value

    predicted = unet.denoise(x[:, :, 0], timestep, unet.read_text(context), record)
    return predicted[:, :, None], features


def block_widths(unet: UNet) -> dict[str, int]:
    """Block -> channels of its features."""
    return {layer.block: layer.channels for layer in unet.topology if layer.site}


def _last_sites(unet: UNet) -> dict[str, str]:
    """The last site of each block -> the block's name: `down.L`, `mid` or `up.L`, where L is the level in both."""
    last = {layer.block: layer.site for layer in unet.topology if layer.site}
    return {site: block for block, site in last.items()}


def _mean_square(difference: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over elements, each image's times its weight `(B,)` if given."""
    squares = difference.square().flatten(1).mean(1)
    return (squares if weights is None else squares * weights).mean()
