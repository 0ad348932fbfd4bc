"""Frames out of files: one clip or image, brought to the size of a bucket, in memory that its length does not change.

A file is an open binary one, so that a clip may lie inside a shard. What it is called does not matter, only what it
holds. Nothing in a file can make the decoder open another file or a network address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from nas.training.buckets import Size, choose, shorter

MAX_PIXELS = 8192 * 8192
"""Of one frame; a larger one is a broken header or would not fit memory."""
MAX_DECODED = 20_000
"""Frames that are decoded in search of a clip's window: a clip without usable times must not hold the others up."""


class Undecodable(Exception):
    """The file gives no clip or image; the text is the reason."""


def read_video(file: BinaryIO, buckets: Sequence[Size], fps: float, share: float) -> np.ndarray:
    """Consecutive frames `(3, T, H, W)` of a clip in [-1, 1], resampled to `fps`, scaled to cover a bucket, cropped.

    Frames are those shown at the times start + k / fps. A clip whose header promises more than it holds is read from
    its beginning.

    Args:
        share: where in the clip the window starts: 0 at its beginning, 1 as late as its length allows.

    Raises:
        Undecodable: it is damaged, no video, too large, or shorter than every bucket.
    """
    import av

    try:
        with av.open(file, options={"protocol_whitelist": "none"}) as container:
            if not container.streams.video:
                raise Undecodable("holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.codec_context is None:
                raise Undecodable("is of a kind that no decoder here reads")
            _check_size(stream.codec_context.width, stream.codec_context.height)
            first = next(container.decode(stream), None)
            if first is None:
                raise Undecodable("holds no frame")
            origin = first.time or 0.0
            seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            size = choose(buckets, _ratio(first), seconds * fps + 1e-3 if seconds > 0 else np.inf)
            late = share * max(0.0, seconds - size.frames / fps)
            kept: list[np.ndarray] = []
            for start in dict.fromkeys((late, 0.0)):
                try:
                    kept = max(kept, _window(container, stream, origin, start, size, fps), key=len)
                except (av.error.FFmpegError, Undecodable):
                    if not start:
                        raise
                if len(kept) == size.frames:
                    break
    except (av.error.FFmpegError, OSError, ValueError, EOFError, ArithmeticError) as error:
        raise Undecodable(f"cannot be decoded ({_reason(error)})") from None
    fitting = shorter(buckets, size, len(kept))
    if fitting is None:
        needed = min(bucket.frames for bucket in buckets)
        raise Undecodable(f"has only {len(kept)} frame(s) at {fps:g} per second, needs {needed}")
    return np.stack(kept[: fitting.frames], axis=1)


def read_image(file: BinaryIO, buckets: Sequence[Size]) -> np.ndarray:
    """An image `(3, 1, H, W)` in [-1, 1], scaled to cover the bucket nearest in ratio and cropped.

    Raises:
        Undecodable: it is damaged, no image, or too large.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            _check_size(image.width, image.height)
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, Image.DecompressionBombError) as error:
        raise Undecodable(f"cannot be decoded ({_reason(error)})") from None
    size = choose(buckets, upright.width / upright.height, np.inf)
    return _crop(np.asarray(ImageOps.fit(upright, (size.width, size.height))), size)[:, None]


def _window(container, stream, origin: float, start: float, size: Size, fps: float) -> list[np.ndarray]:
    """Up to `size.frames` frames from `start` seconds after the first frame on; fewer where the clip ends before."""
    container.seek(int((origin + start) / stream.time_base), stream=stream)  # to the key frame before it
    kept: list[np.ndarray] = []

    def show(frame, until: float) -> None:
        """The frame is on the screen until then."""
        while len(kept) < size.frames and until > start + len(kept) / fps + 1e-6:
            kept.append(_fit(frame, size))

    last = None
    for number, frame in enumerate(container.decode(stream)):
        if number == MAX_DECODED:
            raise Undecodable(f"shows no {size.frames} frames in time within {MAX_DECODED} decoded ones")
        _check_size(frame.width, frame.height)
        if last is not None:
            show(last, (frame.time or 0.0) - origin)
        if len(kept) == size.frames:
            return kept
        last = frame
    if last is not None:
        length = last.duration * last.time_base if last.duration else 1 / (stream.average_rate or fps)
        show(last, (last.time or 0.0) - origin + float(length))
    return kept


def _ratio(frame) -> float:
    """Width over height as it is to be shown."""
    ratio = frame.width / frame.height
    return 1 / ratio if frame.rotation % 180 else ratio


def _fit(frame, size: Size) -> np.ndarray:
    """A frame turned upright, scaled to cover the size and cropped, `(3, height, width)`."""
    turned = frame.rotation % 180 != 0  # phones store a clip lying on its side and say so
    height, width = (size.width, size.height) if turned else (size.height, size.width)
    scale = max(height / frame.height, width / frame.width)
    scaled = frame.reformat(max(width, round(frame.width * scale)), max(height, round(frame.height * scale)), "rgb24")
    return _crop(np.rot90(scaled.to_ndarray(), frame.rotation // 90), size)


def _crop(pixels: np.ndarray, size: Size) -> np.ndarray:
    top, left = (pixels.shape[0] - size.height) // 2, (pixels.shape[1] - size.width) // 2
    pixels = pixels[top : top + size.height, left : left + size.width]
    return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def _reason(error: Exception) -> str:
    """Without the number and the name that an operating system's error repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable(f"frames of {width}x{height} are too large")
