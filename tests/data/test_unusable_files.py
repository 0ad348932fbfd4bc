"""Clips and images as a crawl leaves them: training goes on, and what was skipped is on disk, each file with its reason."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from nas.data import skipped
from nas.training import DecoderConfig, Inputs, read_history, run_stage
from tests.support.clip_files import claim_frames, write_clip, write_image


@dataclass(frozen=True)
class Case:
    """A row of metadata, how its file is made, and the reason in the list, or None for a clip that is used."""

    row: str
    make: Callable[[Path], object]
    reason: str | None
    listed: str | None = None  # the file in the list, where it is not the row's


def row(name: str, caption: str = "a clip") -> str:
    return f'{{"file_name": "{name}", "text": "{caption}"}}'


def cut(keep: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        data = write_clip(path, 16).read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return make


def smashed(path: Path) -> None:
    """Whole headers around a picture that is noise."""
    data = bytearray(write_clip(path, 16).read_bytes())
    start = data.index(b"mdat") + 8
    data[start : start + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)


def claiming(frames: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        claim_frames(write_clip(path, 12), frames)

    return make


def audio(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def bomb(path: Path) -> None:
    """A PNG of a few bytes whose header promises 9000 x 9000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)


def playlist(path: Path) -> None:
    path.write_text(f"ffconcat version 1.0\nfile '{path.parent / 'good.mp4'}'\n")


def nothing(path: Path) -> None: ...


CASES = {
    "good": Case(row("good.mp4"), lambda p: write_clip(p, 12), None),
    "cut to its header": Case(row("header.mp4"), cut(0.02), "cannot be decoded"),
    "index lost": Case(row("half.mp4"), cut(0.6), "holds no video stream"),
    "noise inside": Case(row("noise.avi"), smashed, "cannot be decoded"),
    "empty": Case(row("empty.mp4"), lambda p: p.write_bytes(b""), "cannot be decoded"),
    "one frame": Case(row("one.mp4"), lambda p: write_clip(p, 1), "has only 1 frame(s) at 8 per second, needs 8"),
    "too short": Case(row("short.mp4"), lambda p: write_clip(p, 7), "has only 7 frame(s)"),
    "4K": Case(row("4k.mp4"), lambda p: write_clip(p, 9, height=2160, width=3840), None),
    "claims 10^5 frames": Case(row("claims.mp4"), claiming(100_000), None),
    "claims 10^5 frames, one there": Case(
        row("claims1.mp4"), lambda p: claim_frames(write_clip(p, 1), 100_000), "has only 1"
    ),
    "an image of too many pixels": Case(row("bomb.png"), bomb, "frames of 9000x9000 are too large"),
    "prose": Case(row("prose.mp4"), lambda p: p.write_text("this is no video\n" * 99), "cannot be decoded"),
    "prose as image": Case(row("prose.jpg"), lambda p: p.write_text("no image"), "cannot be decoded"),
    "sound alone": Case(row("sound.mp4"), audio, "holds no video stream"),
    "an image called a clip": Case(row("image.mp4"), lambda p: write_image(p), "has only 1 frame(s)"),
    "a clip called an image": Case(row("clip.png"), lambda p: write_clip(p, 9), "cannot be decoded"),
    "another container's suffix": Case(row("avi.mp4"), lambda p: write_clip(p, 12, format="avi"), None),
    "a jpeg called png": Case(row("jpeg.png"), lambda p: write_image(p, format="jpeg"), None),
    "a list of other files": Case(row("list.mp4"), playlist, "cannot be decoded"),
    "missing": Case(row("missing.mp4"), nothing, "no such file"),
    "a folder": Case(row("folder.mp4"), lambda p: p.mkdir(), "cannot be read"),
    "unknown suffix": Case(
        row("notes.txt"), lambda p: p.write_text("x"), "has the suffix of neither", "metadata.jsonl"
    ),
    "duplicate row": Case(row("good.mp4"), nothing, "with the same caption", "metadata.jsonl"),
    "empty caption": Case(row("mute.mp4", "  "), lambda p: write_clip(p, 12), "empty caption"),
    "no caption": Case('{"file_name": "x.mp4"}', nothing, "text: missing", "metadata.jsonl"),
    "no file": Case('{"text": "x"}', nothing, "file_name: missing", "metadata.jsonl"),
    "not JSON": Case('{"file_name": "x.mp4", "text": ', nothing, "not JSON", "metadata.jsonl"),
    "no object": Case("[1, 2]", nothing, "expected an object", "metadata.jsonl"),
    "good image": Case(row("good.jpg"), lambda p: write_image(p, format="jpeg"), None),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, space) -> tuple[Path, dict[str, str]]:
    """A decoder stage trained on all of them at once, and the file or line of each case."""
    torch.set_num_threads(1)
    data = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        (data / split).mkdir()
    write_clip(data / "test/held.mp4", 9)
    (data / "test/metadata.jsonl").write_text(row("held.mp4") + "\n")
    files = {}
    for number, (name, case) in enumerate(CASES.items(), 1):
        if case.listed:
            files[name] = f"{data / 'train' / case.listed}:{number}"
        else:
            file = case.row.split('"')[3]
            files[name] = str(data / "train" / file)
        if case.make is not nothing:
            case.make(data / "train" / case.row.split('"')[3])
    (data / "train/metadata.jsonl").write_text("\n".join(case.row for case in CASES.values()) + "\n")
    config = DecoderConfig(str(data), steps=4, batch=4, channels=(8, 16, 16), held_out=1)
    return run_stage("decoder", tmp_path_factory.mktemp("run") / "decoder", config, Inputs(space)).folder, files


@pytest.mark.parametrize("name", CASES)
def test_the_list_says_what_is_wrong(run, name):
    folder, files = run
    listed = dict(skipped.read(folder / "train/skipped.csv"))
    reason = CASES[name].reason
    if reason is None:
        assert files[name] not in listed
    else:
        assert reason in listed[files[name]]


def test_training_went_on_with_what_can_be_used_and_wrote_its_own_list(run):
    folder, files = run
    assert len(read_history(folder)) == 4 and (folder / "result.json").exists()
    used = [name for name, case in CASES.items() if case.reason is None]
    cached = dict(skipped.read(folder / "train/skipped.csv"))
    assert len(cached) == len(CASES) - len(used)
    met = dict(skipped.read(folder / "skipped.csv"))
    assert met and met.items() <= cached.items()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    videos = [name for name in used if files[name].endswith((".mp4", ".avi"))]
    assert metrics["skipped"] == len(cached)
    assert (metrics["videos"], metrics["images"]) == (len(videos), len(used) - len(videos))
