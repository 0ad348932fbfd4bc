"""Real clips, images and broken files for tests, made by PyAV and Pillow."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_clip(path: Path, frames: int, rate: int = 8, height: int = 48, width: int = 64, format: str = "mp4") -> Path:
    """A clip whose brightness is 10 times the frame's number."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = height, width, "yuv420p", 4_000_000
        for number in range(frames):
            frame = np.full((height, width, 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def write_image(path: Path, height: int = 30, width: int = 90, format: str = "png") -> Path:
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(path, format)
    return path


def brightness(pixels: np.ndarray) -> np.ndarray:
    """Of each frame of `(C, T, H, W)`, 0 to 255."""
    return (pixels.mean((0, 2, 3)) + 1) * 127.5


def claim_frames(path: Path, frames: int) -> None:
    """Make an MP4's tables say that it holds so many frames: those of times, durations and the edit list."""
    data = bytearray(path.read_bytes())

    def put(box: bytes, offset: int, value: int) -> None:
        place = data.index(box) + len(box) + offset
        data[place : place + 4] = value.to_bytes(4, "big")

    def get(box: bytes, offset: int) -> int:
        place = data.index(box) + len(box) + offset
        return int.from_bytes(data[place : place + 4], "big")

    ticks = frames * get(b"stts", 12)
    put(b"stts", 8, frames)
    put(b"mdhd", 16, ticks)
    for box, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"elst", 8)):
        put(box, offset, ticks * get(b"mvhd", 12) // get(b"mdhd", 12))
    path.write_bytes(data)
