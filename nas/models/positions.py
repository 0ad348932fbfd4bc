"""Positional encodings of video tokens: sinusoids of frame, row and column.

They depend on the size of the clip only, and are computed in numpy to become constants of a traced graph: written in
torch, LiteRT would recompute them in every run and broadcast them with an operation that XNNPACK does not support, which
splits the graph. They are added by frame and by pixel, never as one tensor as large as the tokens.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor


def add_frame(tokens: Tensor, frames: int) -> Tensor:
    """Tokens `(B, T*N, C)`, time slowest, plus the encoding of their frame in all C channels."""
    by_frame = tokens.reshape(tokens.shape[0], frames, -1, tokens.shape[-1])
    return (by_frame + _like(_frame(frames, tokens.shape[-1]), tokens)[:, None]).reshape(tokens.shape)


def add_frame_and_pixel(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Tokens `(B, T*H*W, C)` of a video `(B, C, T, H, W)`, plus the encoding of their frame (in the first half of the
    channels), of their row and of their column (in a quarter each)."""
    batch, channels, frames, height, width = shape
    by_frame = tokens.reshape(batch, frames, height * width, channels)
    time = _like(_frame_before_pixel(frames, channels), tokens)
    return (by_frame + time[:, None] + _like(_pixel(height, width, channels), tokens)).reshape(tokens.shape)


def _like(table: np.ndarray, tokens: Tensor) -> Tensor:
    return torch.from_numpy(table).to(tokens)


@functools.cache
def _frame(length: int, channels: int) -> np.ndarray:
    """`(length, channels)`: cosines, then sines, at geometrically spaced frequencies; see `nas.models.layers.sinusoid`."""
    half = (channels + 1) // 2
    angles = np.arange(length)[:, None] * np.exp(-math.log(10000.0) / max(half, 1) * np.arange(half))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)[:, :channels].astype(np.float32)


@functools.cache
def _frame_before_pixel(length: int, channels: int) -> np.ndarray:
    """`(length, channels)`: the frame's encoding in the first half, then zeros."""
    return _padded(_frame(length, channels // 2), 0, channels)


@functools.cache
def _pixel(height: int, width: int, channels: int) -> np.ndarray:
    """`(height * width, channels)`: zeros in the first half, then the row's encoding, then the column's."""
    row_channels = (channels - channels // 2) // 2
    column_channels = channels - channels // 2 - row_channels
    rows = _padded(_frame(height, row_channels), channels // 2, channels)
    columns = _padded(_frame(width, column_channels), channels - column_channels, channels)
    return (rows[:, None] + columns).reshape(height * width, channels)


def _padded(table: np.ndarray, before: int, channels: int) -> np.ndarray:
    """`(length, channels)`: the columns of the table, with `before` zero columns before them and zeros after."""
    length, width = table.shape  # np.pad cannot be traced by torch.compile
    parts = np.zeros((length, before)), table, np.zeros((length, channels - before - width))
    return np.concatenate(parts, axis=1).astype(np.float32)
