"""The separable decoder's unfactored forms, with causal 3x3x3 convolutions, and the form without any temporal part."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models import Autoencoder
from nas.models.autoencoder.blocks import VAEUpsampler
from nas.models.layers import to_frames, to_video

DECODERS = ("repeat", "separable", "paired", "full")
UNFACTORED = DECODERS[2:]
FORMS = ("conv2d", "conv3d")
"""A 3x3x3 convolution as three 2D ones, or as the runtime's own."""


class CausalConv3d(nn.Module):
    """A causal 3x3x3 convolution of frames `(B*T, C, H, W)`; starts as the 3x3 one it is made from, of the frame alone.

    `batch` (B) is set from outside, since the layers around a 3x3 convolution do not tell it. Both forms give the same.
    """

    def __init__(self, spatial: nn.Conv2d, form: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*spatial.weight.shape[:2], 3, *spatial.weight.shape[2:]))
        self.bias = nn.Parameter(spatial.bias.detach().clone())
        self.form, self.batch = form, 1
        with torch.no_grad():
            self.weight[:, :, -1] = spatial.weight

    def forward(self, x: Tensor) -> Tensor:
        frames = len(x) // self.batch
        if self.form == "conv3d":
            video = F.pad(to_video(x, frames), (0, 0, 0, 0, 2, 0))
            return to_frames(F.conv3d(video, self.weight, self.bias, padding=(0, 1, 1)))
        before, last, now = self.weight.unbind(2)
        y = F.conv2d(x, now, self.bias, padding=1)
        clips = x.unflatten(0, (self.batch, frames))
        shifted = F.pad(clips, (0, 0, 0, 0, 0, 0, 2, 0))  # two frames of zeros before each clip
        y = y + F.conv2d(shifted[:, 1:-1].flatten(0, 1), last, padding=1)
        return y + F.conv2d(shifted[:, :-2].flatten(0, 1), before, padding=1)


class RepeatFrames(nn.Module):
    """`(B*T, C, H, W) -> (B*2T, C, H, W)`: each frame twice."""

    def forward(self, x: Tensor, frames: int, past: dict | None = None) -> Tensor:
        return torch.stack([x, x], dim=1).flatten(0, 1)


class Unfactored(nn.Module):
    """A `SeparableDecoder` with causal 3x3x3 convolutions for the `paired` or for all (`full`) of its 3x3 ones.

    Where the separable decoder doubles the frames, frames are repeated and the upsampler's 3x3 convolution is a 3x3x3 one
    in both, as in the decoders of 3D autoencoders. It decodes whole clips only.
    """

    def __init__(self, decoder: nn.Module, which: str, form: str = "conv2d") -> None:
        super().__init__()
        self.decoder = copy.deepcopy(decoder)
        self.convolutions = []
        for module in list(self.decoder.modules()):
            temporal = getattr(module, "temporal", None) is not None
            for child, conv in list(module.named_children()):
                spatial = isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
                if spatial and (which == "full" or (temporal and child in ("conv", "conv2"))):
                    setattr(module, child, CausalConv3d(conv, form))
                    self.convolutions.append(getattr(module, child))
        remove_temporal(self.decoder)

    def forward(self, x: Tensor, frames: int, past: dict | None = None) -> Tensor:
        for convolution in self.convolutions:
            convolution.batch = len(x) // frames
        return self.decoder(x, frames)


def remove_temporal(decoder: nn.Module) -> None:
    """Remove the temporal factors; upsamplers that double the frames repeat them."""
    for module in decoder.modules():
        if getattr(module, "temporal", None) is not None:
            module.temporal = RepeatFrames() if isinstance(module, VAEUpsampler) else None


def with_decoder(image: Autoencoder, kind: str, form: str = "conv2d") -> Autoencoder:
    """A copy of the autoencoder with another decoder.

    If the temporal factors of its own decoder are still zero, all kinds give the same.
    """
    autoencoder = copy.deepcopy(image)
    if kind in UNFACTORED:
        autoencoder.decoder = Unfactored(image.decoder, kind, form)
    if kind == "repeat":
        remove_temporal(autoencoder.decoder)
    return autoencoder
