"""Writes clips as MP4, GIF or a folder of PNG files. Frames are uint8 `(T, H, W, C)`, C = 1 or 3."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from nas.errors import ConfigError, suggestion
from nas.files import write_atomic
from nas.ranges import in_range
from nas.spaces.clip import check_fps

MAX_SCALE = 64
GIF_MIN_DELAY = 2
"""Hundredths of a second: browsers replace shorter delays by ten."""
BT_709, LIMITED = 1, 1
"""Code of BT.709 in ITU-T H.273, and FFmpeg's code of the range from 16 to 235."""
SHORT_SIDE = 256
"""Least number of pixels of the shorter side of an enlarged clip."""


@dataclass(frozen=True)
class Clips:
    """Generated clips.

    Attributes:
        frames: uint8 `(N, T, H, W, C)`.
        prompts: one per clip.
        fps: frames per second at which `save` writes them.
    """

    frames: np.ndarray
    prompts: tuple[str, ...]
    fps: float

    def __len__(self) -> int:
        return len(self.frames)

    def save(self, path: str | Path, tiled: bool = False, scale: int = 1) -> list[Path]:
        """Write each clip at its own size as `.mp4`, `.gif`, or, without a suffix, a folder of PNG.

        One clip goes to `path`, several to `NAME-1.SUFFIX`, `NAME-2.SUFFIX`, ... beside it.

        Args:
            tiled: write several clips as a grid in one file.
            scale: factor by which pixels are repeated in height and width, to view small clips.

        Returns:
            The paths that were written.

        Raises:
            ConfigError: an unknown suffix, or a path that cannot be written.
        """
        in_range(scale, "scale", 1, MAX_SCALE)
        frames = tile(self.frames)[None] if tiled and len(self) > 1 else self.frames
        frames = frames.repeat(scale, axis=2).repeat(scale, axis=3)
        paths = numbered(path, len(frames))
        return [save(path, clip, self.fps) for path, clip in zip(paths, frames)]


def numbered(path: str | Path, count: int) -> list[Path]:
    """The path itself for one clip, `NAME-1.SUFFIX`, `NAME-2.SUFFIX`, ... for several."""
    path = Path(path)
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def to_uint8(clips: np.ndarray) -> np.ndarray:
    """Clips `(..., C, T, H, W)` in [-1, 1], as a decoder returns them -> uint8 `(..., T, H, W, C)`."""
    scaled = np.rint((np.asarray(clips, np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.moveaxis(scaled, -4, -1)


def tile(clips: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Clips `(N, T, H, W, C)` as a grid in one clip: `(T, rows * (H + gap) - gap, columns * (W + gap) - gap, C)`.

    The gap is a sixteenth of the height. Without `columns` the grid is about square.
    """
    count, frames, height, width, channels = clips.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows, gap = -(-count // columns), max(1, height // 16)
    grid = np.full((frames, rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 128, np.uint8)
    for i, clip in enumerate(clips):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[:, y : y + height, x : x + width] = clip
    return grid


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Repeat the pixels of `(T, H, W, C)` in height and width until the shorter side reaches `SHORT_SIDE`."""
    factor = -(-SHORT_SIDE // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def save(path: str | Path, frames: np.ndarray, fps: float) -> Path:
    """Write one clip at its own size: `.mp4`, `.gif`, or, without a suffix, a folder of `0000.png`, ...

    Args:
        frames: uint8 `(T, H, W, C)`. An MP4 has even sides: an odd one is padded by a row or column.
        fps: frames per second.

    MP4 files are tagged BT.709, limited range. GIF delays are hundredths of a second, at least two in players: frames are
    dropped if that is needed to keep the length of the clip.

    Raises:
        ConfigError: an invalid frame rate, no frames, an unknown suffix, a path that cannot be written, or, for PNG, a
            folder that is not empty.
    """
    path = check_suffix(path)
    check_fps(fps)
    if frames.ndim != 4 or not frames.size:
        raise ConfigError(f"{path}: no frames to write (shape {frames.shape})")
    frames = frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames
    try:
        return WRITERS[path.suffix](path, frames, fps)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_suffix(path: str | Path) -> Path:
    """The path, after a check of its suffix.

    Raises:
        ConfigError: the suffix is not one of a format that can be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        known = [suffix for suffix in WRITERS if suffix]
        hint = suggestion(path.suffix, known)
        raise ConfigError(f"{path}: cannot write a clip as '{path.suffix}' (without a suffix: a folder of PNG){hint}")
    return path


def _mp4(path: Path, frames: np.ndarray, fps: float) -> Path:
    import av
    from av.video.reformatter import Interpolation as Flag

    even = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]  # H.264 halves the chroma planes
    frames = np.pad(frames, even, mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT_709
        context.color_range = LIMITED
        exact = Flag.BICUBIC | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP
        for frame in frames:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            yuv = rgb.reformat(
                format="yuv420p", dst_colorspace=BT_709, dst_color_range=LIMITED,
                dst_color_trc=BT_709, dst_color_primaries=BT_709, interpolation=exact,
            )  # fmt: skip
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())
    return write_atomic(path, file.getvalue())


def _gif(path: Path, frames: np.ndarray, fps: float) -> Path:
    from PIL import Image

    file = io.BytesIO()
    delays = gif_delays(len(frames), fps)
    gray = (frames == frames[..., :1]).all()  # 256 grays are a GIF's palette; that of colors must be searched for
    first, *rest = (Image.fromarray(frames[number, ..., 0] if gray else frames[number]) for number in delays)
    milliseconds = [10 * delay for delay in delays.values()]
    first.save(
        file, "GIF", save_all=True, append_images=rest, duration=milliseconds if rest else milliseconds[0], loop=0
    )
    return write_atomic(path, file.getvalue())


def gif_delays(frames: int, fps: float) -> dict[int, int]:
    """Indices of the frames that a GIF keeps -> their delays in hundredths of a second; the sum is the clip's length."""
    end = max(GIF_MIN_DELAY, round(100 * frames / fps))
    starts: dict[int, int] = {}
    at = -GIF_MIN_DELAY
    for number in range(frames):
        start = round(100 * number / fps)
        if start - at >= GIF_MIN_DELAY and end - start >= GIF_MIN_DELAY:
            starts[number] = at = start
    return {number: after - start for (number, start), after in zip(starts.items(), [*list(starts.values())[1:], end])}


def _png(path: Path, frames: np.ndarray, fps: float) -> Path:
    from PIL import Image

    # Frames of a longer clip that was written before would remain among the new ones.
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise ConfigError(f"{path}: the folder is not empty; give a new one for the frames")
    for i, frame in enumerate(frames):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        write_atomic(path / f"{i:04d}.png", file.getvalue())
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray, float], Path]] = {".mp4": _mp4, ".gif": _gif, "": _png}
