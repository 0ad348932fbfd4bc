"""Positional encodings of video tokens: sinusoids of frame, row and column.

They depend on the size of the clip only, and are computed in numpy to become constants of a traced graph: written in
torch, LiteRT would recompute them in every run and broadcast them with an operation that XNNPACK does not support, which
splits the graph. They are added by frame and by pixel, never as one tensor as large as the tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def add_frame(tokens: Tensor, frames: int) -> Tensor:
    """Tokens `(B, T*N, C)`, time slowest, plus the encoding of their frame in all C channels."""
    by_frame = tokens.reshape(tokens.shape[0], frames, -1, tokens.shape[-1])
    return (by_frame + _like(tokens, _frame, frames, tokens.shape[-1])[:, None]).reshape(tokens.shape)


def add_frame_and_pixel(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Tokens `(B, T*H*W, C)` of a video `(B, C, T, H, W)`, plus the encoding of their frame (in the first half of the
    channels), of their row and of their column (in a quarter each)."""
    batch, channels, frames, height, width = shape
    by_frame = tokens.reshape(batch, frames, height * width, channels)
    time = _like(tokens, _frame_before_pixel, frames, channels)
    return (by_frame + time[:, None] + _like(tokens, _pixel, height, width, channels)).reshape(tokens.shape)


def _like(tokens: Tensor, table: Callable[..., np.ndarray], *sizes: int) -> Tensor:
    """The table of these sizes, on the device of the tokens and in their type; a copy for a GPU is made once."""
    if tokens.device.type in ("cpu", "meta"):
        return torch.from_numpy(table(*sizes)).to(tokens)
    return _on_device(tokens.device, tokens.dtype, table, *sizes)


@functools.lru_cache(maxsize=256)
def _on_device(device: torch.device, dtype: torch.dtype, table: Callable[..., np.ndarray], *sizes: int) -> Tensor:
    with torch.inference_mode(False):  # it may be used in training after generation
        return torch.from_numpy(table(*sizes)).to(device, dtype)


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
