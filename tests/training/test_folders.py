from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nas.errors import ConfigError
from nas.training.cache import Cache, prepare
from nas.training.folders import Folder


def write_clip(path: Path, frames: int, rate: int = 8, height: int = 48, width: int = 64) -> None:
    """A clip whose brightness is 10 times the frame's number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = height, width, "yuv420p", 4_000_000
        for number in range(frames):
            frame = np.full((height, width, 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


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
    Image.fromarray(np.full((30, 90, 3), 128, np.uint8)).save(split / "grey.png")
    names = ["good", "fast", "one", "corrupt", "empty", "prose", "missing"]
    rows = [f"{name}.mp4,a {name} clip" for name in names] + ["mute.mp4,", "grey.png,all grey"]
    (split / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows) + "\n")
    return folder


def brightness(pixels: np.ndarray) -> np.ndarray:
    return (pixels.mean((0, 2, 3)) + 1) * 127.5


def test_clips_are_decoded_cropped_and_resampled(data):
    source = Folder(data, "train", frames=8, height=32, width=32)
    good, fast = source.video(0), source.video(1)
    assert good.pixels.shape == (3, 8, 32, 32) and good.caption == "a good clip"
    assert np.allclose(brightness(good.pixels), 10 * np.arange(8), atol=5)
    steps = np.diff(brightness(fast.pixels))  # 16 frames per second to 8: every second frame
    assert np.allclose(steps, 20, atol=5)
    slow = Folder(data, "train", frames=8, height=32, width=32, fps=16).video(0)
    assert (np.diff(brightness(slow.pixels)) < 3).sum() >= 3  # 8 frames per second to 16: frames twice


def test_what_cannot_be_used_is_skipped_and_listed(data, tmp_path):
    source = Folder(data, "train", frames=8, height=32, width=32)

    def encode(pixels):
        return pixels[:, :1, :, ::4, ::4]

    def text(captions):
        import torch

        return torch.zeros(len(captions), 2, 3)

    cache = prepare(tmp_path / "cache", source, encode, text)
    assert (cache.videos, cache.images) == (2, 1)
    skipped = json.loads((tmp_path / "cache/skipped.json").read_text())
    reasons = {Path(entry["reason"].split(": ")[0]).name: entry["reason"] for entry in skipped}
    assert reasons.keys() == {"one.mp4", "corrupt.mp4", "empty.mp4", "prose.mp4", "missing.mp4", "mute.mp4"}
    assert "has only 1 frame" in reasons["one.mp4"] and "empty caption" in reasons["mute.mp4"]
    latents, contexts = Cache(tmp_path / "cache").latents("videos", [0, 1])
    assert latents.shape == (2, 1, 8, 8, 8) and contexts.shape == (2, 2, 3)


def test_a_cache_that_was_interrupted_goes_on_after_its_last_shard(data, tmp_path, monkeypatch):
    import torch

    from nas.training import cache as module

    monkeypatch.setattr(module, "SHARD", 2)
    seen = []

    class Counting(Folder):
        def video(self, index):
            if len(seen) == 5 and "again" not in seen:
                raise KeyboardInterrupt
            seen.append(index)
            return super().video(index)

    source = Counting(data, "train", frames=8, height=32, width=32)
    arguments = (tmp_path / "c", source, lambda pixels: pixels[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3))
    with pytest.raises(KeyboardInterrupt):
        prepare(*arguments)
    with pytest.raises(ConfigError, match="no such cache file"):
        Cache(tmp_path / "c")
    before = set(seen[:4])
    seen.append("again")
    cache = prepare(*arguments)
    assert not before & set(seen[seen.index("again") + 1 :])  # whole shards are not read again
    assert (cache.videos, cache.images) == (2, 1)


def test_metadata_mistakes_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"neither metadata\.csv nor metadata.jsonl"):
        Folder(tmp_path, "train", 8, 32, 32)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4", "label": "x"}\n')
    with pytest.raises(ConfigError, match=r"metadata.jsonl:1: text: missing"):
        Folder(tmp_path, "train", 8, 32, 32)
    (tmp_path / "metadata.jsonl").write_text('{"filename": "a.mp4", "text": "x"}\n')
    with pytest.raises(ConfigError, match=r"file_name: missing; did you mean 'filename'"):
        Folder(tmp_path, "train", 8, 32, 32)


def test_without_a_test_folder_files_are_split_once_for_all(tmp_path):
    names = [f"{number}.mp4" for number in range(400)]
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},x\n" for name in names))
    train, test = (Folder(tmp_path, split, 8, 32, 32) for split in ("train", "test"))
    assert train.videos + test.videos == 400 and 5 < test.videos < 45
    assert not {path for path, _ in train._videos} & {path for path, _ in test._videos}
