"""Blocks of the autoencoder, with the state-dict names of diffusers' `AutoencoderKL`; frames are in the batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nas.models.autoencoder.temporal import Past, TemporalConv, TemporalDownsampler, TemporalUpsampler
from nas.models.layers import Attention, Upsampler
from nas.spaces import VAEConfig


class Encoder(nn.Module):
    """Frames `(B*T, image_channels, H, W)`, T -> moments `(B*T', 2 * latent_channels, h, w)` before `quant_conv`.

    Without temporal compression it has no temporal layers, and T' = T.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.temporal = config.temporal_compression > 1
        self.conv_in = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        channels, last = widths[0], len(widths) - 1
        for level, width in enumerate(widths):
            resnets = [self._resnet(channels, width, groups)]
            resnets += [self._resnet(width, width, groups) for _ in range(config.layers_per_block - 1)]
            down = VAEDownsampler(width, level >= last - config.temporal_levels) if level < last else None
            self.down_blocks.append(block(resnets, downsamplers=down))
            channels = width
        self.mid_block = mid_block(channels, config, [self._resnet(channels, channels, groups) for _ in range(2)])
        self.conv_norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
        batch = len(x) // frames
        x = self.conv_in(x)
        for level in self.down_blocks:
            for resnet in level["resnets"]:
                x = resnet(x, len(x) // batch, past)
            if "downsamplers" in level:
                x = level["downsamplers"][0](x, len(x) // batch, past)
        x = run_mid_block(self.mid_block, x, len(x) // batch, past)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def _resnet(self, inputs: int, outputs: int, groups: int) -> VAEResnetBlock:
        temporal = TemporalConv(outputs, first_alone=True) if self.temporal else None
        return VAEResnetBlock(inputs, outputs, groups, temporal)


class SeparableDecoder(nn.Module):
    """Latents as frames `(B*T, latent_channels, h, w)`, T -> `(B*T', image_channels, H, W)`.

    T' is T times the temporal compression. One frame without a past is an image: nothing temporal runs, and T' is 1.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, last = config.channels, config.norm_groups, len(config.channels) - 1
        channels = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid_block = mid_block(channels, config, [_decoder_resnet(channels, channels, groups) for _ in range(2)])
        self.up_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            width = widths[level]
            resnets = [_decoder_resnet(channels, width, groups)]
            resnets += [_decoder_resnet(width, width, groups) for _ in range(config.layers_per_block)]
            up = VAEUpsampler(width, level > last - config.temporal_levels) if level else None
            self.up_blocks.append(block(resnets, upsamplers=up))
            channels = width
        self.conv_norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, config.image_channels, 3, padding=1)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        batch = len(x) // frames
        x = run_mid_block(self.mid_block, self.conv_in(x), frames, past)
        for level in self.up_blocks:
            for resnet in level["resnets"]:
                x = resnet(x, len(x) // batch, past)
            if "upsamplers" in level:
                x = level["upsamplers"][0](x, len(x) // batch, past)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def block_ends(self) -> list[nn.Module]:
        """The modules whose outputs, as frames, are the features after the middle block and after each upward one."""
        ends = [level["upsamplers"][0] if "upsamplers" in level else level["resnets"][-1] for level in self.up_blocks]
        return [self.mid_block["resnets"][1], *ends]

    def temporal_layers(self) -> list[tuple[str, nn.Module, int]]:
        """The layers with a state, in order: a name, the module and its height and width in multiples of the latents'."""
        layers = [(f"mid_{i}", resnet.temporal, 1) for i, resnet in enumerate(self.mid_block["resnets"])]
        for number, level in enumerate(self.up_blocks):
            scale = 1 << number
            layers += [(f"up_{number}_{i}", resnet.temporal, scale) for i, resnet in enumerate(level["resnets"])]
            upsampler = level["upsamplers"][0] if "upsamplers" in level else None
            if upsampler is not None and upsampler.temporal is not None:
                layers.append((f"up_{number}_upsampler", upsampler.temporal, scale))
        return layers


class VAEResnetBlock(nn.Module):
    """`(B*T, in, H, W) -> (B*T, out, H, W)`, with a temporal factor after its last convolution if it is given."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, temporal: TemporalConv | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.temporal = temporal
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.temporal is not None and not is_image(frames, past):
            hidden = self.temporal(hidden, frames, past)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class MidAttention(Attention):
    """`(N, C, H, W) -> (N, C, H, W)`: residual single-head self-attention over the pixels of an image."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)
        return x + super().forward(tokens).transpose(1, 2).reshape(x.shape)


class VAEDownsampler(nn.Module):
    """`(B*T, C, H, W) -> (B*T', C, H/2, W/2)`; pads the right and bottom only, as `AutoencoderKL` does.

    If `temporal`, it then halves the frames.
    """

    def __init__(self, channels: int, temporal: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.temporal = TemporalDownsampler(channels) if temporal else None

    def forward(self, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
        x = self.conv(F.pad(x, (0, 1, 0, 1)))
        return x if self.temporal is None or is_image(frames, past) else self.temporal(x, frames, past)


class VAEUpsampler(Upsampler):
    """`(B*T, C, H, W) -> (B*T', C, 2H, 2W)`; if `temporal`, it first doubles the frames, at the low resolution."""

    def __init__(self, channels: int, temporal: bool = False) -> None:
        super().__init__(channels)
        self.temporal = TemporalUpsampler(channels) if temporal else None

    def forward(self, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
        if self.temporal is not None and not is_image(frames, past):
            x = self.temporal(x, frames, past)
        return super().forward(x)


def is_image(frames: int, past: Past | None) -> bool:
    """Whether the input is a single image, for which nothing temporal runs."""
    return frames == 1 and past is None


def block(resnets: list[VAEResnetBlock], **sampler: nn.Module | None) -> nn.ModuleDict:
    samplers = {name: nn.ModuleList([module]) for name, module in sampler.items() if module is not None}
    return nn.ModuleDict({"resnets": nn.ModuleList(resnets), **samplers})


def mid_block(channels: int, config: VAEConfig, resnets: list[VAEResnetBlock]) -> nn.ModuleDict:
    result = block(resnets)
    if config.mid_attention:
        result["attentions"] = nn.ModuleList([MidAttention(channels, config.norm_groups)])
    return result


def run_mid_block(block: nn.ModuleDict, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
    x = block["resnets"][0](x, frames, past)
    if "attentions" in block:
        x = block["attentions"][0](x)
    return block["resnets"][1](x, frames, past)


def _decoder_resnet(inputs: int, outputs: int, groups: int) -> VAEResnetBlock:
    return VAEResnetBlock(inputs, outputs, groups, TemporalConv(outputs))
