"""Measures of clips that need no labels, after VBench (Huang et al., CVPR 2024), with block matching in place of networks.

Each is one number per clip. VBench measures motion by RAFT, interpolates frames with AMT and compares frames by DINO and
CLIP; no package holds their weights, so values here are comparable with each other and with those of real clips, not
with VBench's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

SIDE = 48
"""Clips are resized to this many pixels of the longer side."""
REACH = 3
"""Farthest way of a block between two frames, in pixels of the reduced clip."""
BLOCK = 5
"""Side of the blocks that are compared; odd."""
PAIRS_PER_SECOND = 8.0
"""Motion is measured between frames that are at least 1 / this many seconds apart."""
GAIN, LEAST_GAIN = 0.8, 0.01
"""A block has moved if its match is this much better than the block that stayed: as a factor, and in gray levels of 2."""
FASTEST_SHARE = 0.05
"""A clip's motion is that of the fastest 5% of its pixels, as in VBench."""
DYNAMIC = 0.06
"""Shares of the shorter side per second from which on a clip is dynamic: half of the slowest objects of scenes."""


@dataclass(frozen=True)
class LabelFree:
    """Of one clip; all but `speed` from 0 to 1, higher is better.

    Attributes:
        dynamic: 1 if something moves.
        speed: of the fastest pixels, in shares of the shorter side per second.
        smoothness: 1 minus the error of each frame against its neighbors, interpolated along their motion.
        flicker: 1 minus the mean change of the pixels that do not move.
        background: similarity of the frames' backgrounds, by their colors and edges.
    """

    dynamic: float
    speed: float
    smoothness: float
    flicker: float
    background: float


def measure(clip: Tensor, fps: float, background: np.ndarray | None = None) -> LabelFree:
    """
    Args:
        clip: `(C, T, H, W)` in [-1, 1], of at least two frames.
        background: `(T, H, W)`, which pixels are background; default: all.
    """
    gray = gray_frames(clip)
    stride = min(max(1, round(fps / PAIRS_PER_SECOND)), len(gray) - 1)
    way, still = block_motion(gray[:-stride], gray[stride:])
    fastest = max(1, round(FASTEST_SHARE * way[0].size))
    top = np.sort(way.reshape(len(way), -1))[:, -fastest:].mean()
    speed = float(top / min(gray.shape[1:]) * fps / stride)
    if stride > 1:
        _, still = block_motion(gray[:-1], gray[1:])
    change = abs(gray[1:] - gray[:-1])
    return LabelFree(
        dynamic=float(speed >= DYNAMIC),
        speed=speed,
        smoothness=1 - interpolation_error(gray) / 2,
        flicker=1 - float((change[still] if still.any() else change).mean()) / 2,
        background=consistency(background_features(clip.numpy(), background)),
    )


def gray_frames(clip: Tensor) -> np.ndarray:
    """Frames `(T, H, W)` of a clip `(C, T, H, W)`, the mean of its channels, `SIDE` pixels on the longer side."""
    gray = clip.float().clamp(-1, 1).mean(0)
    longer = max(gray.shape[1:])
    size = [max(8, round(length * SIDE / longer)) for length in gray.shape[1:]]
    return F.interpolate(gray[None], size, mode="bilinear", antialias=True)[0].numpy()


def block_motion(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel's block has moved, in pixels `(N, H, W)`, and which pixels have not, of frames `(N, H, W)`."""
    still = _blocks(abs(before - after))
    best, way = still.copy(), np.zeros_like(still)
    for dy, dx in _ways(REACH):
        cost = _blocks(abs(_moved(before, dy, dx) - after))
        better = cost < best
        best[better] = cost[better]
        way[better] = np.hypot(dy, dx)
    stays = best > np.minimum(GAIN * still, still - LEAST_GAIN)
    return np.where(stays, 0, way), stays


def interpolation_error(gray: np.ndarray) -> float:
    """Mean error of each frame `(T, H, W)` against the mean of its neighbors, moved toward it along their motion."""
    if len(gray) < 3:
        return 0.0
    before, middle, after = gray[:-2], gray[1:-1], gray[2:]
    best = np.full_like(before, np.inf)
    guess = np.zeros_like(before)
    for dy, dx in [(0, 0), *_ways(REACH)]:
        forward, backward = _moved(before, dy, dx), _moved(after, -dy, -dx)
        cost = _blocks(abs(forward - backward)) + np.float32(1e-3 * np.hypot(dy, dx))
        better = cost < best
        best[better] = cost[better]
        guess[better] = ((forward + backward) / 2)[better]
    return float(abs(guess - middle).mean())


def background_features(clip: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """`(T, D)` of a clip `(C, T, H, W)`: histograms of the colors and of the edges of each frame's background."""
    levels = (clip.clip(-1, 1) + 1) / 2
    features = []
    for t in range(clip.shape[1]):
        frame = levels[:, t]
        inside = np.ones(frame.shape[1:], bool) if background is None else background[t]
        if not inside.any():
            inside = np.ones_like(inside)
        gray = frame.mean(0)
        parts = [_soft_histogram(channel[inside], 16) for channel in frame]
        edges = np.hypot(ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)) / 8
        parts.append(_soft_histogram(np.sqrt(edges[inside]).clip(0, 1), 16))
        features.append(np.concatenate(parts))
    return np.stack(features)


def consistency(features: np.ndarray) -> float:
    """Mean cosine similarity of the features `(T, D)` of frames with those of the first and of the previous one."""
    if len(features) < 2:
        return 1.0
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    return float(((unit[1:] @ unit[0]).mean() + (unit[1:] * unit[:-1]).sum(1).mean()) / 2)


def frame_consistency(clip: Tensor, features: Callable[[Tensor], np.ndarray]) -> float:
    """`consistency` of whole frames of a clip `(C, T, H, W)`; `features` takes clips `(N, C, 1, H, W)`."""
    return consistency(features(clip.transpose(0, 1)[:, :, None]))


def _soft_histogram(values: np.ndarray, bins: int) -> np.ndarray:
    """Shares of values from 0 to 1 in bins; each value is shared by the two nearest ones, so that none jumps."""
    place = values.ravel() * (bins - 1)
    low = np.floor(place).astype(int).clip(0, bins - 2)
    high = (place - low).clip(0, 1)
    counts = np.bincount(low, 1 - high, bins) + np.bincount(low + 1, high, bins)
    return counts / max(len(place), 1)


def _moved(frames: np.ndarray, dy: int, dx: int) -> np.ndarray:
    return np.roll(frames, (dy, dx), (1, 2))


def _blocks(cost: np.ndarray) -> np.ndarray:
    """The mean over each pixel's block."""
    rows = ndimage.uniform_filter1d(cost, BLOCK, axis=1, mode="wrap")
    return ndimage.uniform_filter1d(rows, BLOCK, axis=2, mode="wrap")


def _ways(reach: int) -> list[tuple[int, int]]:
    """All ways of at most this length but none, the shortest first, so that a shorter one wins a tie."""
    offsets = range(-reach, reach + 1)
    every = [(dy, dx) for dy in offsets for dx in offsets if 0 < dy**2 + dx**2 <= reach**2]
    return sorted(every, key=lambda way: way[0] ** 2 + way[1] ** 2)
