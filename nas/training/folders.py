"""Folders of captioned clips and images, in the Hugging Face `videofolder` / `imagefolder` convention.

    data/metadata.csv (or metadata.jsonl)      file_name, text
    data/clip-1.mp4 ...                        any name and depth, as file_name says
    data/train/..., data/test/...              optional: each with its own metadata

Without a test folder every twentieth file, chosen by the hash of its name, is held out. What cannot be used (corrupt,
too short, no video at all) raises `UnreadableSample`, and `cache.prepare` lists it and goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nas.errors import ConfigError, suggestion
from nas.files import read_text
from nas.training.data import Sample, UnreadableSample

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v", ".mpg", ".mpeg"}
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
CAPTION_KEYS = ("text", "caption", "prompt")
MAX_PIXELS = 8192 * 8192
"""Of one frame; a larger one is a broken header or would not fit memory."""


class Folder:
    """The clips and images of a folder, at one size.

    Clips are resampled to `fps`, scaled to cover `height` x `width` and cropped at the centre; which `frames`
    consecutive frames of a longer clip are taken is a function of the item's index.

    Args:
        folder: holds `metadata.csv` or `metadata.jsonl`, or one folder per split that does.
        split: `train` or `test`.

    Raises:
        ConfigError: no metadata, or metadata without file names or captions.
    """

    channels = 3

    def __init__(self, folder: str | Path, split: str, frames: int, height: int, width: int, fps: float = 8.0) -> None:
        self.frames, self.height, self.width, self.fps = frames, height, width, fps
        folder = Path(folder)
        own = folder / split
        entries = list(_entries(own if own.is_dir() else folder))
        if not own.is_dir():
            entries = [entry for entry in entries if _held_out(entry[0]) == (split == "test")]
        self._videos = [entry for entry in entries if entry[0].suffix.lower() in VIDEOS]
        self._images = [entry for entry in entries if entry[0].suffix.lower() in IMAGES]

    @property
    def videos(self) -> int:
        return len(self._videos)

    @property
    def images(self) -> int:
        return len(self._images)

    def video(self, index: int) -> Sample:
        path, caption = self._videos[index]
        return Sample(self._read_video(path, index), _checked(path, caption))

    def image(self, index: int) -> Sample:
        path, caption = self._images[index]
        return Sample(self._read_image(path), _checked(path, caption))

    def _read_video(self, path: Path, index: int) -> np.ndarray:
        """`(3, frames, height, width)` in [-1, 1]; decodes frame by frame and keeps only what it returns."""
        import av

        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise UnreadableSample(f"{path}: holds no video stream")
                kept = self._window(path, container, index)
        except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
            raise UnreadableSample(f"{path}: cannot be decoded ({' '.join(str(error).split())})") from None
        return np.stack(kept, axis=1)

    def _window(self, path: Path, container: object, index: int) -> list[np.ndarray]:
        """The frames nearest below the times start + k / fps, where a start in the clip's first half is drawn."""
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        length = float(stream.duration * stream.time_base) if stream.duration else 0.0
        room = max(0.0, length - self.frames / self.fps)
        start = float(np.random.default_rng((2, index)).random()) * room
        kept, last, first_time = [], None, None
        for frame in container.decode(stream):
            if frame.width * frame.height > MAX_PIXELS:
                raise UnreadableSample(f"{path}: frames of {frame.width}x{frame.height} are too large")
            time = frame.time if frame.time is not None else 0.0
            first_time = time if first_time is None else first_time
            while last is not None and len(kept) < self.frames and time - first_time > self._time(start, len(kept)):
                kept.append(self._fit(last))
            if len(kept) == self.frames:
                return kept
            last = frame
        if last is not None:  # the last frame lasts to the end of the clip
            kept.append(self._fit(last))
        if len(kept) < self.frames:
            raise UnreadableSample(
                f"{path}: has only {len(kept)} frame(s) at {self.fps:g} per second, needs {self.frames}"
            )
        return kept

    def _time(self, start: float, number: int) -> float:
        return start + number / self.fps + 1e-6

    def _fit(self, frame: object) -> np.ndarray:
        """A frame scaled to cover and cropped, `(3, height, width)`."""
        scale = max(self.height / frame.height, self.width / frame.width)
        height = max(self.height, round(frame.height * scale))
        width = max(self.width, round(frame.width * scale))
        return self._crop(frame.reformat(width, height, "rgb24").to_ndarray())

    def _read_image(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableSample(f"{path}: an image of {image.width}x{image.height} is too large")
                fitted = ImageOps.fit(image.convert("RGB"), (self.width, self.height))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableSample(f"{path}: cannot be decoded ({' '.join(str(error).split())})") from None
        return self._crop(np.asarray(fitted))[:, None]

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        top, left = (pixels.shape[0] - self.height) // 2, (pixels.shape[1] - self.width) // 2
        pixels = pixels[top : top + self.height, left : left + self.width]
        return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def _entries(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, caption) of every row of the folder's metadata."""
    for name, rows in (("metadata.csv", _csv_rows), ("metadata.jsonl", _jsonl_rows)):
        path = folder / name
        if not path.exists():
            continue
        for line, row in rows(path):
            if not row.get("file_name"):
                raise ConfigError(f"{path}:{line}: file_name: missing{suggestion('file_name', row)}")
            key = next((key for key in CAPTION_KEYS if key in row), None)
            if key is None:
                raise ConfigError(f"{path}:{line}: text: missing; give each file a caption")
            yield folder / str(row["file_name"]), str(row[key] or "")
        return
    raise ConfigError(f"{folder}: holds neither metadata.csv nor metadata.jsonl with the columns file_name, text")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    return ((number, row) for number, row in enumerate(csv.DictReader(read_text(path, "metadata").splitlines()), 2))


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(read_text(path, "metadata").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: expected an object with file_name and text")
        yield number, row


def _held_out(path: Path) -> bool:
    return int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 20 == 0


def _checked(path: Path, caption: str) -> str:
    if not caption.strip():
        raise UnreadableSample(f"{path}: has an empty caption")
    return caption
