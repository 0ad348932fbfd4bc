"""The six temporal operators as torch modules on a latent video `(B, C, T, H, W)`.

Each is pre-norm, residual and zero-initialized at its output: an untrained one returns its input, bit for bit.
The attention operators are transformer layers (attention, then a feed-forward), as in AnimateDiff.

Each uses an implementation that is fast on phone runtimes, with tensors of rank 5 at most (the limit of Core ML):

| operator | implementation | parameters (C channels, D text dim, k kernel) |
| --- | --- | --- |
| `SelfAttention1D` | fused attention, positions in the batch: `(B*H*W, heads, T, d)` | 16 C^2 |
| `SelfAttention3D` | fused attention over all tokens: `(B, heads, T*H*W, d)` | 16 C^2 |
| `CrossAttention1D` | text logits of all tokens in one product, anchor logit as a dot product, one softmax | 16 C^2 + 2 C D |
| `CrossAttention3D` | fused attention to text and anchor keys in one row: `(B, heads, tokens + H*W, d)` | 16 C^2 + 2 C D |
| `Conv1D` | a (k,1) `Conv2d` over (T, H*W) | k C^2 |
| `Conv3D` | k shifted (k,k) `Conv2d`s, frames in the batch | k^3 C^2 |

Position: attention sees sinusoids added to the normalized tokens, of time in the 1D operators, of time (first half
of the channels) and row and column (a quarter each) in the 3D ones. They are functions, not learned tables, so clips may
be longer than those of training. T=1 is no special case here: the denoiser skips its temporal layers for images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.layers import Attention, FeedForward, attend, merge_heads, split_heads, zero_
from nas.models.positions import add_frame, add_frame_and_pixel
from nas.spaces import Operator, resolve

SHORT = 32
"""Most tokens of a sequence whose attention is written out on GPUs."""


class SelfAttention(nn.Module):
    """The layers of both self-attentions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        _zero_outputs(self)


class SelfAttention1D(SelfAttention):
    """`(B, C, T, H, W) -> (B, C, T, H, W)`; the context is ignored.

    Every pixel attends to itself in each of the T frames. It models change over time but not displacement, since no
    pixel attends to its neighbors. Cheap at any resolution: T x T scores for each of the H*W pixels.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch, channels, frames, height, width = x.shape
        # Fused kernels of GPUs take few of the batch * height * width sequences at once, and pad them to 64 or 128 tokens.
        on_gpu = x.device.type not in ("cpu", "meta")
        tokens = x.flatten(3).permute(0, 3, 2, 1).reshape(batch * height * width, frames, channels)
        tokens = tokens + self.attn(add_frame(self.norm1(tokens), frames), explicit=on_gpu and frames <= SHORT)
        tokens = tokens + self.ff(self.norm2(tokens))
        return tokens.reshape(batch, height * width, frames, channels).permute(0, 3, 2, 1).reshape(x.shape)


class SelfAttention3D(SelfAttention):
    """`(B, C, T, H, W) -> (B, C, T, H, W)`; the context is ignored.

    Every pixel attends to all pixels of all frames, so the operator can model motion. The most expressive and most
    expensive operator: (T*H*W)^2 scores, 16 times as many at twice the height and width. Runtimes without fused
    attention store these scores: see `nas.costs.workload_counts`.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = to_tokens(x)
        tokens = tokens + self.attn(add_frame_and_pixel(self.norm1(tokens), x.shape))
        tokens = tokens + self.ff(self.norm2(tokens))
        return from_tokens(tokens, x.shape)


class CrossAttention1D(nn.Module):
    """`(B, C, T, H, W)`, context `(B, tokens, dim)` -> `(B, C, T, H, W)`.

    Every pixel attends to the text tokens and to the pixel at its own position in the anchor (first) frame, with one
    softmax over both. Linear in T, and the text is not copied per pixel. With `anchor` alone there is a single key:
    every pixel receives the projected anchor pixel, and there are no queries.
    """

    def __init__(self, channels: int, heads: int, context: str, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = TextAnchorAttention(channels, heads, context, context_dim, query=context != "anchor")
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        _zero_outputs(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens, frames = to_tokens(x), x.shape[2]
        tokens = tokens + self.attn.to_own_pixel(add_frame(self.norm1(tokens), frames), context, frames)
        tokens = tokens + self.ff(self.norm2(tokens))
        return from_tokens(tokens, x.shape)


class CrossAttention3D(nn.Module):
    """`(B, C, T, H, W)`, context `(B, tokens, dim)` -> `(B, C, T, H, W)`.

    Every pixel attends to the text tokens and to all pixels of the anchor (first) frame, so it can refer to an object
    that has moved since. Linear in T: T*H*W queries, but only tokens + H*W keys.
    """

    def __init__(self, channels: int, heads: int, context: str, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = TextAnchorAttention(channels, heads, context, context_dim)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        _zero_outputs(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = to_tokens(x)
        normed = add_frame_and_pixel(self.norm1(tokens), x.shape)
        tokens = tokens + self.attn.to_all_pixels(normed, context, x.shape[2])
        tokens = tokens + self.ff(self.norm2(tokens))
        return from_tokens(tokens, x.shape)


class Conv1D(nn.Module):
    """`(B, C, T, H, W) -> (B, C, T, H, W)`; the context is ignored.

    A convolution over time at each pixel, over adjacent frames only (kernel 3). The cheapest operator. `conv.weight` is `(C, C, k, 1)`.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.conv = zero_(nn.Conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch, channels, frames, height, width = x.shape
        hidden = F.silu(self.norm(x.reshape(batch, channels, -1)))
        hidden = self.conv(hidden.reshape(batch, channels, frames, height * width))
        return x + hidden.reshape(x.shape)


class Conv3D(nn.Module):
    """`(B, C, T, H, W) -> (B, C, T, H, W)`; the context is ignored.

    A convolution over time and space, which models small motion directly, with nine times the parameters and
    operations of `Conv1D` (kernel 3).
    `convs[i].weight` `(C, C, k, k)` is slice i over time of the 3D kernel; `bias` `(C,)` is added once.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels)
        pad = kernel // 2
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=pad, bias=i == pad) for i in range(kernel)
        )
        for conv in self.convs:
            nn.init.zeros_(conv.weight)
        nn.init.zeros_(self.convs[pad].bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch, channels, frames, height, width = x.shape
        pad = len(self.convs) // 2
        hidden = F.silu(self.norm(x.reshape(batch, channels, -1))).reshape(x.shape).transpose(1, 2)
        hidden = F.pad(hidden, (0, 0, 0, 0, 0, 0, pad, pad))
        mixed = None
        for i, conv in enumerate(self.convs):
            part = conv(hidden[:, i : i + frames].reshape(-1, channels, height, width))
            mixed = part if mixed is None else mixed + part
        return x + mixed.reshape(batch, frames, channels, height, width).transpose(1, 2)


class TextAnchorAttention(nn.Module):
    """Attention from video tokens `(B, T*H*W, C)`, time slowest, to text `(B, M, D)` and the tokens of frame 0.

    Both contexts share one softmax. `context` is `text`, `anchor` or `text+anchor`; there are no weights for a part that is not used.
    """

    def __init__(self, channels: int, heads: int, context: str, context_dim: int, query: bool = True) -> None:
        super().__init__()
        self.heads, self.text, self.anchor = heads, "text" in context, "anchor" in context
        if query:
            self.to_q = nn.Linear(channels, channels, bias=False)
        if self.text:
            self.to_k = nn.Linear(context_dim, channels, bias=False)
            self.to_v = nn.Linear(context_dim, channels, bias=False)
        if self.anchor:
            if query:
                self.to_k_anchor = nn.Linear(channels, channels, bias=False)
            self.to_v_anchor = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def to_all_pixels(self, tokens: Tensor, context: Tensor | None, frames: int) -> Tensor:
        """Keys: the text and all H*W anchor tokens. `(B, T*H*W, C) -> (B, T*H*W, C)`."""
        keys, values = [], []
        if self.text:
            keys, values = [self.to_k(context)], [self.to_v(context)]
        if self.anchor:
            first = tokens[:, : tokens.shape[1] // frames]
            keys, values = [*keys, self.to_k_anchor(first)], [*values, self.to_v_anchor(first)]
        return self.to_out(attend(self.to_q(tokens), torch.cat(keys, 1), torch.cat(values, 1), self.heads))

    def to_own_pixel(self, tokens: Tensor, context: Tensor | None, frames: int) -> Tensor:
        """Keys: the text and the anchor token at the query's own position. `(B, T*H*W, C) -> (B, T*H*W, C)`."""
        if not self.anchor:
            return self.to_out(attend(self.to_q(tokens), self.to_k(context), self.to_v(context), self.heads))
        batch, length, channels = tokens.shape
        places, heads, dim = length // frames, self.heads, channels // self.heads
        value = split_heads(self.to_v_anchor(tokens[:, :places]), heads)
        value = value.reshape(batch * heads, 1, places, dim)
        if not self.text:
            attended = value.expand(-1, frames, -1, -1)
            return self.to_out(merge_heads(attended.reshape(batch, heads, length, dim)))
        query = split_heads(self.to_q(tokens), heads) * dim**-0.5
        key = split_heads(self.to_k_anchor(tokens[:, :places]), heads).reshape(batch * heads, 1, places, dim)
        anchor_logit = (query.reshape(batch * heads, frames, places, dim) * key).sum(-1)
        text_logits = query @ split_heads(self.to_k(context), heads).transpose(-1, -2)
        weights = torch.cat([anchor_logit.reshape(batch, heads, length, 1), text_logits], dim=-1).softmax(dim=-1)
        own = weights[..., :1].reshape(batch * heads, frames, places, 1) * value
        attended = own.reshape(batch, heads, length, dim) + weights[..., 1:] @ split_heads(self.to_v(context), heads)
        return self.to_out(merge_heads(attended))


def build_operator(operator: Operator, channels: int, context_dim: int) -> nn.Module:
    """The untrained module of an operator, zero-initialized at its output.

    Args:
        operator: kind and hyperparameters.
        channels: C of the video it runs on; must be a multiple of the operator's heads.
        context_dim: dimension of a text token; only the cross-attentions use it.

    Returns:
        A module whose `forward(x, context)` takes `x` `(B, C, T, H, W)` and text `(B, tokens, context_dim)`.
    """
    options = dict(operator.options)
    if operator.spec.takes_text:
        options["context_dim"] = context_dim
    return resolve(operator.spec.module)(channels, **options)


def to_tokens(x: Tensor) -> Tensor:
    """`(B, C, T, H, W) -> (B, T*H*W, C)`."""
    return x.flatten(3).permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def from_tokens(tokens: Tensor, shape: torch.Size) -> Tensor:
    """`(B, T*H*W, C) -> (B, C, T, H, W)`."""
    batch, channels, frames, height, width = shape
    return tokens.reshape(batch, frames, height * width, channels).permute(0, 3, 1, 2).reshape(shape)


def _zero_outputs(layer: nn.Module) -> None:
    zero_(layer.attn.to_out[0])
    zero_(layer.ff.net[2])


def _groups(channels: int) -> int:
    """The largest number of groups up to 32 that divides the channels."""
    return next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)
