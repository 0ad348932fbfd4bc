"""Discriminator of adversarial training: a frozen encoder with small trainable heads on its features.

SnapGen-V (arXiv 2412.10494), section on adversarial fine-tuning: the encoder is the trained denoiser's, frozen;
behind each of its down blocks stands a spatial-temporal head, and only the heads train.

    noisy clip -> conv_in -> down_blocks[0] -> down_blocks[1] -> ...      (frozen, with their temporal layers)
                                  |                |
                                head 0           head 1                   -> T logits each
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.denoiser import Denoiser, temporal_step
from nas.models.layers import to_frames, to_video
from nas.models.operators import SelfAttention1D


class Discriminator(nn.Module):
    """Noisy latents `(B, C, T, H, W)`, timestep, text -> logits `(B, levels * T)`; higher is more realistic.

    There is a logit for each level of the encoder and each frame. Images (T=1) skip the temporal parts.

    Args:
        denoiser: the trained model; its encoder is copied, and it is not changed.

    Attributes:
        encoder: the frozen copy; its parameters get no gradients, but gradients flow through it to the input.
        heads: the trainable part, which checkpoints store.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.encoder = encoder_copy(denoiser).requires_grad_(False)
        text_dim = denoiser.space.text.dim
        self.heads = nn.ModuleList(
            Head(width, denoiser.config.heads, text_dim, denoiser.config.norm_groups)
            for width in denoiser.config.channels
        )

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Logits of clips that were noised to `timestep`.

        Args:
            x: `(B, C, T, H, W)`.
            timestep: `(B,)` or `()`, as the denoiser's.
            context: text `(B, tokens, dim)`.
            pooled: one text vector per clip `(B, dim)`; the mean of the tokens if not given.

        Returns:
            `(B, levels * T)`.
        """
        frames, encoder = x.shape[2], self.encoder
        context = encoder.read_text(context)
        pooled = context.mean(dim=1) if pooled is None else pooled
        after_site = temporal_step(encoder.layers(), frames, context)
        skips = encoder.encode(to_frames(x), encoder.embed_time(timestep, context), context, after_site)
        last = {layer.block: layer.name for layer in encoder.topology if layer.name in skips and layer.block}
        logits = [head(skips[name], frames, pooled) for name, head in zip(last.values(), self.heads)]
        return torch.cat(logits, dim=1)


class Head(nn.Module):
    """Features `(B*T, C, H, W)` of one level, T, pooled text `(B, dim)` -> a logit per frame `(B, T)`.

    A 2D residual block on each frame, shifted by a linear map of the text; then attention over time at each pixel;
    then a linear layer on the mean over the pixels.
    """

    def __init__(self, channels: int, heads: int, text_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.text = nn.Linear(text_dim, channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.temporal = SelfAttention1D(channels, heads)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.out = nn.Linear(channels, 1)

    def forward(self, x: Tensor, frames: int, pooled: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.text(pooled).repeat_interleave(frames, dim=0)[:, :, None, None]
        x = x + self.conv2(F.silu(self.norm2(hidden)))
        if frames > 1:
            x = to_frames(self.temporal(to_video(x, frames)))
        return self.out(F.silu(self.norm_out(x)).mean(dim=(2, 3))).reshape(-1, frames)


def encoder_copy(denoiser: Denoiser) -> Denoiser:
    """A copy of a denoiser's encoder: without mid and up blocks, the output, and their temporal layers."""
    with torch.device("meta"):
        encoder = Denoiser(denoiser.space, denoiser.arch)
    encoder.mid_block = encoder.up_blocks = encoder.conv_norm_out = encoder.conv_out = None
    for name in [name for name in encoder.temporal if not name.startswith("down_")]:
        del encoder.temporal[name]
    state = denoiser.state_dict()
    encoder.load_state_dict({key: state[key].clone() for key in encoder.state_dict()}, assign=True)
    return encoder.train(denoiser.training)
