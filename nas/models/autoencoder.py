"""The video autoencoder: an image encoder and a separable video decoder.

The spatial part is Stable Diffusion's VAE with the state-dict names of diffusers' `AutoencoderKL`; frames are folded into the
batch. The decoder is its 3D form, with each 3D convolution factorized into two: spatial (the image decoder's `Conv2d`) and
temporal (a causal (3,1,1) convolution, `resnets.J.temporal`). A temporal factor is residual, zero-initialized, and
skipped when T=1: with the weights of an image decoder, the video decoder decodes images exactly, before and after the
temporal factors are trained. Since they are causal, a long clip can be decoded in chunks with the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import ConfigError
from nas.models.layers import Attention, Upsampler, to_frames, to_video
from nas.spaces import VAEConfig

Past = dict[nn.Module, Tensor]
"""The last two input frames of each temporal convolution `(B, C, 2, H*W)`, carried from one chunk to the next."""


class Autoencoder(nn.Module):
    """Video `(B, image_channels, T, H, W)` in [-1, 1] <-> latents `(B, latent_channels, T, H/f, W/f)`.

    f is `config.downsampling`. A state dict of diffusers' `AutoencoderKL` loads with `load_image_weights`.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.scaling_factor = config.scaling_factor
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = SeparableDecoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode_moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latents, `(B, latent_channels, T, h, w)` each."""
        moments = self.quant_conv(self.encoder(to_frames(video)))
        mean, log_variance = to_video(moments, video.shape[2]).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(self, video: Tensor) -> Tensor:
        """The latents for the denoiser: the mean times `scaling_factor`. `(B, latent_channels, T, h, w)`."""
        return self.encode_moments(video)[0] * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`: `(B, latent_channels, T, h, w)` -> video `(B, image_channels, T, H, W)`."""
        return self.decode_unscaled(latents / self.scaling_factor)

    def decode_unscaled(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Decode latents as `encode_moments` gives them; `past` is carried from chunk to chunk of a long clip."""
        frames = latents.shape[2]
        return to_video(self.decoder(self.post_quant_conv(to_frames(latents)), frames, past), frames)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: the reconstruction from a sampled latent, and the mean and log-variance it was sampled from."""
        mean, log_variance = self.encode_moments(video)
        sample = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decode_unscaled(sample), mean, log_variance

    def load_image_weights(self, state: dict[str, Tensor]) -> None:
        """Load the state dict of an `AutoencoderKL`; the temporal factors are not changed.

        Raises:
            ConfigError: names or shapes do not match this configuration.
        """
        expected = self.state_dict()
        missing = [key for key in expected if key not in state and ".temporal." not in key]
        wrong = [key for key, value in state.items() if key not in expected or expected[key].shape != value.shape]
        if missing or wrong:
            raise ConfigError(f"the weights are those of another autoencoder: '{(missing + wrong)[0]}' does not match")
        zeros = {key: torch.zeros(value.shape) for key, value in expected.items() if value.is_meta and key not in state}
        converted = {key: value.to(expected[key].dtype) for key, value in state.items()}
        self.load_state_dict({**converted, **zeros}, strict=False, assign=any(v.is_meta for v in expected.values()))

    def temporal_parameters(self) -> list[nn.Parameter]:
        """The decoder's temporal factors."""
        return [p for name, p in self.named_parameters() if ".temporal." in name]


class Encoder(nn.Module):
    """Images `(N, image_channels, H, W)` -> moments `(N, 2 * latent_channels, h, w)` before `quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.conv_in = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            resnets = [VAEResnetBlock(channels, width, groups)]
            resnets += [VAEResnetBlock(width, width, groups) for _ in range(config.layers_per_block - 1)]
            down = VAEDownsampler(width) if level < len(widths) - 1 else None
            self.down_blocks.append(_block(resnets, downsamplers=down))
            channels = width
        self.mid_block = _mid_block(channels, config, temporal=False)
        self.conv_norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            for resnet in block["resnets"]:
                x = resnet(x)
            if "downsamplers" in block:
                x = block["downsamplers"][0](x)
        x = _run_mid_block(self.mid_block, x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class SeparableDecoder(nn.Module):
    """Latents as frames `(B*T, latent_channels, h, w)`, T -> `(B*T, image_channels, H, W)`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        channels = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.mid_block = _mid_block(channels, config, temporal=True)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            resnets = [VAEResnetBlock(channels, width, groups, temporal=True)]
            resnets += [VAEResnetBlock(width, width, groups, temporal=True) for _ in range(config.layers_per_block)]
            self.up_blocks.append(_block(resnets, upsamplers=Upsampler(width) if level else None))
            channels = width
        self.conv_norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, config.image_channels, 3, padding=1)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        x = _run_mid_block(self.mid_block, self.conv_in(x), frames, past)
        for block in self.up_blocks:
            for resnet in block["resnets"]:
                x = resnet(x, frames, past)
            if "upsamplers" in block:
                x = block["upsamplers"][0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAEResnetBlock(nn.Module):
    """`(B*T, in, H, W) -> (B*T, out, H, W)`, with a temporal factor after its last convolution if `temporal`."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, temporal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.temporal = TemporalConv(out_channels) if temporal else None
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.temporal is not None and (frames > 1 or past is not None):
            hidden = self.temporal(hidden, frames, past)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalConv(nn.Module):
    """A causal, residual, zero-initialized (3,1,1) convolution `(B*T, C, H, W) -> (B*T, C, H, W)`.

    Implemented as a (3,1) `Conv2d` over (T, H*W). The two frames before the input are taken from `past`, or are zeros, and
    the last two frames of the input are stored in it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, frames: int, past: Past | None = None) -> Tensor:
        video = to_video(x, frames).flatten(3)
        previous = None if past is None else past.get(self)
        padded = F.pad(video, (0, 0, 2, 0)) if previous is None else torch.cat([previous, video], dim=2)
        if past is not None:
            past[self] = padded[:, :, -2:].clone()
        return x + to_frames(self.conv(padded)[..., None]).reshape(x.shape)


class MidAttention(Attention):
    """`(N, C, H, W) -> (N, C, H, W)`: residual single-head self-attention over the pixels of an image."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)
        return x + super().forward(tokens).transpose(1, 2).reshape(x.shape)


class VAEDownsampler(nn.Module):
    """`(N, C, H, W) -> (N, C, H/2, W/2)`; pads the right and bottom only, as `AutoencoderKL` does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def _block(resnets: list[VAEResnetBlock], **sampler: nn.Module | None) -> nn.ModuleDict:
    samplers = {name: nn.ModuleList([module]) for name, module in sampler.items() if module is not None}
    return nn.ModuleDict({"resnets": nn.ModuleList(resnets), **samplers})


def _mid_block(channels: int, config: VAEConfig, temporal: bool) -> nn.ModuleDict:
    block = _block([VAEResnetBlock(channels, channels, config.norm_groups, temporal) for _ in range(2)])
    if config.mid_attention:
        block["attentions"] = nn.ModuleList([MidAttention(channels, config.norm_groups)])
    return block


def _run_mid_block(block: nn.ModuleDict, x: Tensor, frames: int = 1, past: Past | None = None) -> Tensor:
    x = block["resnets"][0](x, frames, past)
    if "attentions" in block:
        x = block["attentions"][0](x)
    return block["resnets"][1](x, frames, past)
