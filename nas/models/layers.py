"""Layers and tensor reshapes shared by the UNet, the autoencoder and the temporal operators; diffusers' names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention of tokens `(B, N, dim)` to keys and values from `(B, M, context_dim)` -> `(B, N, dim)`."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, tokens: Tensor, context: Tensor | None = None, explicit: bool = False) -> Tensor:
        """With `explicit`, scores and their softmax are computed and stored: for many short sequences."""
        context = tokens if context is None else context
        qkv = self.to_q(tokens), self.to_k(context), self.to_v(context)
        return self.to_out(attend_explicitly(*qkv, self.heads) if explicit else attend(*qkv, self.heads))


class GEGLU(nn.Module):
    """`(..., dim) -> (..., hidden)`: one half of a projection times the GELU of the other half."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """`(..., dim) -> (..., dim)` with four times the width inside. `net.1` stands for the dropout of diffusers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Upsampler(nn.Module):
    """`(N, C, H, W) -> (N, C, 2H, 2W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`(B, N, C) -> (B, heads, N, C / heads)`."""
    batch, length, channels = x.shape
    return x.reshape(batch, length, heads, channels // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`(B, heads, N, d) -> (B, N, heads * d)`."""
    batch, heads, length, dim = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * dim)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of `(B, N, C)` to `(B, M, C)`, split into heads -> `(B, N, C)`."""
    split = (split_heads(x, heads) for x in (q, k, v))
    return merge_heads(F.scaled_dot_product_attention(*split))


def attend_explicitly(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """What `attend` computes, as two products and a softmax."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return merge_heads(scores.softmax(dim=-1).to(v.dtype) @ v)


def to_frames(video: Tensor) -> Tensor:
    """`(B, C, T, H, W) -> (B*T, C, H, W)`."""
    return video.transpose(1, 2).flatten(0, 1)


def to_video(features: Tensor, frames: int) -> Tensor:
    """`(B*T, C, H, W) -> (B, C, T, H, W)`."""
    return features.reshape(-1, frames, *features.shape[1:]).transpose(1, 2)


def sinusoid(positions: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """`(N,) -> (N, channels)`: cosines, then sines, of the positions at geometrically spaced frequencies.

    Defined for any position, so clips may be longer than those of training.
    """
    half = (channels + 1) // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device)
    angles = positions.float()[:, None] * torch.exp(-math.log(max_period) / max(half, 1) * steps)
    sines = angles[:, :-1].sin() if channels % 2 else angles.sin()  # Core ML has no alias operation for a full slice
    return torch.cat([angles.cos(), sines], dim=-1)


def zero_(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set the weights and bias of a layer to zero, so that the residual branch it ends is zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
