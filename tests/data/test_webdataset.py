from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nas.data import load_source
from nas.data.buckets import Size
from nas.data.folders import VideoFolder
from nas.data.source import UnreadableSample
from nas.data.webdataset import WebDataset
from nas.errors import ConfigError
from tests.support.clip_files import brightness, write_clip, write_image

OWN = [Size(8, 32, 32)]


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", 12).read_bytes()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_image(tmp_path_factory.mktemp("picture") / "a.jpg", format="jpeg").read_bytes()


def train(folder: Path) -> Path:
    (folder / "train").mkdir(exist_ok=True)
    return folder / "train"


def test_items_of_several_shards_are_read_in_any_order_as_from_a_folder(clip, picture, tmp_path):
    split = train(tmp_path)
    long_name = "d" * 120 + "/clip.extra"  # beyond what a plain tar header holds; its key ends at the first dot
    write_shard(
        split / "00000.tar",
        [
            ("a/0.mp4", clip),
            ("a/0.txt", b"the first\n"),
            ("a/1.jpg", picture),
            ("a/1.json", b'{"caption": "a picture"}'),
        ],
    )
    write_shard(
        split / "00001.tar",
        [
            ("0.json", b'{"text": "again", "fps": 8}'),
            ("0.mp4", clip),
            (f"{long_name}.mp4", clip),
            (f"{long_name}.txt", b"long"),
        ],
    )
    source = WebDataset(tmp_path, "train", OWN, 8)
    assert (source.videos, source.images, source.skipped) == (3, 1, [])
    assert [source.video(i).caption for i in (2, 0, 1)] == ["long", "the first", "again"]
    assert source.image(0).caption == "a picture" and source.image(0).pixels.shape == (3, 1, 32, 32)
    plain = tmp_path / "plain/train"
    plain.mkdir(parents=True)
    (plain / "0.mp4").write_bytes(clip)
    (plain / "metadata.csv").write_text("file_name,text\n0.mp4,x\n")
    assert np.array_equal(VideoFolder(plain.parent, "train", OWN, 8).video(0).pixels, source.video(0).pixels)
    assert (np.diff(brightness(source.video(1).pixels)) > 5).all()


def test_a_tar_of_the_system_is_read(clip, tmp_path):
    """Made by another implementation of tar, with folders among its members, and appended to."""
    import subprocess

    split = train(tmp_path)
    (tmp_path / "in/part").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"in/part/{number}.mp4").write_bytes(clip)
        (tmp_path / f"in/part/{number}.txt").write_text(f"number {number}")
    tar = ["tar", "--sort=name", "-C", str(tmp_path / "in"), "-cf", str(split / "a.tar"), "part"]
    subprocess.run(tar, check=True)
    source = WebDataset(tmp_path, "train", OWN, 8)
    assert source.skipped == [] and [source.video(i).caption for i in range(3)] == ["number 0", "number 1", "number 2"]


def test_what_is_damaged_in_a_shard_is_listed_and_the_rest_is_read(clip, tmp_path):
    split = train(tmp_path)
    members = [(f"{i}.{ending}", data) for i in range(4) for ending, data in (("mp4", clip), ("txt", b"text %d" % i))]
    good = write_shard(split / "b.tar", members).read_bytes()
    with tarfile.open(split / "b.tar") as tar:
        places = {info.name: info.offset for info in tar.getmembers()}
    smashed = bytearray(good)
    smashed[places["1.mp4"] : places["1.mp4"] + 512] = b"\xa5" * 512  # a header
    smashed[places["2.mp4"] + 512 : places["2.mp4"] + 1024] = b"\xa5" * 512  # a clip's beginning
    (split / "b.tar").write_bytes(smashed)
    (split / "c.tar").write_bytes(good[: places["3.mp4"] + 700])  # truncated inside the last clip
    (split / "d.tar").write_bytes(b"this is prose, not a shard" * 100)
    (split / "e.tar").write_bytes(b"")
    source = WebDataset(tmp_path, "train", OWN, 8)
    read, failed = [], {}
    for index in range(source.videos):
        try:
            read.append((source.name("videos", index)[len(str(split)) + 1 :], source.video(index).caption))
        except UnreadableSample as error:
            failed[error.file[len(str(split)) + 1 :]] = error.reason
    assert read == [("b.tar/0.mp4", "text 0"), ("b.tar/3.mp4", "text 3")] + [
        (f"c.tar/{i}.mp4", f"text {i}") for i in range(3)
    ]
    assert list(failed) == ["b.tar/2.mp4"]
    listed = {error.file[len(str(split)) + 1 :]: error.reason for error in source.skipped}
    assert "are damaged" in listed["b.tar"] and "no clip or image" in listed["b.tar/1.txt"]
    assert "truncated" in listed["c.tar/3.mp4"]
    assert listed.keys() == {"b.tar", "b.tar/1.txt", "c.tar/3.mp4", "d.tar", "e.tar"}


def test_members_that_do_not_make_an_item_are_listed(clip, tmp_path):
    split = train(tmp_path)
    members = [
        ("0.mp4", clip), ("0.txt", b"fine"), ("0.cls", b"7"),
        ("1.mp4", clip),
        ("2.txt", b"alone"),
        ("3.mp4", clip), ("3.mp4", clip), ("3.txt", b"twice"),
        ("4.mp4", clip), ("4.webm", clip), ("4.txt", b"both"),
        ("5.mp4", clip), ("5.json", b"{not json"),
        ("6.mp4", clip), ("6.json", b'{"label": 3}'),
        ("7.mp4", clip), ("7.txt", b" \n"),
        ("8.mp4", clip), ("8.txt", b"x" * (2 << 20)),
    ]  # fmt: skip
    write_shard(split / "a.tar", members)
    source = WebDataset(tmp_path, "train", OWN, 8)
    captions, reasons = [], {Path(error.file).name: error.reason for error in source.skipped}
    for index in range(source.videos):
        try:
            captions.append(source.video(index).caption)
        except UnreadableSample as error:
            reasons[Path(error.file).name] = error.reason
    assert captions == ["fine", "twice", "both"]
    words = {
        "1.mp4": "no caption", "2.txt": "no clip or image", "3.mp4": "twice", "4.webm": "same key",
        "5.json": "not JSON", "6.json": "text: missing", "7.mp4": "empty caption", "8.txt": "too long",
    }  # fmt: skip
    assert reasons.keys() == words.keys() and all(word in reasons[name] for name, word in words.items())


def test_shards_are_found_split_and_prepared_as_a_folder_is(clip, vae, space, tmp_path):
    from nas.training.stages.prepare import PrepareConfig, prepare

    names = [f"{i:03d}" for i in range(30)]
    members = [(f"{name}.{e}", data) for name in names for e, data in (("mp4", clip), ("txt", name.encode()))]
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "0.tar", members[:20])
    write_shard(data / "1.tar", [*members[20:], ("bad.mp4", b"prose"), ("bad.txt", b"bad")])
    splits = [load_source(str(data), split, space, space.autoencoder) for split in ("train", "test")]
    seen = [{source.caption("videos", i) for i in range(source.videos)} for source in splits]
    assert not seen[0] & seen[1] and seen[0] | seen[1] == {*names, "bad"}
    done = prepare(tmp_path / "out", PrepareConfig(str(data), str(vae)), space)
    assert done.metrics["videos"] + done.metrics["held_out"] == 30 and done.metrics["skipped"] == 1
    assert "1.tar/bad.mp4,cannot be decoded" in (done.folder / "skipped.csv").read_text()


def test_a_shard_that_is_gone_or_other_is_noticed(clip, tmp_path):
    split = train(tmp_path)
    shard = write_shard(split / "0.tar", [("0.mp4", clip), ("0.txt", b"a")])
    source = WebDataset(tmp_path, "train", OWN, 8)
    shard.unlink()
    with pytest.raises(UnreadableSample, match=r"0\.tar/0\.mp4: no such file"):
        source.video(0)
    write_shard(shard, [("0.mp4", clip), ("0.txt", b"a longer one")])
    assert WebDataset(tmp_path, "train", OWN, 8).hash != source.hash


def test_a_shard_that_cannot_be_read_in_any_order_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"contains no \.tar shard"):
        WebDataset(tmp_path, "train", OWN, 8)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a.tar.gz: a compressed shard .* decompress it"):
        WebDataset(tmp_path, "train", OWN, 8)


def test_json_written_by_webdataset_tools_is_understood(clip, tmp_path):
    split = train(tmp_path)
    row = {"key": "0", "caption": "naïve café", "width": 64, "url": None}
    write_shard(split / "0.tar", [("0.json", json.dumps(row, ensure_ascii=False).encode()), ("0.mp4", clip)])
    assert WebDataset(tmp_path, "train", OWN, 8).video(0).caption == "naïve café"
