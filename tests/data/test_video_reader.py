"""Clips as cameras and tools write them: the right frames, the right shape, the right colors, or a reason."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nas.data import video_writer
from nas.data.buckets import Size
from nas.data.frame_conversion import DecodingError
from nas.data.video_reader import read_video
from tests.support.clip_files import brightness, numbered, write_video

FOUR = [Size(4, 32, 32)]
COLOR = (200, 30, 60)
GROUPS = {"g": "12", "bf": "2", "crf": "5"}
JPEG = {"codec": "mjpeg", "pixels": "yuvj420p", "full": True}


def read(path: Path, share: float = 0, fps: float = 8, sizes=FOUR) -> np.ndarray:
    with path.open("rb") as file:
        return read_video(file, sizes, fps, share)


def numbers(path: Path, share: float, fps: float = 8) -> list[int]:
    return (brightness(read(path, share, fps)) / 5).round().astype(int).tolist()


def color(path: Path) -> np.ndarray:
    return (read(path)[:, 0, 16, 16] + 1) * 127.5


def cut_index(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"idx1")])
    return path


def joined(path: Path) -> Path:
    path.write_bytes(2 * path.read_bytes())
    return path


CONTAINERS = {
    "mp4": {"options": GROUPS},
    "mov": {"options": GROUPS},
    "fragments.mp4": {"options": GROUPS, "muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "no-edit-list.mp4": {"options": GROUPS, "muxing": {"use_editlist": "0"}},
    "mkv": {"options": GROUPS, "format": "matroska"},
    "live.mkv": {"options": GROUPS, "format": "matroska", "muxing": {"live": "1"}},  # neither length nor index
    "live.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}, "muxing": {"live": "1"}},
    "ts": {"options": GROUPS, "format": "mpegts"},
    "flv": {"options": GROUPS, "muxing": {"flvflags": "no_duration_filesize"}},
    "avi": {"codec": "mpeg4", "options": {"g": "12", "qmin": "1", "qmax": "2"}},
    "reordered.avi": {"options": GROUPS},
    "jpegs.avi": JPEG,
    "h264": {"options": GROUPS, "rate": 25},  # a bare stream: no times, no index, 25 frames per second
    "hevc": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}, "rate": 25},
    "mjpeg": {**JPEG, "rate": 25},
    "mpg": {"codec": "mpeg2video", "options": {"g": "12", "qmin": "1", "qmax": "2"}, "format": "mpeg", "rate": 25},
    "ivf": {"codec": "libvpx-vp9"},
    "apng": {"codec": "apng", "pixels": "rgb24"},
    "wmv": {"codec": "wmv2", "format": "asf", "options": {"qmin": "1", "qmax": "2"}},
    "24.mkv": {"options": GROUPS, "format": "matroska", "rate": 24},  # milliseconds: 24 per second do not fit
    "30.webm": {"codec": "libvpx-vp9", "rate": 30},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_frames_are_those_at_their_times_from_any_container(name, tmp_path):
    how = CONTAINERS[name]
    path = write_video(tmp_path / (name if "." in name else f"a.{name}"), numbered(48, step=5), **how)
    for share, about in ((0, 0), (0.5, 22), (1, 44)):
        shown = numbers(path, share, how.get("rate", 8))
        assert np.abs(np.diff(shown) - 1).max() <= ("qmin" in str(how)) and np.abs(shown[0] - about) <= 7, shown
        assert share or shown == [0, 1, 2, 3]


@pytest.mark.parametrize("break_it", [cut_index, joined])
def test_a_lost_index_and_joined_files_leave_the_right_frames(break_it, tmp_path):
    how = JPEG if break_it is cut_index else {"options": GROUPS, "format": "mpegts"}
    path = break_it(write_video(tmp_path / ("a.avi" if break_it is cut_index else "a.ts"), numbered(48, step=5), **how))
    for share in (0, 0.5, 1):
        assert np.diff(numbers(path, share)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_varying_length_stay_on_the_screen_as_long_as_they_should(suffix, tmp_path):
    times = [0, 1, 2, 3, 4, 20, 21, 22, 23, 30, 40, 41]
    path = write_video(tmp_path / f"a.{suffix}", numbered(12, step=5), times=times, options={"crf": "5"})
    shown = (brightness(read(path, sizes=[Size(24, 32, 32)])) / 5).round().tolist()
    assert shown == [0, 1, 2, 3, *16 * [4], 5, 6, 7, 8]


COLORS = {
    "BT.709": {"tags": {"colorspace": 1, "color_range": 1}, "matrix": "ITU709"},
    "BT.709, full range": {"tags": {"colorspace": 1, "color_range": 2}, "matrix": "ITU709", "full": True},
    "BT.601": {"tags": {"colorspace": 6, "color_range": 1}},
    "BT.601, full range": {"tags": {"colorspace": 6, "color_range": 2}, "full": True},
    "SMPTE 240M": {"tags": {"colorspace": 7, "color_range": 1}, "matrix": "SMPTE240M"},
    "BT.2020's matrix": {"tags": {"colorspace": 9, "color_range": 1}, "matrix": "BT2020"},
    "no tags": {},
    "RGB": {"codec": "libx264rgb", "pixels": "rgb24"},
    "HEVC, 10 bits": {
        "codec": "libx265", "pixels": "yuv420p10le", "tags": {"colorspace": 1}, "matrix": "ITU709",
        "options": {"x265-params": "log-level=none"},
    },
    "AV1": {"codec": "libsvtav1", "tags": {"colorspace": 1, "color_range": 1}, "matrix": "ITU709"},
    "VP9": {"codec": "libvpx-vp9", "format": "webm", "tags": {"colorspace": 1, "color_range": 1}, "matrix": "ITU709"},
    "ProRes 4:2:2": {
        "codec": "prores_ks", "format": "mov", "pixels": "yuv422p10le", "tags": {"colorspace": 1}, "matrix": "ITU709"
    },
    "4:4:4, 16 bits": {"codec": "ffv1", "format": "matroska", "pixels": "yuv444p16le"},
    "RGB, 10 bits": {"codec": "ffv1", "format": "matroska", "pixels": "gbrp10le"},
    "PNG, 16 bits": {"codec": "png", "format": "mov", "pixels": "rgb48be"},
    "raw 4:2:2": {"codec": "rawvideo", "format": "avi", "pixels": "yuyv422"},
    "raw NV12": {"codec": "rawvideo", "format": "nut", "pixels": "nv12"},
    "MJPEG": {"codec": "mjpeg", "format": "avi", "pixels": "yuvj444p", "full": True},
    "15 bits": {"codec": "msvideo1", "format": "avi", "pixels": "rgb555le"},
}  # fmt: skip


@pytest.mark.parametrize("name", COLORS)
def test_colors_are_those_that_were_filmed(name, tmp_path):
    path = write_video(
        tmp_path / "a.mp4", 5 * [np.full((48, 64, 3), COLOR, np.uint8)], **{"format": "mp4", **COLORS[name]}
    )
    assert np.abs(color(path) - COLOR).max() <= (5 if name == "15 bits" else 2), color(path)


def test_hd_without_tags_is_bt_709(tmp_path):
    path = write_video(tmp_path / "a.mp4", 5 * [np.full((720, 1280, 3), COLOR, np.uint8)], matrix="ITU709")
    assert np.abs(color(path) - COLOR).max() <= 2


@pytest.mark.parametrize(
    "tags, reason",
    [({"color_trc": 8}, "linear colors"), ({"color_trc": 9}, "logarithmic"), ({"colorspace": 8}, "YCgCo")],
)
def test_colors_that_cannot_be_read_are_a_reason(tags, reason, tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(5), tags=tags)
    with pytest.raises(DecodingError, match=reason):
        read(path)


def hdr(path: Path, coded: tuple[float, ...], transfer: int, primaries: int = 9) -> Path:
    frame = np.full((48, 64, 3), [round(65535 * value) for value in coded], np.uint16)
    tags = {"colorspace": 9, "color_range": 1, "color_primaries": primaries, "color_trc": transfer}
    options = {"x265-params": f"log-level=none:colorprim={primaries}:transfer={transfer}:colormatrix=9", "crf": "5"}
    return write_video(path, 5 * [frame], "libx265", "yuv420p10le", tags=tags, options=options, matrix="BT2020")


def pq(nits: float) -> float:
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.parametrize(
    "transfer, coded, wanted",
    [
        (16, pq(203), 255), (16, pq(203 / 2), 191), (16, pq(0.1), 11), (16, pq(4000), 255),
        (18, 0.75, 255), (18, 0.0, 0), (18, 1.0, 255),
    ],
)  # fmt: skip
def test_hdr_has_its_reference_white_white(transfer, coded, wanted, tmp_path):
    assert np.abs(color(hdr(tmp_path / "a.mp4", 3 * (coded,), transfer)) - wanted).max() <= 3


def test_wide_colors_are_brought_to_bt_709(tmp_path):
    """BT.709's red, as BT.2020 has it: by ITU-R BT.2087."""
    light = np.array([0.6274, 0.0691, 0.0164])
    red = color(hdr(tmp_path / "hdr.mp4", tuple(pq(203 * value) for value in light), 16))
    assert red[0] >= 250 and red[1:].max() <= 25
    red = color(hdr(tmp_path / "sdr.mp4", tuple(light ** (1 / 2.4)), 14))
    assert red[0] >= 250 and red[1:].max() <= 25


def square(side: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """A white square on black, as wide as it is high, in the middle."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[(height - side) // 2 : (height + side) // 2, (width - side) // 2 : (width + side) // 2] = 255
    return frame


@pytest.mark.parametrize(
    "container, codec, sar",
    [
        (container, codec, sar)
        for container, codec in (("mp4", "libx264"), ("mkv", "mpeg4"), ("mpg", "mpeg2video"))
        for sar in (Fraction(4, 3), Fraction(2, 1), Fraction(1, 2))
        if codec != "mpeg2video" or sar == Fraction(4, 3)  # MPEG-2 knows 4:3 and 16:9 alone
    ],
)
def test_anamorphic_pixels_become_square(container, codec, sar, tmp_path):
    stored = np.asarray(square())
    stored = np.repeat(np.repeat(stored, sar.denominator, axis=1), sar.numerator, axis=0)  # squeezed by the lens
    rate = 25 if codec == "mpeg2video" else 8
    path = write_video(tmp_path / f"a.{container}", 8 * [stored], codec, sar=sar, rate=rate)
    white = read(path, fps=rate, sizes=[Size(4, 48, 48)])[0, 0] > 0
    high, wide = white.any(1).sum(), white.any(0).sum()
    assert abs(high - wide) <= 2 and high > 10


def test_pixels_no_camera_has_are_a_reason(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(5), sar=Fraction(20, 1))
    with pytest.raises(DecodingError, match="pixel aspect ratio of 20:1"):
        read(path)


MATRICES = {  # a, b, c, d of the matrix, and where the stored left and top edges come to
    "upright": ((1, 0, 0, 1), "left", "top"),
    "a quarter clockwise": ((0, 1, -1, 0), "top", "right"),
    "upside down": ((-1, 0, 0, -1), "right", "bottom"),
    "a quarter counterclockwise": ((0, -1, 1, 0), "bottom", "left"),
    "mirrored": ((-1, 0, 0, 1), "right", "top"),
    "mirrored upside down": ((1, 0, 0, -1), "left", "bottom"),
    "transposed": ((0, 1, 1, 0), "top", "left"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored_clips_are_shown_upright(name, tmp_path):
    (a, b, c, d), left, top = MATRICES[name]
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :16, 0] = frame[:12, :, 2] = 255  # the left edge red, the top edge blue
    data = bytearray(write_video(tmp_path / "a.mp4", 5 * [frame], pixels="yuv444p").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    values = [value << 16 & 0xFFFFFFFF for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in values)
    (tmp_path / "a.mp4").write_bytes(data)
    shown = read(tmp_path / "a.mp4", sizes=[Size(4, 48, 64), Size(4, 64, 48)])[:, 0]
    assert shown.shape[1:] == ((64, 48) if b else (48, 64))
    edges = {
        "left": shown[:, 20:-20, 0],
        "right": shown[:, 20:-20, -1],
        "top": shown[:, 0, 20:-20],
        "bottom": shown[:, -1, 20:-20],
    }
    assert [edge for edge, pixels in edges.items() if pixels[0].mean() > 0] == [left]
    assert [edge for edge, pixels in edges.items() if pixels[2].mean() > 0] == [top]


@pytest.mark.parametrize(
    "codec, pixels, container",
    [
        ("qtrle", "argb", "mov"),
        ("ffv1", "bgra", "mkv"),
        ("png", "rgba", "mov"),
        ("apng", "rgba", "apng"),
        ("prores_ks", "yuva444p10le", "mov"),
    ],
)
def test_what_is_transparent_lies_on_white(codec, pixels, container, tmp_path):
    frame = np.zeros((48, 64, 4), np.uint8)
    frame[:, 32:] = (*COLOR, 255)
    path = write_video(tmp_path / f"a.{container}", 5 * [frame], codec, pixels)
    shown = (read(path, sizes=[Size(4, 48, 64)])[:, 0] + 1) * 127.5
    assert shown[:, :, :28].min() >= 253 and np.abs(shown[:, 24, 50] - COLOR).max() <= 3


def test_interlaced_lines_are_not_combs(tmp_path):
    """Of a bright square that moves, the lines of both moments in one frame."""
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[::2, 8:24], frame[1::2, 40:56] = 255, 255
    options = {"flags": "+ildct+ilme", "qmin": "1", "qmax": "2"}
    path = write_video(tmp_path / "a.mpg", 8 * [frame], "mpeg2video", rate=25, options=options)
    shown = read(path, fps=25, sizes=[Size(4, 64, 64)])[0, 0]
    assert np.abs(np.diff(shown[8:-8], axis=0)).max() < 0.3
    assert shown[:, 12:20].mean() > 0.7 and shown[:, 44:52].mean() < -0.7


def test_the_picture_on_a_cover_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=48000), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1)[0], "rgb24").reformat(format="yuvj420p")))
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(DecodingError, match="no video stream"):
        read(tmp_path / "a.mp4")


def test_transparency_that_the_decoder_would_drop_is_a_reason(tmp_path):
    frame = np.zeros((48, 64, 4), np.uint8)
    path = write_video(tmp_path / "a.webm", 5 * [frame], "libvpx-vp9", "yuva420p")
    with pytest.raises(DecodingError, match="transparent"):
        read(path)


@pytest.mark.parametrize("limited", [True, False])
def test_gray_video_has_the_range_that_it_says(limited, tmp_path):
    stored = round(16 + 180 * 219 / 255) if limited else 180
    options = {"x265-params": f"log-level=none:range={'limited' if limited else 'full'}", "crf": "1"}
    frames = 5 * [np.full((48, 64, 3), stored, np.uint8)]
    path = write_video(
        tmp_path / "a.mp4", frames, "libx265", "gray", tags={"color_range": 2 - limited}, options=options, full=True
    )
    assert np.abs(color(path) - 180).max() <= 3


def test_frames_are_freed_without_the_garbage_collector(tmp_path):
    video_writer.save(tmp_path / "clip.mp4", np.zeros((24, 32, 32, 3), np.uint8), fps=8)
    gc.collect()
    gc.disable()
    try:
        assert read(tmp_path / "clip.mp4", sizes=[Size(16, 32, 32)]).shape == (3, 16, 32, 32)
        left = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left == 0


def test_a_clip_whose_frames_change_in_size_goes_on(tmp_path):
    parts = [
        write_video(tmp_path / f"{height}.ts", numbered(8, height), format="mpegts", options={"bf": "0"}).read_bytes()
        for height in (48, 96)
    ]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    shown = (brightness(read(tmp_path / "a.ts", sizes=[Size(14, 32, 32)])) / 10).round().tolist()
    assert shown == [*range(8), *range(6)]
