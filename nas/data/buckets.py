"""Buckets: the few sizes that clips of all shapes and lengths are brought to, so that little of them is cut off.

Buckets by aspect ratio are those of NovelAI (2022): sizes of about one area, each side a multiple of what the network
halves. Lengths are the search space's, its half, its quarter, and so on. No bucket costs more than the space's own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nas.spaces import Latent

WIDEST = 2.0
"""The largest ratio of a bucket's longer side to its shorter one, unless the space's own is larger."""
SPACING = 1.15
"""Ratios of two buckets differ by this factor at least: closer ones would only split the data."""
SHORTEST = 2
"""Frames of the shortest bucket of clips."""


@dataclass(frozen=True)
class Size:
    """Frames, and height and width in pixels."""

    frames: int
    height: int
    width: int

    @property
    def ratio(self) -> float:
        return self.width / self.height


def sizes(latent: Latent, levels: int, downsampling: int, many: bool = True) -> tuple[Size, ...]:
    """The buckets of a search space, its own size first.

    Args:
        levels: of the backbone; heights and widths of latents must be halved `levels - 1` times.
        downsampling: pixels per latent, in height and in width.
        many: False for the space's own size alone.
    """
    own = Size(latent.frames, latent.height * downsampling, latent.width * downsampling)
    if not many:
        return (own,)
    step = 2 ** (levels - 1)
    area = latent.height * latent.width
    shapes = [(own.height, own.width)]
    for width in range(step, area // step + 1, step):
        height = area // width // step * step
        if max(width, height) > WIDEST * min(width, height):
            continue
        if all(_apart(width / height, w / h) >= SPACING for h, w in shapes):
            shapes.append((height * downsampling, width * downsampling))
    lengths = [latent.frames]
    while lengths[-1] // 2 >= SHORTEST:
        lengths.append(lengths[-1] // 2)
    return tuple(Size(frames, height, width) for height, width in shapes for frames in lengths)


def choose(buckets: Iterable[Size], ratio: float, frames: float) -> Size:
    """The bucket nearest in ratio to a clip, of those the longest that its frames fill, or else the shortest.

    Args:
        ratio: width over height of the clip.
        frames: how many it has, or is thought to have.
    """
    return min(buckets, key=lambda size: (_apart(size.ratio, ratio), _length_order(size, frames)))


def shorter(buckets: Iterable[Size], size: Size, frames: int) -> Size | None:
    """The longest bucket of the same height and width that so many frames fill."""
    fitting = [b for b in buckets if (b.height, b.width) == (size.height, size.width) and b.frames <= frames]
    return max(fitting, key=lambda b: b.frames, default=None)


def _apart(a: float, b: float) -> float:
    """The factor between two ratios, 1 or more."""
    return math.exp(abs(math.log(a / b)))


def _length_order(size: Size, frames: float) -> tuple[bool, int]:
    fills = size.frames <= frames
    return (not fills, -size.frames if fills else size.frames)
