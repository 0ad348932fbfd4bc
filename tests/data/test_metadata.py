"""Metadata as people and tools write it: each row is read as it was meant, or listed with the reason."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch

from nas.data import skipped
from nas.data.buckets import Size
from nas.data.folders import VideoFolder
from nas.data.latent_cache import LatentCache
from nas.data.latent_cache_writer import fill_cache
from nas.data.source import UnreadableSample
from nas.data.webdataset import WebDataset
from nas.errors import ConfigError
from tests.support.clip_files import write_clip, write_image

OWN = [Size(8, 32, 32)]


def source(folder: Path, metadata: str | bytes, name: str = "metadata.csv") -> VideoFolder:
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train" / name).write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    return VideoFolder(folder, "train", OWN, 8)


def read(found: VideoFolder) -> dict[str, tuple[str, ...]]:
    return {Path(found.name("videos", i)).name: found.captions("videos", i) for i in range(found.videos)}


def reasons(found: VideoFolder) -> dict[str, str]:
    return {error.file.rpartition(":")[2]: error.reason for error in found.skipped}


GOOD = "a.mp4,first\n"
TABLES = {  # the table, the captions by file, and a word of the reason by line
    "a comma": (GOOD + "b.mp4,take 0, the best\n", {"a.mp4": "first"}, {"3": "has 3 fields"}),
    "a comma in quotes": (GOOD + 'b.mp4,"take 0, the best"\n', {"a.mp4": "first", "b.mp4": "take 0, the best"}, {}),
    "quotes after a space": (GOOD + 'b.mp4, "one, two"\n', {"a.mp4": "first", "b.mp4": "one, two"}, {}),
    "a quote that stays open": (
        'b.mp4,"left open\n' + GOOD + "c.mp4,third\n", {"a.mp4": "first", "c.mp4": "third"}, {"2": "not closed"},
    ),
    "a quote open at the end": (GOOD + 'b.mp4,"left open\n', {"a.mp4": "first"}, {"3": ""}),
    "a quote that a later row closes": (
        'b.mp4,"left open\n' + GOOD + 'c.mp4,"third"\n', {"a.mp4": "first", "c.mp4": "third"}, {"2": "not closed"},
    ),
    "a quote that a later caption closes": (
        'b.mp4,"left open\n' + GOOD + 'c.mp4,he says "\n', {"a.mp4": "first", "c.mp4": 'he says "'}, {"2": "not closed"},
    ),
    "two quotes that stay open": (
        'b.mp4,"one\nc.mp4,"two\n' + GOOD, {"a.mp4": "first"}, {"2": "not closed", "3": "not closed"},
    ),
    "text after a quote": (GOOD + 'b.mp4,"big" dog\n', {"a.mp4": "first"}, {"3": "not CSV"}),
    "a quote within": (GOOD + 'b.mp4,a 5" screen\n', {"a.mp4": "first", "b.mp4": 'a 5" screen'}, {}),
    "lines in a caption": (GOOD + 'b.mp4,"one\ntwo, three"\n', {"a.mp4": "first", "b.mp4": "one\ntwo, three"}, {}),
    "too few fields": (GOOD + "b.mp4\n", {"a.mp4": "first"}, {"3": "text: missing"}),
    "a long field": (GOOD + f"b.mp4,{'x' * 140_000}\nc.mp4,c\n", {"a.mp4": "first", "c.mp4": "c"}, {"3": "field"}),
    "a zero byte": (GOOD + "b.mp4,a\0b\n", {"a.mp4": "first"}, {"3": "zero byte"}),
    "not UTF-8": (b"a.mp4,first\nb.mp4,caf\xe9\n", {"a.mp4": "first"}, {"3": "not valid Unicode"}),
    "a JSON list": (GOOD + 'b.mp4,"[""one"", ""two""]"\n', {"a.mp4": "first", "b.mp4": ("one", "two")}, {}),
    "a list as pandas writes it": (GOOD + "b.mp4,\"['one', 'two']\"\n", {"a.mp4": "first", "b.mp4": ("one", "two")}, {}),
    "a JSON object": (GOOD + 'b.mp4,"{""en"": ""one""}"\n', {"a.mp4": "first"}, {"3": "not an object"}),
    "brackets": (GOOD + "b.mp4,[door creaks]\n", {"a.mp4": "first", "b.mp4": "[door creaks]"}, {}),
    "many brackets": (GOOD + f"b.mp4,{'[' * 9000}\n", {"a.mp4": "first", "b.mp4": "[" * 9000}, {}),
    "empty lines": (GOOD + "\n,\nb.mp4,b\n", {"a.mp4": "first", "b.mp4": "b"}, {}),
    "outside, above": (GOOD + "../../b.mp4,b\n", {"a.mp4": "first"}, {"3": "is outside"}),
    "outside, from the root": (GOOD + "/etc/b.mp4,b\n", {"a.mp4": "first"}, {"3": "is outside"}),
    "a long name": (GOOD + f"{'b' * 5000}.mp4,b\n", {"a.mp4": "first"}, {"3": "too long"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_csv_are_read_as_they_were_meant_or_listed(name, tmp_path):
    table, captions, words = TABLES[name]
    found = source(tmp_path, b"file_name,text\n" + (table if isinstance(table, bytes) else table.encode()))
    assert read(found) == {file: (text,) if isinstance(text, str) else text for file, text in captions.items()}
    listed = reasons(found)
    assert listed.keys() == words.keys() and all(word in listed[line] for line, word in words.items()), listed


@pytest.mark.parametrize(
    "table",
    [
        "file_name;text\r\na.mp4;eins, zwei\r\n".encode("utf-8-sig"),
        "file_name\ttext\r\na.mp4\teins, zwei\r\n".encode("utf-16"),
        b"sep=;\r\nfile_name;text\r\na.mp4;eins, zwei\r\n",
        b'text,file_name\r"eins, zwei",a.mp4\r',
        b'text , file_name\n"eins, zwei", a.mp4\n',
        b'id,text,file_name\n1,"eins, zwei","a.mp4"\n',
    ],
)
def test_tables_as_excel_leaves_them_are_read(table, tmp_path):
    assert read(source(tmp_path, table)) == {"a.mp4": ("eins, zwei",)}


def test_a_caption_of_several_lines_may_stand_before_the_name(tmp_path):
    found = source(tmp_path, 'text,file_name\n"one\ntwo",a.mp4\nthree,b.mp4\n')
    assert read(found) == {"a.mp4": ("one\ntwo",), "b.mp4": ("three",)} and not found.skipped


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two columns 'text'"):
        source(tmp_path, "file_name,text,text\na.mp4,x,y\n")


VALUES = [
    ('["one", "two"]', ("one", "two"), None),
    ('["one", " "]', ("one",), None),
    ("7", ("7",), None),
    ("[]", None, "an empty list"),
    ('["one", 2]', None, "a number in a list"),
    ('[["one"]]', None, "a list in a list"),
    ("[null]", None, "null in a list"),
    ('{"en": "one"}', None, "an object"),
    ("true", None, "true or false"),
    ("1.5", None, "a number"),
    ("NaN", None, "a number"),
    ('"\\ud800"', None, "not valid Unicode"),
    ('"a\\u0000b"', None, "zero byte"),
    ("5" * 5000, None, "not JSON"),
    ("[" * 100_000, None, "not JSON"),
    (f'"{"x" * 140_000}"', None, "too long"),
]


@pytest.mark.parametrize("value, captions, reason", VALUES)
def test_captions_of_a_jsonl_and_of_a_shard_are_texts_or_listed(value, captions, reason, tmp_path):
    row = f'{{"file_name": "b.mp4", "text": {value}}}'
    found = source(tmp_path, '{"file_name": "a.mp4", "text": "first"}\n' + row + "\n", "metadata.jsonl")
    assert read(found).get("b.mp4") == captions
    assert reason is None or reason in reasons(found)["2"]
    with tarfile.open(tmp_path / "train/0.tar", "w") as tar:
        for name, data in (("b.mp4", b""), ("b.json", row.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shards = WebDataset(tmp_path, "train", OWN, 8)
    if captions:
        assert shards.captions("videos", 0) == captions
    else:
        with pytest.raises(UnreadableSample, match=reason):
            shards.captions("videos", 0)


def test_of_several_captions_each_epoch_sees_one_by_the_seed(tmp_path):
    several = [f"caption {number}" for number in range(4)]
    rows = [{"file_name": f"{n}.mp4", "text": [f"{n} {text}" for text in several]} for n in range(3)]
    rows.append({"file_name": "3.mp4", "text": "3 alone"})
    (tmp_path / "train").mkdir()
    for n in range(4):
        write_clip(tmp_path / f"train/{n}.mp4", 8)
    found = source(tmp_path, "\n".join(map(json.dumps, rows)), "metadata.jsonl")
    captions = [
        "",
        *(text for row in rows for text in ([row["text"]] if isinstance(row["text"], str) else row["text"])),
    ]

    def text(texts):
        return torch.tensor([captions.index(text) for text in texts]).float().reshape(-1, 1, 1)

    fill_cache(tmp_path / "cache", found, lambda x: x[:, :, :, ::4, ::4], text)
    cache = LatentCache(tmp_path / "cache")

    def drawn(seed: int, step: int) -> list[str]:
        return [captions[int(number)] for number in cache.latents("videos", range(4), 0, (seed, step))[1].flatten()]

    epochs = [drawn(0, step) for step in range(40)]
    assert {text for epoch in epochs for text in epoch} == set(captions[1:])
    assert all(len({text[0] for text in epoch}) == 4 for epoch in epochs)  # each of its own clip
    assert epochs == [drawn(0, step) for step in range(40)] != [drawn(1, step) for step in range(40)]
    first = [captions[int(number)] for number in cache.latents("videos", range(4))[1].flatten()]
    assert set(first) == {"0 caption 0", "1 caption 0", "2 caption 0", "3 alone"}


def special(folder: Path) -> dict[str, str]:
    """Files that must not be opened or waited for, and the reason in the list."""
    os.mkfifo(folder / "fifo.mp4")
    os.mkfifo(folder / "fifo.png")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "folder.mp4").mkdir()
    (folder / "folder.png").mkdir()
    (folder / "loop.mp4").symlink_to("loop.mp4")
    write_clip(folder.parent.parent / "secret.mp4", 8)
    (folder / "secret.mp4").symlink_to(folder.parent.parent / "secret.mp4")
    return {
        "fifo.mp4": "a FIFO", "fifo.png": "a FIFO", "endless.mp4": "outside the data folder", "endless.png": "outside the",
        "folder.mp4": "a folder", "folder.png": "a folder", "loop.mp4": "cannot be read", "secret.mp4": "outside the data",
    }  # fmt: skip


def test_what_is_no_file_of_the_folder_is_listed_and_never_opened(tmp_path):
    data = tmp_path / "data/train"
    data.mkdir(parents=True)
    words = special(data)
    write_clip(data / "good.mp4", 8)
    (data / "inside").mkdir()
    write_image(data / "inside/real.png")
    (data / "good.png").symlink_to("inside/real.png")  # a link within is fine
    rows = "".join(f"{name},x\n" for name in (*words, "good.mp4", "good.png", "inside/../good.mp4"))
    found = source(data.parent, "file_name,text\n" + rows)
    assert found.hash
    cache = fill_cache(tmp_path / "cache", found, lambda x: x[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3))
    assert (cache.videos, cache.images) == (1, 1)
    listed = {Path(file).name: reason for file, reason in skipped.read(tmp_path / "cache/skipped.csv")}
    assert all(word in listed[name] for name, word in words.items()), listed


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    repository = tmp_path / "datasets--x--y"
    folder = repository / "snapshots/abc"
    (folder / "train").mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_clip(repository / "blobs/123", 8, format="mp4")
    (folder / "train/a.mp4").symlink_to("../../../blobs/123")
    assert source(folder, "file_name,text\na.mp4,x\n").video(0).caption == "x"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "0.tar"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_metadata_and_shards_that_are_no_files_are_one_line(name, kind, tmp_path):
    path = tmp_path / name
    {"fifo": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    word = {"fifo": "a FIFO", "folder": "a folder", "device": "a device"}[kind]
    if name == "0.tar":
        assert word in str(WebDataset(tmp_path, "train", OWN, 8).skipped[0])
    else:
        with pytest.raises(ConfigError, match=word) as error:
            VideoFolder(tmp_path, "train", OWN, 8)
        assert "\n" not in str(error.value)


def test_members_of_a_shard_stay_in_it(tmp_path):
    (tmp_path / "train").mkdir()
    write_clip(tmp_path / "secret.mp4", 8)
    clip = (tmp_path / "secret.mp4").read_bytes()
    with tarfile.open(tmp_path / "train/0.tar", "w") as tar:
        for name, data, link in (
            ("../../up.mp4", clip, ""), ("../../up.txt", b"up", ""), ("/tmp/root.mp4", clip, ""), ("/tmp/root.txt", b"r", ""),
            ("link.mp4", b"", "../../secret.mp4"), ("link.txt", b"link", ""),
            ("bytes\udcff.mp4", b"prose", ""), ("bytes\udcff.txt", b"x", ""), ("latin.mp4", clip, ""), ("latin.txt", b"caf\xe9", ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    found = WebDataset(tmp_path, "train", OWN, 8)
    fill_cache(tmp_path / "cache", found, lambda x: x[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3))
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before
    listed = dict(skipped.read(tmp_path / "cache/skipped.csv"))
    words = {
        "link.mp4": "is a link",
        "link.txt": "no clip",
        "bytes\\udcff.mp4": "cannot be decoded",
        "latin.txt": "Unicode",
    }
    assert all(word in listed[f"{tmp_path}/train/0.tar/{name}"] for name, word in words.items()), listed
