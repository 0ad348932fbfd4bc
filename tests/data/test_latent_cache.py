from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas import checkpoint
from nas.cli import main
from nas.data import latent_cache, latent_cache_writer, skipped
from nas.data.buckets import Size
from nas.data.file_source import content_hash
from nas.data.folders import VideoFolder
from nas.data.latent_cache import LatentCache
from nas.data.source import UnreadableSample
from nas.errors import ConfigError, NasError
from nas.models.autoencoder import encode_clips
from nas.models.autoencoder.streaming import MAX_PIXELS
from nas.training import DecoderConfig, Inputs, run_stage
from nas.training.stages.prepare import PrepareConfig, prepare
from tests.support.clip_files import write_clip
from tests.support.forked import run_python, start_python

KILLED = """
import os, signal, sys
from nas.cli import main
from nas.data import latent_cache
from nas.models import safetensors_io

latent_cache.SHARD, save = 2, safetensors_io.save

def dies(path, *arguments, **options):
    "In the middle of the fifth file."
    if path.name == "videos-00004.safetensors":
        (path.parent / f".{path.name}.torn").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    save(path, *arguments, **options)

safetensors_io.save = dies
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    clip = write_clip(folder / "0.mp4", 24).read_bytes()
    for number in range(16):
        (folder / f"{number}.mp4").write_bytes(clip)
    (folder / "bad.mp4").write_bytes(b"nothing")
    rows = [f"{number}.mp4,take {number}" for number in range(16)] + ["bad.mp4,not seen"]
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_killed_prepare_goes_on_and_ends_with_the_same_bytes(data, vae, space, tmp_path, monkeypatch, capsys):
    space.save(tmp_path / "space.yaml")
    call = ["prepare", "--data", data, "--space", tmp_path / "space.yaml", "--decoder", vae, "--out"]
    killed = tmp_path / "killed"
    assert start_python(KILLED, *call, killed).wait() == -signal.SIGKILL
    assert not (killed / "train" / "cache.json").exists() and not (killed / "result.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (killed / "train").glob("*-*.safetensors")}
    assert len(kept) == 4
    torch.set_num_threads(1)
    monkeypatch.setattr(latent_cache, "SHARD", 2)
    assert main([*map(str, call), str(killed)]) == 0
    ended = capsys.readouterr()
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())  # what was whole is not made again
    assert main([*map(str, call), str(tmp_path / "straight")]) == 0
    for split in ("train", "test"):
        names = sorted(path.name for path in (tmp_path / "straight" / split).iterdir())
        there = sorted(path.name for path in (killed / split).iterdir() if not path.name.startswith("."))
        assert names == there  # a killed write leaves a hidden file at most
        for name in names:
            assert (killed / split / name).read_bytes() == (tmp_path / "straight" / split / name).read_bytes(), name
    bad = [(Path(file).name, reason) for file, reason in skipped.read(killed / "skipped.csv")]
    assert len(bad) == 1 and bad[0][0] == "bad.mp4" and "cannot be decoded" in bad[0][1]
    assert "skipped files: 1" in ended.out and "encode train: " in ended.err and " clips, " in ended.err


def test_what_is_prepared_is_what_the_autoencoder_makes_of_the_clips(data, vae, space, tmp_path):
    done = prepare(tmp_path / "out", PrepareConfig(str(data), str(vae), videos=5, held_out=3), space)
    assert done.metrics["videos"] <= 5 and done.metrics["held_out"] <= 3
    autoencoder = checkpoint.load_autoencoder(vae)
    source = VideoFolder(data, "train", [Size(8, 32, 32)], 8)
    captions = json.loads((done.folder / "train/videos-00000.json").read_text())["captions"]["8x8x8"]
    by_caption = {source.caption("videos", i): i for i in range(source.videos)}
    latents, contexts = LatentCache(done.folder / "train").latents("videos", range(len(captions)))
    for row, caption in enumerate(captions):
        video = torch.from_numpy(source.video(by_caption[caption]).pixels)[None]
        assert torch.allclose(autoencoder.encode(video)[0], latents[row], atol=1e-5)
    assert contexts.shape == (len(captions), 16, 384) and contexts.std() > 0


def test_stable_diffusions_autoencoder_prepares_from_its_own_folder(data, space, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    theirs = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=["DownEncoderBlock2D"] * 3, norm_num_groups=8,
        up_block_types=["UpDecoderBlock2D"] * 3, latent_channels=4, scaling_factor=0.5,
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "sd" / "vae")
    done = prepare(tmp_path / "out", PrepareConfig(str(data), str(tmp_path / "sd"), videos=5, held_out=3), space)
    source = VideoFolder(data, "train", [Size(8, 32, 32)], 8)
    caption, *_ = json.loads((done.folder / "train/videos-00000.json").read_text())["captions"]["8x8x8"]
    (number,) = (i for i in range(source.videos) if source.caption("videos", i) == caption)
    frames = torch.from_numpy(source.video(number).pixels).transpose(0, 1)
    with torch.no_grad():
        expected = 0.5 * theirs.encode(frames).latent_dist.mean
    latents, _ = LatentCache(done.folder / "train").latents("videos", [0])
    torch.testing.assert_close(latents[0].transpose(0, 1), expected, rtol=1e-4, atol=1e-4)


def test_a_prepared_folder_is_not_mixed_with_other_data_or_weights(data, vae, space, tmp_path):
    config = PrepareConfig(str(data), str(vae), videos=2)
    prepare(tmp_path / "out", config, space)
    before = (tmp_path / "out/result.json").read_bytes()
    assert prepare(tmp_path / "out", config, space).metrics == json.loads(before)["metrics"]
    with pytest.raises(ConfigError, match=r"started with another config\.fps"):
        prepare(tmp_path / "out", PrepareConfig(str(data), str(vae), 4.0, videos=2), space)
    with pytest.raises(ConfigError, match="fps: must be positive"):
        prepare(tmp_path / "out", PrepareConfig(str(data), str(vae), 0), space)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--data", "nowhere", "'nowhere' is neither 'digits' nor 'scenes', nor a YAML file of scenes, nor a folder"),
        ("--decoder", "nowhere", "nowhere/decoder.json: no such decoder file"),
        ("--space", "demmo", "demmo"),
        ("--videos", "0", "at least 1"),
        ("--workers", "0", "workers: must be at least 1, not 0"),
        ("--data", "digits", "digits are prepared by the decoder stage"),
    ],
)
def test_mistakes_are_one_line(data, vae, space, tmp_path, capsys, monkeypatch, option, value, words):
    monkeypatch.chdir(tmp_path)
    space.save(tmp_path / "space.yaml")
    call = {"--data": data, "--space": "space.yaml", "--decoder": vae, "--out": "out", option: value}
    try:
        status = main(["prepare", *(str(word) for pair in call.items() for word in pair)])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and words in error


def test_a_long_clip_is_encoded_in_pieces_with_the_same_result(vae):
    autoencoder = checkpoint.load_autoencoder(vae)
    video = torch.rand(1, 3, 9, 256, 256) * 2 - 1
    whole, calls = autoencoder.encode(video), []
    hook = autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0][:, :1].numel()))
    pieces = encode_clips(autoencoder, video)
    hook.remove()
    assert len(calls) == 3 and max(calls) <= MAX_PIXELS
    assert torch.allclose(pieces, whole, atol=1e-5)


MEMORY = """
import resource, sys, torch
from nas.data.buckets import Size
from nas.data.latent_cache_writer import fill_cache
from nas.data.folders import VideoFolder
source = VideoFolder(sys.argv[1], "train", [Size(8, 160, 160)], 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fill_cache(sys.argv[2], source, lambda x: x[:, :, :, ::8, ::8].clone(), lambda c: torch.zeros(len(c), 2, 3), int(sys.argv[3]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    write_clip(tmp_path / "a.mp4", 8, height=160, width=160)
    rows = "".join(f"a.mp4,{number}\n" for number in range(220))
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + rows)

    def peak_mb(clips: int) -> int:
        done = run_python(MEMORY, tmp_path, tmp_path / f"out{clips}", clips, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many = peak_mb(60), peak_mb(200)  # the pixels of 140 clips are 344 MB; readers and allocators vary by 80
    assert many < few + 170


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six clips, of which one is held out."""
    folder = tmp_path / "small"
    (folder / "sub").mkdir(parents=True)
    names = [f"{number}.mp4" for number in range(5)] + ["sub/5.mp4"]
    for name in names:
        write_clip(folder / name, 9)
    rows = "".join(f"{name},take {number}\n" for number, name in enumerate(names))
    (folder / "metadata.csv").write_text("file_name,text\n" + rows)
    return folder


PICTURE = b"\0\0\1\xb3"
"""Begins a key frame of MPEG-4."""


def other_clip(folder: Path, keep: bool = True) -> None:
    """Another clip under the old name; of the same size and time, as far as that can be had."""
    path = folder / "sub/5.mp4"
    before, pictures = path.stat(), path.read_bytes().split(PICTURE)
    assert len(pictures[1]) == len(pictures[2]) and pictures[1] != pictures[2]
    path.write_bytes(PICTURE.join([pictures[0], pictures[2], pictures[1], *pictures[3:]]))
    if keep:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_caption(folder: Path) -> None:
    path = folder / "metadata.csv"
    path.write_text(path.read_text().replace("take 3", "took 3"))


@pytest.mark.parametrize("change", [other_clip, other_caption])
@pytest.mark.parametrize("midway", [False, True])
def test_data_that_changed_under_the_same_names_are_refused(change, midway, small, vae, space, tmp_path, monkeypatch):
    config, out = PrepareConfig(str(small), str(vae)), tmp_path / "out"
    if midway:
        with monkeypatch.context() as patch:
            patch.setattr(latent_cache_writer, "_write_texts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prepare(out, config, space)
        assert list(out.glob("*/videos-*.json")) and not (out / "result.json").exists()
    else:
        prepare(out, config, space)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    change(small)
    with pytest.raises(ConfigError, match="started with other clips or captions") as error:
        prepare(out, config, space)
    assert "\n" not in str(error.value) and str(out) in str(error.value)
    assert {path: path.read_bytes() for path in before} == before
    assert prepare(tmp_path / "new", config, space).metrics["videos"] == 5


def test_the_same_data_elsewhere_and_touched_are_the_same(small, tmp_path):
    one = VideoFolder(small, "train", [Size(8, 32, 32)], 8).hash
    shutil.copytree(small, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(small / "0.mp4", (1, 1))
    assert VideoFolder(tmp_path / "copy", "train", [Size(8, 32, 32)], 8).hash == one
    assert VideoFolder(small, "train", [Size(8, 32, 32)], 8).hash == one


def test_of_large_files_the_content_of_several_places_and_the_time_count(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 20))

    def hashed() -> str:
        with path.open("rb") as file:
            return content_hash(file)

    seen = {hashed()}
    for place in (0, 350_000, (1 << 20) - 1):
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        seen.add(hashed())
    os.utime(path, (5, 5))
    seen.add(hashed())
    assert len(seen) == 5


def test_a_decoder_stages_cache_refuses_other_data_as_well(small, tmp_path):
    def fill() -> LatentCache:
        source = VideoFolder(small, "train", [Size(8, 32, 32)], 8)
        return latent_cache_writer.fill_cache(
            tmp_path / "c", source, lambda x: x[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3)
        )

    assert fill().videos == fill().videos == 5
    other_clip(small)
    with pytest.raises(ConfigError, match="other clips or captions"):
        fill()


def test_a_full_disk_is_one_line_and_what_was_written_counts(small, vae, space, tmp_path, capsys, monkeypatch):
    space.save(tmp_path / "space.yaml")
    call = ["prepare", "--data", small, "--space", tmp_path / "space.yaml", "--decoder", vae, "--out"]
    monkeypatch.setattr(latent_cache, "SHARD", 2)
    assert main([*map(str, call), str(tmp_path / "straight")]) == 0
    real, status, runs = os.fsync, 2, 0
    while status == 2:  # each time a few more files than before fit
        left = [7 + 3 * runs]

        def fsync(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            status = main([*map(str, call), str(tmp_path / "out")])
        error = capsys.readouterr().err.splitlines()
        runs += 1
        assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]
        assert status == 0 or (status == 2 and "No space left" in error[-1] and "Traceback" not in "".join(error))
    assert runs > 2
    for name in ("train", "test"):
        for path in (tmp_path / "straight" / name).iterdir():
            assert (tmp_path / "out" / name / path.name).read_bytes() == path.read_bytes(), path


def test_the_second_of_two_at_one_folder_is_refused(small, vae, space, tmp_path, capsys):
    space.save(tmp_path / "space.yaml")
    hold = "import sys; from nas.locks import output_lock\nwith output_lock(sys.argv[1], folder=True): print(flush=True); input()"
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    first.stdout.readline()
    call = ["--data", small, "--space", tmp_path / "space.yaml", "--decoder", vae, "--out", tmp_path / "out"]
    assert main(["prepare", *map(str, call)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"process {first.pid}" in error
    first.communicate(b"\n")
    assert main(["prepare", *map(str, call)]) == 0


@pytest.mark.parametrize("broken", ["cache.json", "videos-00000.json", "videos-00000.safetensors", "captions.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"videos": {"8x8x8": ["x"]}, "images": []}', b"\xff\xfe\0"])
def test_a_broken_cache_is_one_line(broken, content, small, tmp_path):
    source = VideoFolder(small, "train", [Size(8, 32, 32)], 8)
    latent_cache_writer.fill_cache(
        tmp_path / "c", source, lambda x: x[:, :, :, ::4, ::4], lambda c: torch.zeros(len(c), 2, 3)
    )
    (tmp_path / "c" / broken).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        LatentCache(tmp_path / "c").latents("videos", range(5))
    assert str(tmp_path / "c") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf", "1e300"])
def test_a_rate_that_cannot_be_meant_is_one_line(fps, small, vae, space, tmp_path, capsys):
    space.save(tmp_path / "space.yaml")
    call = ["--data", small, "--space", tmp_path / "space.yaml", "--decoder", vae, "--out", tmp_path / "out"]
    try:
        status = main(["prepare", *map(str, call), "--fps", fps])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and "fps" in error and not (tmp_path / "out").exists()


def test_data_that_vanish_are_not_clips_that_cannot_be_used(small, tmp_path):
    source = VideoFolder(small, "train", [Size(8, 32, 32)], 8)
    shutil.rmtree(small)
    with pytest.raises(ConfigError, match="no longer exists"):
        source.video(0)


def test_a_machine_that_cannot_open_files_is_not_the_clips_fault(small, monkeypatch):
    source = VideoFolder(small, "train", [Size(8, 32, 32)], 8)

    def refuse(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("nas.data.folders.open_regular", refuse)
    with pytest.raises(NasError, match="Too many open files") as error:
        source.video(0)
    assert not isinstance(error.value, UnreadableSample)


@pytest.mark.slow
def test_a_finished_decoder_stage_refuses_other_data_and_does_without_them(small, space, tmp_path):
    config = DecoderConfig(str(small), steps=2, batch=2, channels=(8, 16, 16), held_out=1)
    done = run_stage("decoder", tmp_path / "out", config, Inputs(space))
    assert run_stage("decoder", tmp_path / "out", config, Inputs(space)) == done
    other_clip(small)
    with pytest.raises(ConfigError, match="other clips or captions"):
        run_stage("decoder", tmp_path / "out", config, Inputs(space))
    shutil.rmtree(small)
    assert run_stage("decoder", tmp_path / "out", config, Inputs(space)) == done
