"""Encodes and decodes long or large clips in constant memory: in chunks of frames, and decodes in tiles of the image.

Chunks give the same as the whole clip at once, since the temporal layers are causal and carry their last frames from chunk
to chunk. Tiles are approximate: norms and attention of the decoder span the image, so each tile has its
own statistics; overlaps are blended linearly to hide the difference.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.models.autoencoder.model import Autoencoder
from nas.models.autoencoder.normalization import denormalize, set_normalization
from nas.models.autoencoder.public import MAX_PIXELS, PublicAutoencoder
from nas.models.autoencoder.temporal import Past
from nas.models.layers import to_frames, to_video


@torch.no_grad()
def encode_clips(autoencoder: Autoencoder | PublicAutoencoder, video: Tensor) -> Tensor:
    """The latents of `encode`, on its device; long or large clips are encoded a few frames at a time, public ones as
    diffusers does."""
    batch, _, frames, height, width = video.shape
    if frames == 1:
        return autoencoder.encode(video.to(_device(autoencoder)))
    compression = autoencoder.config.temporal_compression
    chunk = max(1, MAX_PIXELS // (batch * height * width * compression))
    return torch.cat(list(encode_chunks(autoencoder, video, chunk)), dim=2)


@torch.no_grad()
def encode_chunks(autoencoder: Autoencoder | PublicAutoencoder, video: Tensor, frames: int = 4) -> Iterator[Tensor]:
    """Encode `(B, image_channels, F, H, W)` chunk by chunk; concatenated along T, the chunks are `encode(video)`.

    Chunks are moved to the autoencoder's device one by one, as those of `decode_chunks`.

    Args:
        autoencoder: a public one encodes the clip in one chunk, which diffusers may do in parts.
        frames: latent frames per chunk.

    Raises:
        ConfigError: `frames` is below 1, or no latents stand for F frames.
    """
    if frames < 1:
        raise ConfigError(f"frames: must be at least 1, not {frames}")
    config = autoencoder.config
    if isinstance(autoencoder, PublicAutoencoder) or config.encoder is not None:
        yield autoencoder.encode(video)
        return
    total = config.latent_frames(video.shape[2])
    if config.pixel_frames(total) != video.shape[2]:
        autoencoder.encode_moments(video)  # raises
    past: Past = {}
    for start in range(0, total, frames):
        first = config.pixel_frames(start) if start else 0
        part = video[:, :, first : config.pixel_frames(min(start + frames, total))]
        yield autoencoder.encode(part.to(_device(autoencoder)), past)


@torch.no_grad()
def decode_chunks(
    autoencoder: Autoencoder | PublicAutoencoder,
    latents: Tensor,
    frames: int = 4,
    tile: int | None = None,
    overlap: int = 8,
) -> Iterator[Tensor]:
    """Decode `(B, latent_channels, T, h, w)` chunk by chunk; concatenated along T, the chunks are the video.

    Memory grows with `frames`, with `tile` squared and, for the carried frames, with h*w, but not with T.

    Args:
        autoencoder: a public one decodes the clip in one chunk, which diffusers may do in parts.
        latents: of the whole clip.
        frames: latent frames per chunk.
        tile: height and width of a tile, in latents; None decodes whole frames.
        overlap: of adjacent tiles, in latents.

    Yields:
        `(B, image_channels, up to frames * temporal compression, H, W)`.

    Raises:
        ConfigError: `frames` is below 1, or `overlap` is not below `tile`.
    """
    if frames < 1:
        raise ConfigError(f"frames: must be at least 1, not {frames}")
    if tile is not None and not 0 <= overlap < tile:
        raise ConfigError(f"overlap: must be at least 0 and below tile={tile}, not {overlap}")
    if isinstance(autoencoder, PublicAutoencoder):
        yield autoencoder.decode(latents)
        return
    height, width = latents.shape[3:]
    boxes = [(y, x) for y in _starts(height, tile, overlap) for x in _starts(width, tile, overlap)]
    single_chunk = latents.shape[2] <= frames
    pasts: list[Past | None] = [None if single_chunk else {} for _ in boxes]
    size = (min(tile or height, height), min(tile or width, width))
    for start in range(0, latents.shape[2], frames):
        chunk = denormalize(autoencoder, latents[:, :, start : start + frames].to(_device(autoencoder)))
        if len(boxes) == 1:
            yield autoencoder.decode_unscaled(chunk, pasts[0])
        else:
            yield _decode_tiles(autoencoder, chunk, boxes, size, overlap, pasts)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _decode_tiles(autoencoder, chunk: Tensor, boxes: list, size: tuple, overlap: int, pasts: list) -> Tensor:
    """Decode the tiles of one chunk and blend them, with weights that decrease toward the edges of a tile."""
    scale, config = autoencoder.config.downsampling, autoencoder.config
    batch, _, _, height, width = chunk.shape
    video = None
    total = chunk.new_zeros(height * scale, width * scale)
    ramps = [_ramp(length * scale, overlap * scale, chunk) for length in size]
    weight = ramps[0][:, None] * ramps[1]
    for (y, x), past in zip(boxes, pasts):
        part = autoencoder.decode_unscaled(chunk[..., y : y + size[0], x : x + size[1]], past)
        if video is None:
            video = chunk.new_zeros(batch, config.image_channels, part.shape[2], height * scale, width * scale)
        rows, columns = slice(y * scale, (y + size[0]) * scale), slice(x * scale, (x + size[1]) * scale)
        video[..., rows, columns] += part * weight
        total[rows, columns] += weight
    return video / total


def _starts(length: int, tile: int | None, overlap: int) -> list[int]:
    """Start positions of tiles that cover `length`; the last one ends at `length`."""
    if tile is None or tile >= length:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    """Blending weights `(length,)`: rise over `overlap` at one end and fall at the other; positive everywhere."""
    steps = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(steps, steps.flip(0)).clamp(max=overlap + 1) / (overlap + 1)


class DecoderRun(nn.Module):
    """One run of the decoder on a part of a clip, as a function of its state: what profiling measures and a phone runs.

    `latents (B, latent_channels, T, h, w)` of the denoiser and the state's tensors by name -> `video (B, image_channels,
    T * c, H, W)`, c being the temporal compression, and the state after it by name with `_out`. The state of a clip's start
    is all zeros, and the first c - 1 frames of a clip's first run are not part of the clip.

    Args:
        autoencoder: only its decoder is used.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        set_normalization(self, autoencoder.config)
        self.scaling_factor = autoencoder.scaling_factor
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder

    def forward(self, latents: Tensor, **state: Tensor) -> dict[str, Tensor]:
        layers = {f"state_{name}": module for name, module, _ in self.decoder.temporal_layers()}
        past: Past = {module: state[name] for name, module in layers.items()}
        frames = self.post_quant_conv(to_frames(denormalize(self, latents)))
        decoded = self.decoder(frames, latents.shape[2], past)
        video = to_video(decoded, len(decoded) // len(latents))
        return {"video": video, **{f"{name}_out": past[module] for name, module in layers.items()}}

    def initial_state(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        """The state of a clip's start, for latents of this height and width: zeros `(batch, channels, 2, pixels)`."""
        return {
            f"state_{name}": torch.zeros(batch, module.conv.in_channels, 2, height * width * scale**2)
            for name, module, scale in self.decoder.temporal_layers()
        }
