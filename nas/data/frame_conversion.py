"""Converts decoded video frames to upright RGB with square pixels and BT.709 colors.

High dynamic range (PQ, HLG) is mapped to standard range by ITU-R BT.2408: the reference white of 203 cd/m2 becomes white,
darker values keep their luminance, brighter ones are clipped. Wide gamuts are converted to BT.709. Transparent pixels are
composited on white.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from nas.data.buckets import Size

MAX_PIXELS = 8192 * 8192
"""Of one frame; a larger one has a broken header or does not fit in memory."""
MAX_ASPECT = 8
"""Largest ratio of a pixel's sides; anamorphic lenses and broadcasts stay below 3."""
HD_LINES = 720
"""Players assume BT.709 for a video without a color matrix from this number of lines on, BT.601 below it."""
REFERENCE_WHITE = 203.0
"""cd/m2 of diffuse white in HDR video."""

UNSPECIFIED = 2
LIMITED = 1
"""FFmpeg's range from 16 to 235."""
PQ, HLG = 16, 18  # codes of ITU-T H.273
UNSUPPORTED_TRANSFERS = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE ST 428"}
"""Transfer characteristics that are not supported."""
UNSUPPORTED_MATRICES = {
    8: "YCgCo",
    11: "SMPTE ST 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived",
    14: "ICtCp",
}
CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Of red, green and blue in BT.709, BT.2020 and Display P3, with white D65; other primaries are close to BT.709."""
DISPLAY_GAMMA = 2.4


class DecodingError(Exception):
    """A file cannot be read as a clip or image; the text is the reason."""


def check_size(width: int, height: int) -> None:
    """
    Raises:
        DecodingError: the frame has more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise DecodingError(f"frames of {width}x{height} are too large")


def pixel_aspect(stream: Any) -> float:
    """Width / height of a stream's pixels.

    Raises:
        DecodingError: an implausible value.
    """
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if aspect <= 0:
        return 1.0
    if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        raise DecodingError(f"has an implausible pixel aspect ratio of {aspect.numerator}:{aspect.denominator}")
    return float(aspect)


def ratio(frame: Any, aspect: float) -> float:
    """Width / height of the displayed picture."""
    stored = frame.width * aspect / frame.height
    return 1 / stored if _orientation(frame)[0] else stored


def fit(frame: Any, size: Size, aspect: float) -> np.ndarray:
    """A frame scaled to cover the size and cropped, `(3, height, width)` in [-1, 1].

    Args:
        aspect: width / height of its pixels.
    """
    transposed, down, right = _orientation(frame)
    height, width = (size.width, size.height) if transposed else (size.height, size.width)
    square_width = frame.width * aspect
    scale = max(height / frame.height, width / square_width)
    pixels = _rgb(frame, max(width, round(square_width * scale)), max(height, round(frame.height * scale)))
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    return crop(pixels[::down, ::right], size)


def crop(pixels: np.ndarray, size: Size) -> np.ndarray:
    """The center of a picture `(H, W, 3)` of 0 to 255, as `(3, height, width)` in [-1, 1]."""
    top, left = (pixels.shape[0] - size.height) // 2, (pixels.shape[1] - size.width) // 2
    pixels = pixels[top : top + size.height, left : left + size.width]
    return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def _orientation(frame: Any) -> tuple[bool, int, int]:
    """Whether to transpose the frame, then the steps through its rows and columns: -1 mirrors them.

    Phones store rotated or mirrored clips with a display matrix.
    """
    from av.sidedata.sidedata import SideDataContainer

    # `frame.side_data` would refer to the frame and be kept in it, so that only the garbage collector freed the frame
    data = SideDataContainer(frame).get("DISPLAYMATRIX")
    if data is None:
        return False, 1, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)[:9].tolist()
    transposed = abs(a) + abs(d) < abs(b) + abs(c)
    right, down = (c, b) if transposed else (a, d)
    return transposed, -1 if down < 0 else 1, -1 if right < 0 else 1


def _rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """A frame's pixels `(height, width, 3)`, 0 to 255 in the colors of BT.709."""
    from av import VideoFrame

    space, transfer, primaries = int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries)
    gray, limited = frame.format.name.startswith("gray"), int(frame.color_range) == LIMITED
    if transfer in UNSUPPORTED_TRANSFERS:
        raise DecodingError(f"has {UNSUPPORTED_TRANSFERS[transfer]} colors; convert it to BT.709")
    if space in UNSUPPORTED_MATRICES and not frame.format.is_rgb:
        raise DecodingError(f"has {UNSUPPORTED_MATRICES[space]} colors; convert it to BT.709")
    if space in (0, UNSPECIFIED):
        space = (9 if transfer in (PQ, HLG) else 1) if frame.height >= HD_LINES else 5
    options: dict[str, Any] = {"src_colorspace": space, "interpolation": _accurate()}
    if any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8":
        full = frame.reformat(format="rgba", **options).to_ndarray().astype(np.uint16)
        alpha = full[..., 3:]
        flat = (full[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(flat.astype(np.uint8)), "rgb24")
    elif frame.interlaced_frame and frame.height >= 4:  # keep one field: two of them make combs of moving edges
        field = np.ascontiguousarray(frame.reformat(format="rgb24", **options).to_ndarray()[::2])
        frame = VideoFrame.from_ndarray(field, "rgb24")
    if transfer in (PQ, HLG) or (primaries in CHROMATICITIES and primaries != 1):
        scaled = frame.reformat(width, height, "rgb48le", **options).to_ndarray()
        return _to_bt709(scaled.astype(np.float32) / 65535, transfer, primaries)
    scaled = frame.reformat(width, height, "rgb24", **options).to_ndarray()
    if gray and limited:  # swscale ignores the range tag of gray frames
        return ((scaled.astype(np.float32) - 16) * (255 / 219)).clip(0, 255)
    return scaled


@lru_cache(maxsize=1)
def _accurate() -> Any:
    from av.video.reformatter import Interpolation as Flag

    return Flag.BILINEAR | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP


def _to_bt709(pixels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Coded values `(..., 3)` in [0, 1] -> 0 to 255 in BT.709, through linear light with diffuse white at 1."""
    if transfer == PQ:
        light = _pq(pixels) / REFERENCE_WHITE
    elif transfer == HLG:
        light = _hlg(pixels) / REFERENCE_WHITE
    else:
        light = pixels**DISPLAY_GAMMA
    if primaries == UNSPECIFIED and transfer in (PQ, HLG):
        primaries = 9
    if primaries in CHROMATICITIES:
        to_709 = np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries)
        light = light @ to_709.T.astype(np.float32)
    return 255 * np.clip(light, 0, 1) ** (1 / DISPLAY_GAMMA)


def _pq(coded: np.ndarray) -> np.ndarray:
    """Luminance in cd/m2 of values coded by SMPTE ST 2084 (PQ)."""
    power = coded ** (1 / 78.84375)
    return 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _hlg(coded: np.ndarray) -> np.ndarray:
    """Luminance in cd/m2 of values coded by ITU-R BT.2100 HLG, on its reference display of 1000 cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


def _to_xyz(primaries: int) -> np.ndarray:
    """The 3x3 matrix from linear RGB of these primaries to XYZ."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in CHROMATICITIES[primaries]]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return xyz * np.linalg.solve(xyz, white)
