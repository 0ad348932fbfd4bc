"""Real clips, images and broken files for tests, made by PyAV and Pillow."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image

EXACT = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


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


def write_video(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    format: str | None = None,
    rate: int = 8,
    times: list[int] | None = None,
    tags: dict | None = None,
    options: dict | None = None,
    matrix: str | int = "ITU601",
    full: bool = False,
    sar: Fraction | None = None,
    muxing: dict | None = None,
) -> Path:
    """A clip of frames `(H, W, 3 or 4)`, 8 or 16 bits, by any encoder.

    Args:
        times: of each frame, in units of 1 / rate.
        tags: fields of the encoder's context that say what the colors are.
        matrix, full: what the colors really are.
    """
    with av.open(str(path), "w", format=format, options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
            stream.sample_aspect_ratio = sar
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for number, image in enumerate(frames):
            kind = {(3, 1): "rgb24", (4, 1): "rgba", (3, 2): "rgb48le"}[image.shape[2], image.dtype.itemsize]
            frame = av.VideoFrame.from_ndarray(image, kind)
            frame = frame.reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range="JPEG" if full else "MPEG", interpolation=EXACT
            )
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        container.mux(stream.encode())
    return path


def numbered(count: int, height: int = 48, width: int = 64, step: int = 10) -> list[np.ndarray]:
    """Gray frames whose brightness is `step` times their number."""
    return [np.full((height, width, 3), step * number % 256, np.uint8) for number in range(count)]
