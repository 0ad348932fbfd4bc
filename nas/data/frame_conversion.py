"""Decoded video frames as they are meant to be seen: upright, with square pixels, in the colors of BT.709.

High dynamic range (PQ, HLG) is brought to standard range as ITU-R BT.2408 has it: the reference white of 203 cd/m2 becomes
white, everything darker keeps its light, and what is brighter is clipped. Wide gamuts are converted to that of BT.709.
Transparent pixels are laid on white.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from nas.data.buckets import Size

MAX_PIXELS = 8192 * 8192
"""Of one frame; a larger one is a broken header or would not fit memory."""
MAX_ASPECT = 8
"""Of a pixel's sides; anamorphic lenses and broadcasts stay below 3."""
HD_LINES = 720
"""From so many lines on, players take a video that names no matrix for BT.709, below for BT.601."""
REFERENCE_WHITE = 203.0
"""cd/m2 of diffuse white in HDR video."""

UNSPECIFIED = 2
LIMITED = 1
"""FFmpeg's range from 16 to 235."""
PQ, HLG = 16, 18  # numbers of ITU-T H.273, as in the files
NOT_VIDEO = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE ST 428"}
"""Transfer characteristics that are no video's."""
ODD_MATRICES = {8: "YCgCo", 11: "SMPTE ST 2085", 12: "chromaticity-derived", 13: "chromaticity-derived", 14: "ICtCp"}
CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Of red, green and blue in BT.709, BT.2020 and Display P3, white being D65; other primaries are nearly BT.709's."""
DISPLAY_GAMMA = 2.4


class DecodingError(Exception):
    """The file gives no clip or image; the text is the reason."""


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DecodingError(f"frames of {width}x{height} are too large")


def pixel_aspect(stream: Any) -> float:
    """Width over height of a stream's pixels."""
    found = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if found <= 0:
        return 1.0
    if not 1 / MAX_ASPECT <= found <= MAX_ASPECT:
        raise DecodingError(f"has pixels of {found.numerator}:{found.denominator}, which no camera has")
    return float(found)


def ratio(frame: Any, aspect: float) -> float:
    """Width over height of the picture as it is to be shown."""
    shown = frame.width * aspect / frame.height
    return 1 / shown if _orientation(frame)[0] else shown


def fit(frame: Any, size: Size, aspect: float) -> np.ndarray:
    """A frame scaled to cover the size and cropped, `(3, height, width)` in [-1, 1].

    Args:
        aspect: width over height of its pixels.
    """
    turned, down, right = _orientation(frame)
    height, width = (size.width, size.height) if turned else (size.height, size.width)
    shown = frame.width * aspect
    scale = max(height / frame.height, width / shown)
    pixels = _rgb(frame, max(width, round(shown * scale)), max(height, round(frame.height * scale)))
    pixels = pixels.transpose(1, 0, 2) if turned else pixels
    return crop(pixels[::down, ::right], size)


def crop(pixels: np.ndarray, size: Size) -> np.ndarray:
    """The middle of a picture `(H, W, 3)` of 0 to 255, `(3, height, width)` in [-1, 1]."""
    top, left = (pixels.shape[0] - size.height) // 2, (pixels.shape[1] - size.width) // 2
    pixels = pixels[top : top + size.height, left : left + size.width]
    return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def _orientation(frame: Any) -> tuple[bool, int, int]:
    """Whether rows and columns are to be exchanged, then the steps through rows and columns: -1 to mirror them.

    Phones store a clip lying on its side, or mirrored, and say so in a matrix.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, 1, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)[:9].tolist()
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    right, down = (c, b) if turned else (a, d)
    return turned, -1 if down < 0 else 1, -1 if right < 0 else 1


def _rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """A frame's pixels `(height, width, 3)`, 0 to 255 in the colors of BT.709."""
    from av import VideoFrame

    space, transfer, primaries = int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries)
    gray, limited = frame.format.name.startswith("gray"), int(frame.color_range) == LIMITED
    if transfer in NOT_VIDEO:
        raise DecodingError(f"has {NOT_VIDEO[transfer]} colors; convert it to BT.709")
    if space in ODD_MATRICES and not frame.format.is_rgb:
        raise DecodingError(f"has {ODD_MATRICES[space]} colors; convert it to BT.709")
    if space in (0, UNSPECIFIED):
        space = (9 if transfer in (PQ, HLG) else 1) if frame.height >= HD_LINES else 5
    options: dict[str, Any] = {"src_colorspace": space, "interpolation": _accurate()}
    if any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8":
        full = frame.reformat(format="rgba", **options).to_ndarray().astype(np.uint16)
        alpha = full[..., 3:]
        flat = (full[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(flat.astype(np.uint8)), "rgb24")
    elif frame.interlaced_frame and frame.height >= 4:  # the lines of one of two moments, or moving edges were combs
        field = np.ascontiguousarray(frame.reformat(format="rgb24", **options).to_ndarray()[::2])
        frame = VideoFrame.from_ndarray(field, "rgb24")
    if transfer in (PQ, HLG) or (primaries in CHROMATICITIES and primaries != 1):
        scaled = frame.reformat(width, height, "rgb48le", **options).to_ndarray()
        return _to_bt709(scaled.astype(np.float32) / 65535, transfer, primaries)
    scaled = frame.reformat(width, height, "rgb24", **options).to_ndarray()
    if gray and limited:  # swscale takes gray for full range whatever its tag says
        return ((scaled.astype(np.float32) - 16) * (255 / 219)).clip(0, 255)
    return scaled


@lru_cache(maxsize=1)
def _accurate() -> Any:
    from av.video.reformatter import Interpolation as Flag

    return Flag.BILINEAR | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP


def _to_bt709(pixels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Coded values `(..., 3)` in [0, 1] -> 0 to 255 in BT.709, by way of displayed light, 1 being diffuse white."""
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
    """cd/m2 of SMPTE ST 2084."""
    power = coded ** (1 / 78.84375)
    return 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _hlg(coded: np.ndarray) -> np.ndarray:
    """cd/m2 of ITU-R BT.2100 HLG on its reference display of 1000 cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


def _to_xyz(primaries: int) -> np.ndarray:
    """The 3x3 matrix from linear RGB of these primaries to XYZ."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in CHROMATICITIES[primaries]]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return xyz * np.linalg.solve(xyz, white)
