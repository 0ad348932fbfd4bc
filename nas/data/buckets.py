"""Aspect-ratio and length buckets: the sizes that clips are resized to, so that little of them is cropped.

Aspect ratios follow NovelAI (2022): sizes of about equal area, each side divisible by the downsampling of the network.
Lengths are the search space's, a half of its latent frames, a quarter, and so on. No bucket costs more than the space's own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nas.spaces import Latent, VAEConfig

MAX_ASPECT_RATIO = 2.0
"""Largest ratio of a bucket's longer side to its shorter one, unless the space's own is larger."""
MIN_SPACING = 1.15
"""Aspect ratios of two buckets differ by at least this factor: closer ones would only split the data."""
MIN_FRAMES = 2
"""Latent frames of the shortest bucket of clips."""


@dataclass(frozen=True)
class Size:
    """Frames, and height and width in pixels."""

    frames: int
    height: int
    width: int

    @property
    def ratio(self) -> float:
        return self.width / self.height


def sizes(latent: Latent, levels: int, autoencoder: VAEConfig, multiple: bool = True) -> tuple[Size, ...]:
    """The buckets of a search space; its own size comes first.

    Args:
        levels: resolution levels of the backbone, which halves latents `levels - 1` times.
        autoencoder: its compression relates latents to clips.
        multiple: False for only the space's own size.
    """
    downsampling = autoencoder.downsampling
    own = Size(autoencoder.pixel_frames(latent.frames), latent.height * downsampling, latent.width * downsampling)
    if not multiple:
        return (own,)
    step = 2 ** (levels - 1)
    area = latent.height * latent.width
    shapes = [(own.height, own.width)]
    for width in range(step, area // step + 1, step):
        height = area // width // step * step
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            continue
        if all(_ratio_distance(width / height, w / h) >= MIN_SPACING for h, w in shapes):
            shapes.append((height * downsampling, width * downsampling))
    lengths = [latent.frames]
    while lengths[-1] // 2 >= MIN_FRAMES:
        lengths.append(lengths[-1] // 2)
    return tuple(
        Size(autoencoder.pixel_frames(frames), height, width) for height, width in shapes for frames in lengths
    )


def choose(buckets: Iterable[Size], ratio: float, frames: float) -> Size:
    """The bucket for a clip: nearest aspect ratio, then the longest that its frames fill, otherwise the shortest.

    Args:
        ratio: width / height of the clip.
        frames: its number of frames, possibly estimated.
    """
    return min(buckets, key=lambda size: (_ratio_distance(size.ratio, ratio), _length_order(size, frames)))


def shorter(buckets: Iterable[Size], size: Size, frames: int) -> Size | None:
    """The longest bucket of the same height and width that `frames` frames fill; None if there is none."""
    fitting = [b for b in buckets if (b.height, b.width) == (size.height, size.width) and b.frames <= frames]
    return max(fitting, key=lambda b: b.frames, default=None)


def _ratio_distance(a: float, b: float) -> float:
    """The factor between two ratios, at least 1."""
    return math.exp(abs(math.log(a / b)))


def _length_order(size: Size, frames: float) -> tuple[bool, int]:
    fills = size.frames <= frames
    return (not fills, -size.frames if fills else size.frames)
