"""Clips written to files come back, as other programs read them, with the same frames."""

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from nas.errors import ConfigError
from nas.training import video


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

    frames, fps = read_mp4(video.save(tmp_path / "a.mp4", clip, fps=12))
    assert fps == 12 and frames.shape == wanted.shape
    assert np.abs(frames - wanted).mean() < 3

    gif = Image.open(video.save(tmp_path / "a.gif", clip))
    frames = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(gif)])
    assert np.abs(frames - wanted).max() <= 8

    folder = video.save(tmp_path / "a", clip)
    frames = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.iterdir())])
    np.testing.assert_array_equal(frames, wanted)


def test_a_small_clip_is_enlarged_for_looking_at_when_asked():
    clip = moving_square()
    np.testing.assert_array_equal(video.enlarge(clip), clip.repeat(8, 1).repeat(8, 2))
    assert video.enlarge(moving_square(height=257, width=301)).shape[1:3] == (257, 301)


def test_odd_sizes_and_large_clips_keep_their_pixels(tmp_path):
    clip = moving_square(frames=2, height=257, width=301)
    frames, _ = read_mp4(video.save(tmp_path / "a.mp4", clip))
    assert frames.shape == (2, 258, 302, 3)
    assert np.abs(frames[:, :257, :301].astype(int) - clip).mean() < 3


def test_the_same_clip_gives_the_same_bytes(tmp_path):
    for name in ("a.mp4", "a.gif"):
        video.save(tmp_path / name, moving_square())
        video.save(tmp_path / f"again-{name}", moving_square())
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_tiles_stand_where_their_number_says():
    clips = np.stack([np.full((2, 32, 32, 1), value, np.uint8) for value in (10, 20, 30)])
    grid = video.tile(clips)
    assert grid.shape == (2, 66, 66, 1)
    assert grid[0, 0, 0] == 10 and grid[0, 0, -1] == 20 and grid[0, -1, 0] == 30 and grid[0, -1, -1] == 128


def test_pixels_from_minus_one_to_one_become_bytes():
    clip = np.array([-2.0, -1.0, 0.0, 1.0, 3.0], np.float32).reshape(1, 1, 1, 5)
    assert video.to_uint8(clip).tolist() == [[[[0], [0], [128], [255], [255]]]]


@pytest.mark.parametrize(
    "name, words",
    [("a.avi", ".avi"), ("a.mp3", "did you mean '.mp4'"), ("file/a.mp4", "cannot be written"), ("full", "not empty")],
)
def test_what_cannot_be_written_is_one_line(tmp_path, name, words):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/0007.png").write_text("an older frame")
    with pytest.raises(ConfigError, match=words) as error:
        video.save(tmp_path / name, moving_square(frames=1))
    assert "\n" not in str(error.value)
