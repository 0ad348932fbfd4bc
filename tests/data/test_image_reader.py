"""Images as cameras and tools write them: upright, in sRGB, on white, or a reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from nas.data.buckets import Size
from nas.data.frame_conversion import DecodingError
from nas.data.image_reader import read_image
from tests.support.clip_files import write_video

COLOR = (200, 30, 60)
PLAIN = Image.new("RGB", (64, 48), COLOR)
ONE = [Size(1, 32, 32)]
DEEP = np.full((48, 64), 32896, np.uint16)


def read(path: Path, sizes=ONE) -> np.ndarray:
    with path.open("rb") as file:
        return (read_image(file, sizes)[:, 0] + 1) * 127.5


def save(image: Image.Image, **options) -> Callable[[Path], object]:
    return lambda path: image.save(path, **options)


def encoded(codec: str, pixels: str, image: np.ndarray) -> Callable[[Path], object]:
    return lambda path: write_video(path, [image], codec, pixels, format="image2", full=True)


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def palette_with_a_hole(path: Path) -> None:
    image = PLAIN.quantize(8)
    image.save(path, transparency=image.getpixel((32, 24)))


def animation(path: Path) -> None:
    PLAIN.save(path, save_all=True, append_images=[Image.new("RGB", (64, 48))], duration=100)


IMAGES = {
    **{f"a.{end}": (save(PLAIN), COLOR) for end in ("png", "jpg", "webp", "bmp", "tif", "avif", "gif", "jfif")},
    "palette.png": (save(PLAIN.quantize(8)), COLOR),
    "palette-with-a-hole.png": (palette_with_a_hole, (255, 255, 255)),
    "one-transparent-color.png": (save(PLAIN, transparency=COLOR), (255, 255, 255)),
    "transparent.png": (save(Image.new("RGBA", (64, 48), (*COLOR, 0))), (255, 255, 255)),
    "half.png": (save(Image.new("RGBA", (64, 48), (0, 0, 0, 128))), (127, 127, 127)),
    "half.webp": (save(Image.new("RGBA", (64, 48), (0, 0, 0, 128)), lossless=True), (127, 127, 127)),
    "half.tif": (save(Image.new("RGBA", (64, 48), (0, 0, 0, 128))), (127, 127, 127)),
    "half-gray.png": (save(Image.new("LA", (64, 48), (0, 128))), (127, 127, 127)),
    "gray.png": (save(Image.new("L", (64, 48), 77)), (77, 77, 77)),
    "gray.jpg": (save(Image.new("L", (64, 48), 77)), (77, 77, 77)),
    "one-bit.png": (save(Image.new("1", (64, 48), 1)), (255, 255, 255)),
    "gray-16.png": (save(Image.fromarray(DEEP)), (128, 128, 128)),
    "gray-16.tif": (save(Image.fromarray(DEEP)), (128, 128, 128)),
    "color-16.png": (encoded("png", "rgb48be", np.full((48, 64, 3), COLOR, np.uint8)), COLOR),
    "color-16.tif": (encoded("tiff", "rgb48le", np.full((48, 64, 3), COLOR, np.uint8)), COLOR),
    "transparent-16.png": (encoded("png", "rgba64be", np.full((48, 64, 4), (0, 0, 0, 128), np.uint8)), (127, 127, 127)),
    "cmyk.jpg": (save(Image.new("CMYK", (64, 48), (0, 217, 178, 55))), COLOR),
    "cmyk.tif": (save(Image.new("CMYK", (64, 48), (0, 217, 178, 55))), COLOR),
    "ycbcr.tif": (save(PLAIN.convert("YCbCr")), COLOR),
    "profile.png": (save(PLAIN, icc_profile=profile("sRGB")), COLOR),
    "broken-profile.png": (save(PLAIN, icc_profile=b"no profile"), COLOR),
    "profile-of-colors-on-gray.png": (save(Image.new("L", (64, 48), 77), icc_profile=profile("sRGB")), (77, 77, 77)),
    "several.gif": (animation, COLOR),
    "several.webp": (animation, COLOR),
    "several.png": (animation, COLOR),
    "pages.tif": (animation, COLOR),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_every_kind_have_their_colors(name, tmp_path):
    make, wanted = IMAGES[name]
    format = "JPEG" if name.endswith("jfif") else None
    if format:
        PLAIN.save(tmp_path / name, format)
    else:
        make(tmp_path / name)
    assert np.abs(read(tmp_path / name)[:, 16, 16] - wanted).max() <= 3


def test_a_profile_with_other_colors_is_applied(tmp_path):
    """One whose red and blue are exchanged, made out of sRGB's."""
    data = bytearray(profile("sRGB"))
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    PLAIN.save(tmp_path / "a.png", icc_profile=bytes(data))
    assert np.abs(read(tmp_path / "a.png")[:, 16, 16] - COLOR[::-1]).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation, white", [(1, "left"), (3, "right"), (6, "top"), (8, "bottom"), (2, "right")])
def test_the_camera_says_which_side_is_up(suffix, orientation, white, tmp_path):
    image, exif = Image.new("RGB", (64, 48)), Image.Exif()
    image.paste((255, 255, 255), (0, 0, 16, 48))
    exif[274] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    shown = read(tmp_path / f"a.{suffix}", (Size(1, 48, 64), Size(1, 64, 48)))[0]
    assert shown.shape == ((64, 48) if white in ("top", "bottom") else (48, 64))
    edges = {"left": shown[:, :4], "right": shown[:, -4:], "top": shown[:4], "bottom": shown[-4:]}
    assert max(edges, key=lambda edge: edges[edge].mean()) == white


def test_what_is_no_picture_is_a_reason(tmp_path):
    eps = io.BytesIO()
    PLAIN.save(eps, "EPS")
    cases = {
        "eps.png": (eps.getvalue(), "cannot identify image"),
        "prose.png": (b"this is no image", "cannot identify image"),
        "empty.png": (b"", "cannot identify image"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DecodingError, match=reason):
            read(tmp_path / name)
    for name, pixels in (("a.tif", DEEP.astype(np.int32)), ("b.tif", DEEP.astype(np.float32))):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(DecodingError, match="32-bit pixels"):
            read(tmp_path / name)


def test_an_eps_named_png_starts_no_program(tmp_path, monkeypatch):
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    PLAIN.save(tmp_path / "a.png", "EPS")
    with pytest.raises(DecodingError):
        read(tmp_path / "a.png")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("seed", range(20))
def test_damaged_images_are_a_reason_or_a_picture(seed, tmp_path):
    draw = np.random.default_rng(seed)
    suffix = ("png", "jpg", "webp", "tif", "gif")[seed % 5]
    PLAIN.save(tmp_path / f"a.{suffix}", exif=PLAIN.getexif())
    data = bytearray((tmp_path / f"a.{suffix}").read_bytes())
    for _ in range(5):
        data[draw.integers(len(data))] = draw.integers(256)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    try:
        assert read(tmp_path / f"a.{suffix}").shape == (3, 32, 32)
    except DecodingError as error:
        assert "cannot be decoded" in str(error)
