"""The video autoencoder: an image autoencoder with causal temporal layers and a separable video decoder.

The spatial part is Stable Diffusion's VAE with the state-dict names of diffusers' `AutoencoderKL`; frames are folded into the
batch. The decoder is its 3D form, with each 3D convolution factorized into two: spatial (the image decoder's `Conv2d`) and
temporal (a causal (3,1,1) convolution, `resnets.J.temporal`). With temporal compression the encoder has such factors, too,
and the samplers of the lowest resolutions also halve or double the number of frames. Temporal layers are residual,
zero-initialized, and skipped when T=1: with the weights of an image autoencoder, images are encoded and decoded exactly,
before and after the temporal layers are trained. Since they are causal, a long clip can be encoded and decoded in parts
with the same result.

T latent frames stand for 1 + (T - 1) * c frames, c being the temporal compression: the first for the first frame alone,
each later one for c. The encoder leaves the first frame of a clip as it is: its latent is that of the image. The decoder
makes c frames of each latent frame, so that all parts of a clip are decoded alike, and drops the first c - 1 of the clip.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.models.autoencoder.blocks import Encoder, SeparableDecoder, is_image
from nas.models.autoencoder.normalization import denormalize, normalize, set_normalization
from nas.models.autoencoder.public import PublicAutoencoder
from nas.models.autoencoder.temporal import Past
from nas.models.layers import to_frames, to_video
from nas.spaces import VAEConfig


class Autoencoder(nn.Module):
    """Video `(B, image_channels, F, H, W)` in [-1, 1] <-> latents `(B, latent_channels, T, H/f, W/f)`.

    F is `config.pixel_frames(T)` and f `config.downsampling`. A state dict of diffusers' `AutoencoderKL` loads with
    `load_image_weights`. With `config.encoder` it is only a decoder, and `encode` is that of the public autoencoder.

    Args:
        public: that of `config.encoder`, if it is already loaded.
    """

    def __init__(self, config: VAEConfig, public: PublicAutoencoder | None = None) -> None:
        super().__init__()
        self.config = config
        if public is not None:
            self.__dict__["public"] = public  # no submodule: no part of the state dict
        set_normalization(self, config)
        latent = config.latent_channels
        own = config.encoder is None
        self.encoder = Encoder(config) if own else None
        self.decoder = SeparableDecoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if own else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode_moments(self, video: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latents, `(B, latent_channels, T, h, w)` each.

        Args:
            past: carried from part to part of a long clip; parts after the first have a multiple of the temporal
                compression of frames.

        Raises:
            ConfigError: no latents stand for this number of frames.
        """
        frames, compression = video.shape[2], self.config.temporal_compression
        if (frames - (not past)) % compression:
            raise ConfigError(
                f"a clip of {frames} frames: the autoencoder, with temporal compression {compression}, encodes "
                f"{'multiples' if past else '1 + a multiple'} of {compression} frames"
            )
        moments = self.quant_conv(self.encoder(to_frames(video), frames, past))
        mean, log_variance = to_video(moments, len(moments) // len(video)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(self, video: Tensor, past: Past | None = None) -> Tensor:
        """The latents for the denoiser: the mean, normalized. `(B, latent_channels, T, h, w)`.

        Raises:
            ConfigError, MissingDependency: the public autoencoder of `config.encoder` cannot be loaded.
        """
        if self.config.encoder is not None:
            return self.public.to(video.device).encode(video)
        return normalize(self, self.encode_moments(video, past)[0])

    @cached_property
    def public(self) -> PublicAutoencoder:
        """The public autoencoder of `config.encoder`, loaded when it is first used; no part of the state dict."""
        from nas.models.diffusers_checkpoint import load_public

        return load_public(self.config.encoder)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`: `(B, latent_channels, T, h, w)` -> video `(B, image_channels, F, H, W)`."""
        return self.decode_unscaled(denormalize(self, latents))

    def decode_unscaled(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Decode latents as `encode_moments` gives them; `past` is carried from part to part of a long clip."""
        dropped = 0 if past or is_image(latents.shape[2], past) else self.config.temporal_compression - 1
        video = self.decode_all_frames(latents, past)
        return video[:, :, dropped:] if dropped else video

    def decode_all_frames(self, latents: Tensor, past: Past | None) -> Tensor:
        """`decode_unscaled` with the frames that are dropped at a clip's start: c frames for each latent frame."""
        batch, frames = len(latents), latents.shape[2]
        decoded = self.decoder(self.post_quant_conv(to_frames(latents)), frames, past)
        return to_video(decoded, len(decoded) // batch)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: the reconstruction from a sampled latent, and the mean and log-variance it was sampled from."""
        mean, log_variance = self.encode_moments(video)
        sample = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decode_unscaled(sample), mean, log_variance

    def load_image_weights(self, state: dict[str, Tensor]) -> None:
        """Load the state dict of an `AutoencoderKL`; the temporal layers are not changed.

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
        """The parameters of the temporal layers."""
        return [p for name, p in self.named_parameters() if ".temporal." in name]
