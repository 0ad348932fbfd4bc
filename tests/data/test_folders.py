from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from nas.data import skipped
from nas.data.buckets import Size
from nas.data.folders import VideoFolder
from nas.data.latent_cache import LatentCache
from nas.data.latent_cache_writer import fill_cache
from nas.data.video_reader import read_video
from nas.errors import ConfigError
from tests.support.clip_files import brightness, write_clip, write_image

OWN = [Size(8, 32, 32)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    split = folder / "train"
    split.mkdir()
    write_clip(split / "good.mp4", 8)
    write_clip(split / "fast.mp4", 20, rate=16)
    write_clip(split / "one.mp4", 1)
    (split / "corrupt.mp4").write_bytes((split / "good.mp4").read_bytes()[:300])
    (split / "empty.mp4").write_bytes(b"")
    (split / "prose.mp4").write_text("this is no video")
    write_clip(split / "mute.mp4", 8)
    write_image(split / "gray.png")
    names = ["good", "fast", "one", "corrupt", "empty", "prose", "missing"]
    rows = [f"{name}.mp4,a {name} clip" for name in names] + ["mute.mp4,", "gray.png,all gray"]
    (split / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows) + "\n")
    return folder


def test_clips_are_decoded_cropped_and_resampled(data):
    source = VideoFolder(data, "train", OWN, 8)
    good, fast = source.video(0), source.video(1)
    assert good.pixels.shape == (3, 8, 32, 32) and good.caption == "a good clip"
    assert np.allclose(brightness(good.pixels), 10 * np.arange(8), atol=5)
    steps = np.diff(brightness(fast.pixels))  # 16 frames per second to 8: every second frame
    assert np.allclose(steps, 20, atol=5)
    slow = VideoFolder(data, "train", OWN, fps=16).video(0)
    assert (np.diff(brightness(slow.pixels)) < 3).sum() >= 3  # 8 frames per second to 16: frames twice


def test_what_cannot_be_used_is_skipped_and_listed(data, tmp_path):
    source = VideoFolder(data, "train", OWN, 8)

    def encode(pixels):
        return pixels[:, :1, :, ::4, ::4]

    def text(captions):
        return torch.zeros(len(captions), 2, 3)

    cache = fill_cache(tmp_path / "cache", source, encode, text)
    assert (cache.videos, cache.images) == (2, 1)
    reasons = {Path(file).name: reason for file, reason in skipped.read(tmp_path / "cache/skipped.csv")}
    assert reasons.keys() == {"one.mp4", "corrupt.mp4", "empty.mp4", "prose.mp4", "missing.mp4", "mute.mp4"}
    assert "has only 1 frame" in reasons["one.mp4"] and "empty caption" in reasons["mute.mp4"]
    latents, contexts = LatentCache(tmp_path / "cache").latents("videos", [0, 1])
    assert latents.shape == (2, 1, 8, 8, 8) and contexts.shape == (2, 2, 3)


def test_a_cache_that_was_interrupted_goes_on_after_its_last_shard(data, tmp_path, monkeypatch):
    from nas.data import latent_cache as module

    monkeypatch.setattr(module, "SHARD", 2)
    seen = []

    class Counting(VideoFolder):
        def video(self, index):
            if len(seen) == 5 and "again" not in seen:
                raise KeyboardInterrupt
            seen.append(index)
            return super().video(index)

    source = Counting(data, "train", OWN, 8)
    arguments = (tmp_path / "c", source, lambda pixels: pixels[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3))
    with pytest.raises(KeyboardInterrupt):
        fill_cache(*arguments)
    with pytest.raises(ConfigError, match="no such cache file"):
        LatentCache(tmp_path / "c")
    before = set(seen[:4])
    seen.append("again")
    cache = fill_cache(*arguments)
    assert not before & set(seen[seen.index("again") + 1 :])  # whole shards are not read again
    assert (cache.videos, cache.images) == (2, 1)


def test_metadata_mistakes_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"neither metadata\.csv nor metadata.jsonl"):
        VideoFolder(tmp_path, "train", OWN, 8)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4", "label": "x"}\n')
    with pytest.raises(ConfigError, match=r"metadata.jsonl:1: text: missing"):
        VideoFolder(tmp_path, "train", OWN, 8)
    (tmp_path / "metadata.jsonl").write_text('{"filename": "a.mp4", "text": "x"}\n')
    with pytest.raises(ConfigError, match=r"file_name: missing; did you mean 'filename'"):
        VideoFolder(tmp_path, "train", OWN, 8)


def test_without_a_test_folder_files_are_split_once_for_all(tmp_path):
    names = [f"{number}.mp4" for number in range(400)]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},x\n" for name in names))
    train, test = (VideoFolder(tmp_path, split, OWN, 8) for split in ("train", "test"))
    assert train.videos + test.videos == 400 and 5 < test.videos < 45
    paths = [{source.name("videos", i) for i in range(source.videos)} for source in (train, test)]
    assert not paths[0] & paths[1]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},x\n" for name in names[:3]))
    train, test = (VideoFolder(tmp_path, split, OWN, 8) for split in ("train", "test"))
    assert (train.videos, test.videos) == (2, 1)  # of three something is held out as well


def test_the_window_of_a_long_clip_is_found_without_decoding_what_is_before(tmp_path):
    clip = write_clip(tmp_path / "long.mp4", 2000, rate=24)
    starts = set()
    for share in (0.0, 0.37, 0.8, 1.0):
        with clip.open("rb") as file:
            shown = brightness(read_video(file, OWN, 8, share)).round(-1) / 10
        assert (np.abs((np.diff(shown) - 3 + 13) % 25.6 - 13) <= 1).all()  # 24 frames per second to 8: every third
        starts.add(shown[0])
    assert len(starts) > 1


def test_a_clip_on_its_side_is_turned_upright(tmp_path):
    """As a phone stores it: a wide picture and the word that it is to be shown turned by a quarter."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :16] = 255  # the left quarter of what is stored
    with av.open(str(tmp_path / "plain.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "plain.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    quarter = (0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)  # clockwise: the left side comes to the top
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in quarter)
    (tmp_path / "turned.mp4").write_bytes(data)
    with (tmp_path / "turned.mp4").open("rb") as file:
        shown = read_video(file, [Size(8, 32, 32), Size(8, 32, 24)], 8, 0)[0, 0]
    assert shown.shape == (32, 24)  # the upright bucket
    assert shown[:6].mean() > 0.8 and shown[10:].mean() < -0.8


def test_a_csv_caption_may_hold_line_ends_and_a_clip_several_captions(tmp_path):
    write_clip(tmp_path / "a.mp4", 8)
    write_clip(tmp_path / "b.mp4", 8)
    (tmp_path / "metadata.csv").write_text(
        '\ufefffile_name,text\na.mp4,"one\nline, two"\na.mp4,other\nb.mp4,b\n', encoding="utf-8"
    )
    source = VideoFolder(tmp_path, "train", OWN, 8)
    other = VideoFolder(tmp_path, "test", OWN, 8)
    found = {s.video(i).caption for s in (source, other) for i in range(s.videos)}
    assert found == {"one\nline, two", "other", "b"}
    names = [{s.name("videos", i) for i in range(s.videos)} for s in (source, other)]
    assert not names[0] & names[1]


def test_a_folder_without_images_gives_single_frames_of_its_clips(tmp_path):
    write_clip(tmp_path / "a.mp4", 20)
    write_clip(tmp_path / "b.mp4", 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a\nb.mp4,b\n")
    sources = [VideoFolder(tmp_path, split, OWN, 8) for split in ("train", "test")]
    images = {s.image(i).caption: s.image(i).pixels for s in sources for i in range(s.images)}
    assert {caption: pixels.shape for caption, pixels in images.items()} == dict.fromkeys("ab", (3, 1, 32, 32))
    assert 0 < brightness(images["a"])[0] < 200  # a frame from within


def test_captions_may_be_in_text_files_beside_the_clips(tmp_path):
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "more/c.mp4", "more/.hidden.mp4", "silent.mp4"):
        write_clip(data / name, 8)
    write_image(data / "still.png")
    (data / "a.txt").write_text("a cat,\nrunning\n")
    (data / "b.txt").write_bytes("\ufeffein Hund läuft".encode())
    (data / "more/c.txt").write_text("")  # as in metadata, an empty caption is one
    (data / "still.txt").write_bytes(b"\xff\xfe\xfd")
    (data / "notes.txt").write_text("not of a clip")
    sources = [VideoFolder(data, split, OWN, 8) for split in ("train", "test")]
    found = {Path(s.name("videos", i)).name: s.captions("videos", i) for s in sources for i in range(s.videos)}
    assert found == {"a.mp4": ("a cat,\nrunning",), "b.mp4": ("ein Hund läuft",), "c.mp4": ("",)}
    listed = {Path(sample.file).name: sample.reason for sample in sources[0].skipped}
    assert listed.keys() == {"silent.mp4", "still.png"} and listed["silent.mp4"].startswith("text: missing")


def test_rows_without_a_caption_take_that_of_the_text_file(tmp_path):
    for name in ("a", "b", "c"):
        write_clip(tmp_path / f"{name}.mp4", 8)
        (tmp_path / f"{name}.txt").write_text(f"{name} of the file")
    lines = ('{"file_name": "a.mp4"}', '{"file_name": "b.mp4", "text": "b of the row"}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    sources = [VideoFolder(tmp_path, split, OWN, 8) for split in ("train", "test")]
    captions = {s.captions("videos", i) for s in sources for i in range(s.videos)}
    assert captions == {("a of the file",), ("b of the row",)}  # c.mp4 is not in the metadata


def test_a_text_file_outside_of_the_data_is_not_read(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "secret.txt").write_text("a secret")
    for name in ("a", "b"):
        write_clip(data / f"{name}.mp4", 8)
    (data / "a.txt").symlink_to(tmp_path / "secret.txt")
    (data / "b.txt").write_text("fine")
    source = VideoFolder(data, "train", OWN, 8)
    assert "outside the data folder" in source.skipped[0].reason


def test_a_folder_train_without_a_folder_test_is_not_held_out_of(tmp_path):
    (tmp_path / "train").mkdir()
    write_clip(tmp_path / "train/a.mp4", 8)
    (tmp_path / "train/a.txt").write_text("x")
    assert VideoFolder(tmp_path, "train", OWN, 8).videos == 1
    with pytest.raises(ConfigError, match=r"nor a text file beside each clip; add one"):
        VideoFolder(tmp_path, "test", OWN, 8)
