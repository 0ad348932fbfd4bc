"""The autoencoder's temporal convolutions: causal, on frames in the batch, with an explicit state for streaming.

All are residual and zero-initialized, and implemented as (3,1) `Conv2d` over (T, H*W). "Before" a clip there are zeros.
A `Past` carries the frames that each needs from one part of a clip to the next, so that parts give the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.layers import to_frames, to_video

Past = dict[nn.Module, Tensor]
"""The last input frames of each temporal convolution `(B, C, 2 or 1, H*W)`, carried from one part of a clip to the next.

An empty one is that of a clip's start.
"""


class TemporalConv(nn.Module):
    """`(B*T, C, H, W) -> (B*T, C, H, W)`: a (3,1,1) convolution of each frame and the two before it.

    Args:
        first_alone: leave the first frame of a clip as it is, so that it does not differ from an image.
    """

    def __init__(self, channels: int, first_alone: bool = False) -> None:
        super().__init__()
        self.first_alone = first_alone
        self.conv = nn.Conv2d(channels, channels, (3, 1), bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        starts = past is None or self not in past
        change = self.conv(_with_past(self, to_video(x, frames).flatten(3), past))
        if self.first_alone and starts:
            change = torch.cat([torch.zeros_like(change[:, :, :1]), change[:, :, 1:]], dim=2)
        return x + to_frames(change[..., None]).reshape(x.shape)


class TemporalUpsampler(nn.Module):
    """`(B*T, C, H, W) -> (B*2T, C, H, W)`: each frame twice, plus a (3,1,1) convolution whose channels become frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, (3, 1), bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        change = self.conv(_with_past(self, to_video(x, frames).flatten(3), past))
        pairs = to_frames(change[..., None]).reshape(len(x), 2, *x.shape[1:])
        return (x[:, None] + pairs).flatten(0, 1)


class TemporalDownsampler(nn.Module):
    """`(B*T, C, H, W) -> (B*T', C, H, W)`: the mean of two frames, plus a (3,1,1) convolution of stride 2.

    The first frame of a clip stays alone: T is odd where a clip starts and gives T' = (T + 1) / 2; after that T is even
    and T' = T / 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), stride=(2, 1), bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        video = to_video(x, frames).flatten(3)
        starts = past is None or self not in past
        padded = video if starts else torch.cat([past[self], video], dim=2)
        if past is not None:
            past[self] = video[:, :, -1:].clone()
        reduced = [video[:, :, :1]] if starts else []
        if padded.shape[2] > 1:
            reduced.append((padded[:, :, 1::2] + padded[:, :, 2::2]) / 2 + self.conv(padded))
        return to_frames(torch.cat(reduced, dim=2)[..., None]).reshape(-1, *x.shape[1:])


def _with_past(module: nn.Module, video: Tensor, past: Past | None) -> Tensor:
    """`(B, C, T, N) -> (B, C, 2 + T, N)`: the two frames before it, or zeros; its own last two are stored."""
    previous = None if past is None else past.get(module)
    padded = F.pad(video, (0, 0, 2, 0)) if previous is None else torch.cat([previous, video], dim=2)
    if past is not None:
        past[module] = padded[:, :, -2:].clone()
    return padded
