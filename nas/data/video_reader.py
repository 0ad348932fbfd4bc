"""Frames out of files: a clip, brought to the size of a bucket, in memory that its length does not change.

A file is an open binary one, so that a clip may lie inside a shard. What it is called does not matter, only what it
holds. Nothing in a file can make the decoder open another file or a network address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from nas.data.buckets import Size, choose, shorter
from nas.data.frame_conversion import DecodingError, check_size, fit, pixel_aspect, ratio

MAX_DECODED = 20_000
"""Frames that are decoded in search of a clip's window: a clip without usable times must not hold the others up."""
MAX_PACKETS = 1_000_000
"""Packets that are looked through for the length of a clip that does not say it."""
DECODING_TIMES = {"avi"}
"""Containers that hold no other times; what the decoder makes of them is wrong where frames are reordered."""
ROUNDING = 0.25
"""Of a frame's length by which containers that count in milliseconds or hundredths may misplace it."""
JUMP_BACK = 4
"""Frames' lengths by which times must go back to be those of a new beginning (clips joined), and not of one misplaced frame."""


class _SeekFailed(Exception):
    """The decoder did not come to the place that was asked for."""


def read_video(file: BinaryIO, buckets: Sequence[Size], fps: float, share: float) -> np.ndarray:
    """Consecutive frames `(3, T, H, W)` of a clip in [-1, 1], resampled to `fps`, scaled to cover a bucket, cropped.

    Frames are those shown at the times start + k / fps. A clip whose header promises more than it holds is read from
    its beginning; one without an index, or without times, is decoded from its beginning up to the window.

    Args:
        share: where in the clip the window starts: 0 at its beginning, 1 as late as its length allows.

    Raises:
        DecodingError: it is damaged, no video, too large, or shorter than every bucket.
    """
    import av

    try:
        about = _look(file)
        size = choose(buckets, about.ratio, about.seconds * fps + 1e-3 if about.seconds > 0 else np.inf)
        late = share * max(0.0, about.seconds - size.frames / fps)
        kept: list[np.ndarray] = []
        for start, seek in ((late, about.timed), (late, False), (0.0, False)):
            if seek and not start:
                continue
            try:
                kept = max(kept, _window(file, about, start, size, fps, seek), key=len)
            except _SeekFailed:
                continue
            except (av.error.FFmpegError, DecodingError):
                if not start:
                    raise
            if len(kept) == size.frames or not start:
                break
    except (av.error.FFmpegError, OSError, ValueError, EOFError, ArithmeticError) as error:
        raise DecodingError(f"cannot be decoded ({_reason(error)})") from None
    fitting = shorter(buckets, size, len(kept))
    if fitting is None:
        needed = min(bucket.frames for bucket in buckets)
        raise DecodingError(f"has only {len(kept)} frame(s) at {fps:g} per second, needs {needed}")
    return np.stack(kept[: fitting.frames], axis=1)


@dataclass(frozen=True)
class _About:
    """A clip: width over height, length (0 if it is not known), seconds of its first frame, and of one frame.

    Attributes:
        timed: frames say when they are shown.
        decoded: they rather say when they are decoded, which is at the same distances.
        aspect: width over height of a pixel.
    """

    ratio: float
    seconds: float
    origin: float
    step: float
    timed: bool
    decoded: bool
    aspect: float


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    """A file's container, and its video stream; not the picture on a song's cover."""
    import av

    file.seek(0)
    with av.open(file, options={"protocol_whitelist": "none"}) as container:
        covers = av.stream.Disposition.attached_pic
        stream = next((s for s in container.streams.video if not s.disposition & covers), None)
        if stream is None:
            raise DecodingError("holds no video stream")
        stream.thread_type = "AUTO"
        if stream.codec_context is None:
            raise DecodingError("is of a kind that no decoder here reads")
        if stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 in WebM keep it where only their own decoder looks
            raise DecodingError("is transparent in a way that no decoder here reads; convert it")
        check_size(stream.codec_context.width, stream.codec_context.height)
        yield container, stream


def _look(file: BinaryIO) -> _About:
    with _opened(file) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DecodingError("holds no frame")
        check_size(first.width, first.height)
        aspect = pixel_aspect(stream)
        shown = ratio(first, aspect)
        rate = stream.average_rate or stream.guessed_rate or 25
        decoded = container.format.name in DECODING_TIMES
        origin, timed = _time(first, decoded), first.pts is not None
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    if seconds <= 0 or not timed:
        seconds = _length(file, 1 / rate)
    return _About(shown, seconds, origin or 0.0, float(1 / rate), timed, decoded, aspect)


def _length(file: BinaryIO, step: float) -> float:
    """Seconds from the first packet's time to the last one's end; without times, as many steps as there are packets."""
    times, count = [], 0
    with _opened(file) as (container, stream):
        for packet in container.demux(stream):
            if packet.size:
                count += 1
                if packet.pts is not None:
                    end = packet.pts + (packet.duration or step / stream.time_base)
                    times = [min(packet.pts, *times[:1]), max(end, *times[1:])] if times else [packet.pts, end]
            if count == MAX_PACKETS:
                break
        return float((times[1] - times[0]) * stream.time_base) if times else float(count * step)


def _window(file: BinaryIO, about: _About, start: float, size: Size, fps: float, seek: bool) -> list[np.ndarray]:
    """Up to `size.frames` frames from `start` seconds after the first frame on; fewer where the clip ends before.

    Args:
        seek: begin to decode at the key frame before it, not at the beginning.

    Raises:
        _SeekFailed: there is no way to that key frame.
    """
    kept: list[np.ndarray] = []
    rounding = ROUNDING * min(about.step, 1 / fps)

    def show(frame: Any, until: float) -> None:
        """The frame is on the screen until then."""
        while len(kept) < size.frames and until > start + len(kept) / fps + rounding:
            kept.append(fit(frame, size, about.aspect))

    with _opened(file) as (container, stream):
        if seek:
            try:
                container.seek(int((about.origin + start) / stream.time_base), stream=stream)
            except OSError:
                raise _SeekFailed from None
        last, at = None, 0.0
        for number, (frame, time) in enumerate(_timed(container.decode(stream), about, seek)):
            if number == MAX_DECODED:
                raise DecodingError(f"shows no {size.frames} frames in time within {MAX_DECODED} decoded ones")
            check_size(frame.width, frame.height)
            if seek and last is None and time > start + rounding:
                raise _SeekFailed
            if last is not None:
                show(last, time)
            if len(kept) == size.frames:
                return kept
            last, at = frame, time
        if last is not None:
            show(last, at + (float(last.duration * last.time_base) if last.duration else about.step))
    return kept


def _timed(frames: Iterator[Any], about: _About, seek: bool) -> Iterator[tuple[Any, float]]:
    """Frames and the seconds at which they are shown, which always grow."""
    now, shift = -np.inf, about.origin
    for frame in frames:
        time = _time(frame, about.decoded)
        if time is None and seek:
            raise _SeekFailed
        following = now + about.step if np.isfinite(now) else 0.0
        if time is None:
            time = following + shift
        elif time - shift < now - JUMP_BACK * about.step:
            shift = time - following
        if time - shift > now:
            now = time - shift
            yield frame, now


def _time(frame: Any, decoded: bool) -> float | None:
    """Seconds at which a frame says it is shown."""
    ticks = frame.dts if frame.pts is None or decoded else frame.pts
    return None if ticks is None or not frame.time_base else float(ticks * frame.time_base)


def _reason(error: Exception) -> str:
    """Without the number and the name that an operating system's error repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
