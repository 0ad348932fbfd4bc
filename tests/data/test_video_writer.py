"""Clips written to files come back, as other programs read them, with the same frames."""

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from nas.data import video_writer
from nas.data.buckets import Size
from nas.data.video_reader import read_video
from nas.errors import ConfigError


def moving_square(frames=6, height=32, width=48, channels=3) -> np.ndarray:
    clip = np.full((frames, height, width, channels), 40, np.uint8)
    for i in range(frames):
        clip[i, 8:20, 4 * i : 4 * i + 12] = 220
    return clip


def read_mp4(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), float(stream.average_rate)


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_gif_and_png_hold_the_frames_at_their_own_size(tmp_path, channels):
    clip = moving_square(channels=channels)
    wanted = np.broadcast_to(clip, (6, 32, 48, 3)).astype(int)

    frames, fps = read_mp4(video_writer.save(tmp_path / "a.mp4", clip, fps=12))
    assert fps == 12 and frames.shape == wanted.shape
    assert np.abs(frames - wanted).mean() < 3

    gif = Image.open(video_writer.save(tmp_path / "a.gif", clip, 8))
    frames = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(gif)])
    assert np.abs(frames - wanted).max() <= 8

    folder = video_writer.save(tmp_path / "a", clip, 8)
    frames = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.iterdir())])
    np.testing.assert_array_equal(frames, wanted)


def test_a_small_clip_is_enlarged_for_looking_at_when_asked():
    clip = moving_square()
    np.testing.assert_array_equal(video_writer.enlarge(clip), clip.repeat(8, 1).repeat(8, 2))
    assert video_writer.enlarge(moving_square(height=257, width=301)).shape[1:3] == (257, 301)


def test_odd_sizes_and_large_clips_keep_their_pixels(tmp_path):
    clip = moving_square(frames=2, height=257, width=301)
    frames, _ = read_mp4(video_writer.save(tmp_path / "a.mp4", clip, 8))
    assert frames.shape == (2, 258, 302, 3)
    assert np.abs(frames[:, :257, :301].astype(int) - clip).mean() < 3


def test_the_same_clip_gives_the_same_bytes(tmp_path):
    for name in ("a.mp4", "a.gif"):
        video_writer.save(tmp_path / name, moving_square(), 8)
        video_writer.save(tmp_path / f"again-{name}", moving_square(), 8)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_tiles_stand_where_their_number_says():
    clips = np.stack([np.full((2, 32, 32, 1), value, np.uint8) for value in (10, 20, 30)])
    grid = video_writer.tile(clips)
    assert grid.shape == (2, 66, 66, 1)
    assert grid[0, 0, 0] == 10 and grid[0, 0, -1] == 20 and grid[0, -1, 0] == 30 and grid[0, -1, -1] == 128


def test_pixels_from_minus_one_to_one_become_bytes():
    clip = np.array([-2.0, -1.0, 0.0, 1.0, 3.0], np.float32).reshape(1, 1, 1, 5)
    assert video_writer.to_uint8(clip).tolist() == [[[[0], [0], [128], [255], [255]]]]


@pytest.mark.parametrize(
    "name, words",
    [("a.avi", ".avi"), ("a.mp3", "did you mean '.mp4'"), ("file/a.mp4", "cannot be written"), ("full", "not empty")],
)
def test_what_cannot_be_written_is_one_line(tmp_path, name, words):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/0007.png").write_text("an older frame")
    with pytest.raises(ConfigError, match=words) as error:
        video_writer.save(tmp_path / name, moving_square(frames=1), 8)
    assert "\n" not in str(error.value)


COLORS = [(200, 30, 60), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (250, 220, 10)]


@pytest.mark.parametrize("color", COLORS)
def test_an_mp4_says_which_colors_it_has_and_gives_them_back(tmp_path, color):
    path = video_writer.save(tmp_path / "a.mp4", np.full((8, 256, 256, 3), color, np.uint8), 8)
    with av.open(str(path)) as container:
        frame = next(container.decode(container.streams.video[0]))
        told = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
        assert tuple(map(int, told)) == (1, 1, 1, 1)
        theirs = frame.to_ndarray(format="rgb24")
    with path.open("rb") as file:
        ours = (read_video(file, [Size(8, 64, 64)], 8, 0)[:, 0].transpose(1, 2, 0) + 1) * 127.5
    assert np.abs(ours - color).max() <= 3 and np.abs(theirs.astype(int) - color).max() <= 5
    assert b"colrnclx\0\1\0\1\0\1" in path.read_bytes()  # in the container as well, for players that look there alone


@pytest.mark.parametrize("fps", [1, 7.5, 8, 12, 24, 25, 30, 50, 60, 120, 240, 1000])
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 60])
def test_a_gif_lasts_as_long_as_the_clip_and_no_frame_too_short_for_players(tmp_path, fps, frames):
    clip = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.full((1, 256, 256, 3), 4, np.uint8)
    with Image.open(video_writer.save(tmp_path / "a.gif", clip, fps)) as gif:
        shown, durations = [], []
        for number in range(gif.n_frames):
            gif.seek(number)
            shown.append(round(np.asarray(gif.convert("L")).mean() / 4))
            durations.append(gif.info["duration"])
    assert sum(durations) == max(20, 10 * round(100 * frames / fps)) and min(durations) >= 20
    assert shown[0] == 0 and (fps > 50 or len(shown) == frames)
    starts = np.cumsum([0, *durations[:-1]])
    assert np.abs(starts - np.array(shown) * 1000 / fps).max() <= 5  # each in its time


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), 1e9, True, "8"])
def test_a_rate_that_no_player_has_is_one_line(tmp_path, fps):
    for name in ("a.mp4", "a.gif", "a"):
        with pytest.raises(ConfigError, match="fps: must be positive"):
            video_writer.save(tmp_path / name, moving_square(), fps)
    assert not list(tmp_path.iterdir())


def test_no_frames_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no frames"):
        video_writer.save(tmp_path / "a.mp4", np.zeros((0, 32, 32, 3), np.uint8), 8)
