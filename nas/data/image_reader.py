"""Reads images with Pillow: upright, in sRGB, transparency composited on white, resized to a bucket."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from nas.data.buckets import Size, choose
from nas.data.frame_conversion import DecodingError, check_size, crop

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "JPEG2000", "PPM")
"""Formats that Pillow may detect; others run programs (EPS) or are not used for photos."""


def read_image(file: BinaryIO, buckets: tuple[Size, ...] | list[Size]) -> np.ndarray:
    """An image `(3, 1, H, W)` in [-1, 1], scaled to cover the bucket nearest in ratio and cropped.

    Of a file with several images the first is read.

    Raises:
        DecodingError: the file is damaged, not an image, or too large.
    """
    from PIL import Image, ImageOps

    Image.init()  # registers the less common formats
    try:
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            check_size(image.width, image.height)
            upright = _rgb(ImageOps.exif_transpose(image))
    except DecodingError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds on a broken file
        raise DecodingError(
            f"cannot be decoded ({getattr(error, 'strerror', None) or error or type(error).__name__})"
        ) from None
    size = choose(buckets, upright.width / upright.height, np.inf)
    return crop(np.asarray(ImageOps.fit(upright, (size.width, size.height))), size)[:, None]


def _rgb(image: Any) -> Any:
    """An image of any mode as 8-bit sRGB."""
    from PIL import Image

    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257 + 0.5).clip(0, 255).astype(np.uint8))
        profile = None
    elif image.mode in ("I", "F"):
        raise DecodingError("has 32-bit pixels of unknown range; convert it to 8 or 16 bits")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return _to_srgb(image, profile) if profile else image.convert("RGB")


def _to_srgb(image: Any, profile: bytes) -> Any:
    """Convert by the embedded ICC profile; a broken or unsuitable profile is ignored."""
    from PIL import ImageCms

    image = image.convert("L") if image.mode == "1" else image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, embedded, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")


@lru_cache(maxsize=1)
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")
