"""Reads clips from video files with PyAV, resized to a bucket, in memory that does not grow with their length.

Files are passed as open binary files, since a clip may be inside a shard; the format is detected from the content. Nothing
in a file can make the decoder open another file or a network address.
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
"""Most frames decoded to reach the window of a clip, so that a clip without usable timestamps does not block the rest."""
MAX_PACKETS = 1_000_000
"""Most packets read to measure the length of a clip whose header does not give it."""
DECODING_TIMES = {"avi"}
"""Containers with decoding timestamps only; presentation timestamps derived from them are wrong for reordered frames."""
ROUNDING = 0.25
"""Tolerance of timestamps, as a share of a frame's duration: some containers count in milliseconds or hundredths."""
JUMP_BACK = 4
"""Timestamps that jump back by more frame durations than this restart (joined clips); less is one misplaced frame."""


class _SeekFailed(Exception):
    """The decoder could not seek to the requested time."""


def read_video(file: BinaryIO, buckets: Sequence[Size], fps: float, share: float) -> np.ndarray:
    """Consecutive frames `(3, T, H, W)` of a clip in [-1, 1], resampled to `fps`, scaled to cover a bucket, cropped.

    Frames are those displayed at start + k / fps. A clip that is shorter than its header says is read from its
    beginning; one without an index or without timestamps is decoded from its beginning up to the window.

    Args:
        share: where the window starts: 0 at the beginning of the clip, 1 as late as its length allows.

    Raises:
        DecodingError: the file is damaged, not a video, too large, or shorter than every bucket.
    """
    import av

    try:
        info = _probe(file)
        size = choose(buckets, info.ratio, info.seconds * fps + 1e-3 if info.seconds > 0 else np.inf)
        late = share * max(0.0, info.seconds - size.frames / fps)
        kept: list[np.ndarray] = []
        for start, seek in ((late, info.timed), (late, False), (0.0, False)):
            if seek and not start:
                continue
            try:
                kept = max(kept, _window(file, info, start, size, fps, seek), key=len)
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
class _ClipInfo:
    """Properties of a clip.

    Attributes:
        ratio: width / height of the displayed picture.
        seconds: length; 0 if unknown.
        origin: timestamp of the first frame, in seconds.
        step: duration of a frame, in seconds.
        timed: frames have timestamps.
        decoded: only decoding timestamps are usable; their spacing is that of the presentation timestamps.
        aspect: width / height of a pixel.
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
    """The container of a file and its video stream; cover art of audio files does not count as one."""
    import av

    file.seek(0)
    with av.open(file, options={"protocol_whitelist": "none"}) as container:
        covers = av.stream.Disposition.attached_pic
        stream = next((s for s in container.streams.video if not s.disposition & covers), None)
        if stream is None:
            raise DecodingError("holds no video stream")
        stream.thread_type = "AUTO"
        if stream.codec_context is None:
            raise DecodingError("has a codec that no installed decoder reads")
        if stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 store alpha as a separate stream
            raise DecodingError("is transparent in a way that no installed decoder reads; convert it")
        check_size(stream.codec_context.width, stream.codec_context.height)
        yield container, stream


def _probe(file: BinaryIO) -> _ClipInfo:
    """Properties of a clip, from its header and first frame."""
    with _opened(file) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DecodingError("holds no frame")
        check_size(first.width, first.height)
        aspect = pixel_aspect(stream)
        displayed_ratio = ratio(first, aspect)
        rate = stream.average_rate or stream.guessed_rate or 25
        decoded = container.format.name in DECODING_TIMES
        origin, timed = _time(first, decoded), first.pts is not None
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    if seconds <= 0 or not timed:
        seconds = _length(file, 1 / rate)
    return _ClipInfo(displayed_ratio, seconds, origin or 0.0, float(1 / rate), timed, decoded, aspect)


def _length(file: BinaryIO, step: float) -> float:
    """Seconds from the first packet's timestamp to the last one's end; without timestamps, packets times `step`."""
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


def _window(file: BinaryIO, info: _ClipInfo, start: float, size: Size, fps: float, seek: bool) -> list[np.ndarray]:
    """Up to `size.frames` frames from `start` seconds after the first frame on; fewer where the clip ends before.

    Args:
        seek: start decoding at the key frame before `start` instead of at the beginning.

    Raises:
        _SeekFailed: that key frame cannot be reached.
    """
    kept: list[np.ndarray] = []
    rounding = ROUNDING * min(info.step, 1 / fps)

    def display(frame: Any, until: float) -> None:
        """Keep the frame once for each output time before `until`, at which it is replaced."""
        while len(kept) < size.frames and until > start + len(kept) / fps + rounding:
            kept.append(fit(frame, size, info.aspect))

    with _opened(file) as (container, stream):
        if seek:
            try:
                container.seek(int((info.origin + start) / stream.time_base), stream=stream)
            except OSError:
                raise _SeekFailed from None
        last, at = None, 0.0
        for number, (frame, time) in enumerate(_timed(container.decode(stream), info, seek)):
            if number == MAX_DECODED:
                raise DecodingError(f"has fewer than {size.frames} timed frames among the first {MAX_DECODED} decoded")
            check_size(frame.width, frame.height)
            if seek and last is None and time > start + rounding:
                raise _SeekFailed
            if last is not None:
                display(last, time)
            if len(kept) == size.frames:
                return kept
            last, at = frame, time
        if last is not None:
            display(last, at + (float(last.duration * last.time_base) if last.duration else info.step))
    return kept


def _timed(frames: Iterator[Any], info: _ClipInfo, seek: bool) -> Iterator[tuple[Any, float]]:
    """Frames with their presentation times in seconds, strictly increasing."""
    now, shift = -np.inf, info.origin
    for frame in frames:
        time = _time(frame, info.decoded)
        if time is None and seek:
            raise _SeekFailed
        following = now + info.step if np.isfinite(now) else 0.0
        if time is None:
            time = following + shift
        elif time - shift < now - JUMP_BACK * info.step:
            shift = time - following
        if time - shift > now:
            now = time - shift
            yield frame, now


def _time(frame: Any, decoded: bool) -> float | None:
    """Timestamp of a frame in seconds, None if it has none."""
    ticks = frame.dts if frame.pts is None or decoded else frame.pts
    return None if ticks is None or not frame.time_base else float(ticks * frame.time_base)


def _reason(error: Exception) -> str:
    """Message of an error, without the number and file name that an OSError repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
