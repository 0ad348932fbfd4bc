"""The spatial UNet: Stable Diffusion's, with the state-dict names of diffusers' `UNet2DConditionModel`.

The layers, their order and the skip connections are those of `nas.spaces.topology`; this module builds and runs them. Features are `(B*T, C, H, W)`: the frames of a clip are consecutive in the batch. Timestep and
text are given once per clip. After each layer with a site the UNet calls `after_site` with the name of the site, which
runs the temporal layers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.layers import Attention, FeedForward, Upsampler, sinusoid
from nas.spaces import Backbone
from nas.spaces.topology import Layer, unet_layers

AfterSite = Callable[[str, Tensor], Tensor]
"""Called with a site's name and its features `(B*T, C, H, W)`; returns the new features."""


class ResnetBlock(nn.Module):
    """`(N, in, H, W)`, time embedding `(N, time_dim)` -> `(N, out, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        shift = self.time_emb_proj(F.silu(time))[:, :, None, None]
        if len(shift) > 1:  # a single clip is broadcast: XNNPACK does not support repeat_interleave
            shift = shift.repeat_interleave(len(x) // len(shift), dim=0)
        hidden = hidden + shift
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class TransformerBlock(nn.Module):
    """Tokens `(B*T, H*W, C)`, text `(B, M, D)` -> `(B*T, H*W, C)`: self-attention, attention to text, feed-forward."""

    def __init__(self, channels: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        # All frames of a clip read the same text: as one row of queries they need its keys and values only once.
        query = self.norm2(tokens).reshape(context.shape[0], -1, tokens.shape[-1])
        tokens = tokens + self.attn2(query, context).reshape(tokens.shape)
        return tokens + self.ff(self.norm3(tokens))


class SpatialTransformer(nn.Module):
    """`(B*T, C, H, W)`, text `(B, M, D)` -> `(B*T, C, H, W)`."""

    def __init__(self, channels: int, heads: int, context_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_dim)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class TextEmbedding(nn.Module):
    """Text `(B, M, D)` -> addend of the timestep embedding `(B, time_dim)`: one linear layer over all tokens.

    The text is first standardized by mean and standard deviation over the captions of the data (`fit`), since the
    differences between captions are small compared to what they share. Inputs are divided by the square root of their
    number and weights are drawn from N(0, 1): otherwise steps of Adam, which do not depend on the scale of gradients,
    would change thousands of weights in the same direction, and their sum would dominate the timestep. The factor is one
    that float16 holds exactly: exported models store constants so, and an error in this one would shift every output.
    """

    def __init__(self, tokens: int, dim: int, time_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tokens, dim))
        self.register_buffer("spread", torch.ones(()))
        self.linear = nn.Linear(tokens * dim, time_dim)
        self.scale = float(np.float16((tokens * dim) ** -0.5))
        nn.init.normal_(self.linear.weight)

    def fit(self, contexts: Tensor) -> None:
        """Set mean and standard deviation from the texts `(N, M, D)` of different captions."""
        self.mean.copy_(contexts.mean(dim=0))
        self.spread.copy_((contexts - self.mean).std())

    def standardize(self, context: Tensor) -> Tensor:
        """Text with zero mean and unit spread over the captions of the data."""
        return (context - self.mean) / self.spread

    def forward(self, context: Tensor) -> Tensor:
        """The addend for standardized text."""
        return self.linear(context.flatten(1) * self.scale)


class Downsampler(nn.Module):
    """`(N, C, H, W) -> (N, C, H/2, W/2)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """The UNet without temporal layers.

    Args:
        config: widths, depth, attention levels.
        latent_channels: channels of input and output.
        context_dim: dimension of a text token.
    """

    def __init__(self, config: Backbone, latent_channels: int, context_dim: int) -> None:
        super().__init__()
        self.config, self.context_dim = config, context_dim
        self.topology = unet_layers(config)
        widths, groups, time_dim = config.channels, config.norm_groups, 4 * config.channels[0]
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], time_dim), "linear_2": nn.Linear(time_dim, time_dim)}
        )
        self.text_embedding = None
        if config.text_tokens:
            self.text_embedding = TextEmbedding(config.text_tokens, context_dim, time_dim)
        self.down_blocks = nn.ModuleList(nn.Module() for _ in widths)
        self.mid_block = nn.Module() if config.mid else None
        self.up_blocks = nn.ModuleList(nn.Module() for _ in widths)
        for layer in self.topology:
            if layer.block:
                block, group, _ = layer.name.rsplit(".", 2)
                block = self.get_submodule(block)
                if not hasattr(block, group):
                    block.add_module(group, nn.ModuleList())
                getattr(block, group).append(self._module(layer))
        self.conv_norm_out = nn.GroupNorm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], latent_channels, 3, padding=1)

    def _module(self, layer: Layer) -> nn.Module:
        config = self.config
        if layer.kind == "resnet":
            inputs = layer.in_channels + layer.skip_channels
            return ResnetBlock(inputs, layer.channels, 4 * config.channels[0], config.norm_groups)
        if layer.kind == "transformer":
            return SpatialTransformer(layer.channels, config.heads, self.context_dim, config.norm_groups)
        return Downsampler(layer.channels) if layer.kind == "downsample" else Upsampler(layer.channels)

    def read_text(self, context: Tensor) -> Tensor:
        """Text `(B, M, D)` as the layers expect it: standardized if there is a text embedding, otherwise unchanged."""
        return context if self.text_embedding is None else self.text_embedding.standardize(context)

    def embed_time(self, timestep: Tensor, context: Tensor) -> Tensor:
        """Timesteps `(B,)` or `()`, as diffusers counts them (0..1000), and text from `read_text` -> embedding `(B, time_dim)`."""
        clips = context.shape[0]
        linear_1, linear_2 = self.time_embedding["linear_1"], self.time_embedding["linear_2"]
        waves = sinusoid(timestep.reshape(-1).expand(clips), linear_1.in_features).to(linear_1.weight.dtype)
        time = linear_2(F.silu(linear_1(waves)))
        return time if self.text_embedding is None else time + self.text_embedding(context)

    def encode(self, x: Tensor, time: Tensor, context: Tensor, after_site: AfterSite) -> dict[str, Tensor]:
        """Run conv_in and the down blocks on `(B*T, C, H, W)`; returns the skips by the name of their layer."""
        skips: dict[str, Tensor] = {}
        layers = [layer for layer in self.topology if layer.kind == "conv_in" or layer.block.startswith("down.")]
        self._run(layers, x, skips, time, context, after_site)
        return skips

    def denoise(self, x: Tensor, timestep: Tensor, context: Tensor, after_site: AfterSite) -> Tensor:
        """Frames `(B*T, C, H, W)`, timesteps `(B,)` or `()`, text of `read_text` `(B, M, D)` -> `(B*T, C, H, W)`."""
        return self._run(self.topology, x, {}, self.embed_time(timestep, context), context, after_site)

    def _run(
        self,
        layers: list[Layer],
        x: Tensor,
        skips: dict[str, Tensor],
        time: Tensor,
        context: Tensor,
        after_site: AfterSite,
    ) -> Tensor:
        """Run layers in order. Skips are added to `skips`, and removed (which frees them) where they are concatenated."""
        for layer in layers:
            x = self.run_layer(layer, x, skips, time, context)
            if layer.site:
                x = after_site(layer.site, x)
            if layer.is_skip:
                skips[layer.name] = x
        return x

    def run_layer(self, layer: Layer, x: Tensor, skips: dict[str, Tensor], time: Tensor, context: Tensor) -> Tensor:
        """One layer, without what comes after it: the layers of its site, and keeping its output as a skip."""
        if layer.skip:
            x = torch.cat([x, skips.pop(layer.skip)], dim=1)
        module = self.get_submodule(layer.name)
        if layer.kind == "resnet":
            return module(x, time)
        if layer.kind == "transformer":
            return module(x, context)
        return module(F.silu(self.conv_norm_out(x)) if layer.kind == "conv_out" else x)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """One denoising step on images: `(B, C, H, W)`, timesteps `(B,)` or `()`, text `(B, M, D)` -> `(B, C, H, W)`."""
        return self.denoise(x, timestep, self.read_text(context), lambda site, features: features)
