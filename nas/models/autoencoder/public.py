"""A public autoencoder of diffusers, run through diffusers, with the interface of `Autoencoder`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.models.autoencoder.normalization import denormalize, normalize, set_normalization
from nas.models.layers import to_frames, to_video
from nas.spaces.public_configs import PublicVAEConfig

IMAGE_KINDS = ("AutoencoderKL", "AutoencoderTiny")
"""Classes of images: the frames of a clip are encoded and decoded one by one."""
MAX_PIXELS = 1 << 18
"""Most pixels, over all clips and frames, that are encoded at once by what can encode a clip in parts."""


class PublicAutoencoder(nn.Module):
    """Video `(B, image_channels, F, H, W)` in [-1, 1] <-> latents `(B, latent_channels, T, H/f, W/f)`, see `config`.

    Long clips are encoded and decoded as diffusers does by default: Wan and CogVideoX exactly in parts, HunyuanVideo in
    blended parts, LTX-Video in one.

    Args:
        model: of diffusers.
        config: of its latents.
    """

    def __init__(self, model: nn.Module, config: PublicVAEConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        set_normalization(self, config)

    def encode(self, video: Tensor) -> Tensor:
        """The latents for the denoiser: the mean of the posterior, normalized.

        Raises:
            ConfigError: no latents stand for this number of frames.
        """
        compression = self.config.temporal_compression
        if (video.shape[2] - 1) % compression:
            raise ConfigError(
                f"a clip of {video.shape[2]} frames: {self.config.kind}, with temporal compression {compression}, encodes "
                f"1 + a multiple of {compression} frames"
            )
        return normalize(self, self._run(self._encode, video, 1))

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`.

        Raises:
            ConfigError: the decoder cannot decode this number of latent frames.
        """
        frames = latents.shape[2]
        if self.config.kind == "AutoencoderKLCogVideoX" and frames > 1 and frames % 2 == 0:
            raise ConfigError(
                f"{frames} latent frames: the decoder of AutoencoderKLCogVideoX decodes 1 or an odd number, in pairs after "
                f"the first; use a clip of {self.config.pixel_frames(frames - 1)} or "
                f"{self.config.pixel_frames(frames + 1)} frames"
            )
        return self._run(self._decode, denormalize(self, latents), self.config.downsampling**2)

    @torch.no_grad()
    def decode_with_features(self, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`decode`, and the outputs of the decoder's blocks in order, `(B, channels, T', H', W')` each."""
        decoder = self.model.decoder
        tiny = self.config.kind == "AutoencoderTiny"
        blocks = [*decoder.layers[:-1]] if tiny else [decoder.mid_block, *decoder.up_blocks]
        outputs: dict[nn.Module, list[Tensor]] = {block: [] for block in blocks}

        def record(block: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[block].append(output if isinstance(output, Tensor) else output[0])

        hooks = [block.register_forward_hook(record) for block in blocks]
        blends = getattr(self.model, "use_framewise_decoding", False)
        try:
            if blends:  # in one part, since the features of blended parts overlap
                self.model.use_framewise_decoding = False
            video = self.decode(latents)
        finally:
            for hook in hooks:
                hook.remove()
            if blends:
                self.model.use_framewise_decoding = True
        if self.config.kind in IMAGE_KINDS:
            return video, [to_video(torch.cat(parts), latents.shape[2]) for parts in outputs.values()]
        return video, [torch.cat(parts, dim=2) for parts in outputs.values()]

    def save(self, folder: str | Path) -> None:
        """Write config.json and the weights as diffusers does; `nas.models.diffusers_checkpoint.load_public` reads them."""
        self.model.save_pretrained(folder)

    def _encode(self, pixels: Tensor) -> Tensor:
        encoded = self.model.encode(pixels)
        return encoded.latents if self.config.kind == "AutoencoderTiny" else encoded.latent_dist.mode()

    def _decode(self, latents: Tensor) -> Tensor:
        if getattr(self.model.config, "timestep_conditioning", False):  # LTX-Video: noise-free latents, as its pipeline
            return self.model.decode(latents, latents.new_zeros(len(latents))).sample
        return self.model.decode(latents).sample

    def _run(self, run: Callable[[Tensor], Tensor], video: Tensor, pixels: int) -> Tensor:
        """`run` on a video, or, for an image autoencoder, on its frames, a few at a time.

        Args:
            pixels: of the image for each of the video's own.
        """
        if self.config.kind not in IMAGE_KINDS:
            return run(video)
        frames = to_frames(video)
        at_once = max(1, MAX_PIXELS // (pixels * frames.shape[-2] * frames.shape[-1]))
        return to_video(torch.cat([run(part) for part in frames.split(at_once)]), video.shape[2])
