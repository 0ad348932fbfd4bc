"""Clips: the frames, frame rate and size in pixels of what a latent decodes to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from nas.errors import ConfigError, SpaceError
from nas.spaces.backbone import Latent
from nas.spaces.pipeline import VAEConfig

DEFAULT_FPS = 8.0
"""Frames per second of a search space, or of a checkpoint, that states none; versions before clips knew no other."""
MIN_FPS, MAX_FPS = 0.01, 1000.0
"""Frame rates at which clips can be read and written."""
MAX_SIZE = 1 << 20
"""Most frames, and most pixels in height and in width, that a search-space file may state."""


def check_fps(fps: float, name: str = "fps") -> None:
    """Check a frame rate.

    Raises:
        ConfigError: it is not a number from `MIN_FPS` to `MAX_FPS`.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= fps <= MAX_FPS:
        raise ConfigError(f"{name}: must be positive, from {MIN_FPS:g} to {MAX_FPS:g}, not {fps}")


@dataclass(frozen=True)
class Clip:
    """A clip; `str` describes it: `5.06 s clip (81 frames at 16 fps, 512x512)`.

    Attributes:
        frames: number of frames.
        fps: frames per second.
        height, width: in pixels.
    """

    frames: int
    fps: float
    height: int
    width: int

    @classmethod
    def of(cls, latent: Latent, autoencoder: VAEConfig, fps: float) -> Clip:
        """The clip that a latent decodes to."""
        factor = autoencoder.downsampling
        return cls(autoencoder.pixel_frames(latent.frames), fps, latent.height * factor, latent.width * factor)

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def __str__(self) -> str:
        frames = f"{self.frames} frame{'s' if self.frames > 1 else ''}"
        return f"{self.seconds:.3g} s clip ({frames} at {self.fps:g} fps, {self.height}x{self.width})"


@dataclass(frozen=True)
class ClipKeys:
    """The key `clip` of a search-space file: what `latent` follows from, or what is stated beside it.

    Attributes:
        seconds: length; rounded up to the next number of frames that the autoencoder can decode to, so that 5 s at 16 fps
            with a temporal compression of 4 are 81 frames, 5.06 s.
        frames: length in frames, instead of `seconds`.
        fps: frames per second.
        height, width: in pixels.

    Raises:
        ConfigError: a number out of range, or both `seconds` and `frames`.
    """

    fps: float
    seconds: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_fps(self.fps, "clip.fps")
        if self.seconds is not None and self.frames is not None:
            raise ConfigError("clip: give either 'seconds' or 'frames'")
        if self.seconds is not None and not 0 < self.seconds <= 1e6:
            raise ConfigError(f"clip.seconds: must be positive and at most 1e6, not {self.seconds:g}")
        for name in ("frames", "height", "width"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_SIZE:
                raise ConfigError(f"clip.{name}: must be from 1 to {MAX_SIZE}, not {value}")

    def to_latent(self, autoencoder: VAEConfig, levels: int) -> Latent:
        """The shape of the clip's latents.

        Args:
            levels: resolution levels of the backbone, which halves latents `levels - 1` times.

        Raises:
            SpaceError: the length, height or width is missing, or has no latents.
        """
        frames = self.latent_frames(autoencoder)
        if self.height is None or self.width is None or frames is None:
            raise SpaceError("clip: without 'latent' it needs 'height', 'width' and 'seconds' or 'frames'")
        multiple = autoencoder.downsampling << (levels - 1)
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels % multiple:
                nearest = max(1, round(pixels / multiple)) * multiple
                raise SpaceError(
                    f"clip.{name}: {pixels} is not a multiple of {multiple} ({autoencoder.downsampling} of the "
                    f"autoencoder times {1 << (levels - 1)} of the backbone); try {nearest}"
                )
        factor = autoencoder.downsampling
        return Latent(autoencoder.latent_channels, frames, self.height // factor, self.width // factor)

    def latent_frames(self, autoencoder: VAEConfig) -> int | None:
        """Latent frames of the clip; None if neither `seconds` nor `frames` is given.

        Raises:
            SpaceError: `frames` is not a number of frames that the autoencoder can decode to.
        """
        if self.seconds is not None:
            frames = max(1, math.ceil(self.seconds * self.fps - 1e-9))
            if frames > MAX_SIZE:
                raise SpaceError(f"clip.seconds: {self.seconds:g} s at {self.fps:g} fps exceed {MAX_SIZE} frames")
            return autoencoder.latent_frames(frames)
        if self.frames is None:
            return None
        latent = autoencoder.latent_frames(self.frames)
        if autoencoder.pixel_frames(latent) != self.frames:
            raise SpaceError(
                f"clip.frames: {self.frames} is not 1 + a multiple of temporal_compression="
                f"{autoencoder.temporal_compression}; try {autoencoder.pixel_frames(latent - 1)} or "
                f"{autoencoder.pixel_frames(latent)}"
            )
        return latent

    def check(self, latent: Latent, autoencoder: VAEConfig) -> None:
        """Check what is stated against the latents of the same file.

        Raises:
            SpaceError: they are not those of this clip.
        """
        clip = Clip.of(latent, autoencoder, self.fps)
        for name in ("height", "width"):
            stated = getattr(self, name)
            if stated not in (None, getattr(clip, name)):
                raise SpaceError(
                    f"clip.{name}: {stated}, but latent.{name}: {getattr(latent, name)} decodes to "
                    f"{getattr(clip, name)} pixels; remove one of the two"
                )
        if self.latent_frames(autoencoder) not in (None, latent.frames):
            stated = f"frames: {self.frames}" if self.seconds is None else f"seconds: {self.seconds:g}"
            raise SpaceError(
                f"clip.{stated}, but latent.frames: {latent.frames} decodes to {clip.frames} frames "
                f"({clip.seconds:.3g} s); remove one of the two"
            )
