"""The C++ program of apps/cpp makes the same clips as `nas generate`, from an export folder alone."""

import json
import shutil

import av
import numpy as np
import pytest

from nas.pipeline import Pipeline
from tests.support import exported
from tests.support.cpp_runner import build, make_clip, read_png

PROMPT = "the digit three moves left"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return build(tmp_path_factory)


def errors(done):
    """The lines on stderr that are not LiteRT's log."""
    return [line for line in done.stderr.splitlines() if not line.startswith("INFO: Created TensorFlow Lite")]


def psnr(clip, other):
    return 10 * np.log10(255**2 / max(np.mean((clip.astype(float) - other) ** 2), 1e-9))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"sampler": "renoise", "guidance": 1.0, "steps": 3}], ids=["guided", "renoise"]
)
def test_clips_match_torch(clip_checkpoint, exported_litert, programs, tmp_path, settings):
    checkpoint, folder = exported.resampled(clip_checkpoint, exported_litert, tmp_path, **settings)
    pipeline = Pipeline.from_pretrained(checkpoint)
    for seed, prompt in enumerate(exported.PROMPTS):
        done = make_clip(programs, folder, tmp_path / "clip.png", "--prompt", prompt, "--seed", str(seed))
        assert done.returncode == 0, done.stderr
        expected = pipeline(prompt, seed=seed).frames[0]
        assert expected.std() > 10
        assert psnr(read_png(tmp_path / "clip.png"), expected) >= 50


@pytest.mark.slow
def test_a_decoder_that_streams_matches_torch(streaming_litert, programs, tmp_path):
    done = make_clip(programs, streaming_litert / "export", tmp_path / "clip.png", "--prompt", PROMPT, "--seed", "2")
    assert done.returncode == 0, done.stderr
    expected = Pipeline.from_pretrained(streaming_litert / "checkpoint")(PROMPT, seed=2).frames[0]
    assert len(expected) == 7 and expected.std() > 10
    assert psnr(read_png(tmp_path / "clip.png"), expected) >= 50


@pytest.mark.slow
def test_it_needs_only_the_manifest_and_the_files_it_names(exported_litert, programs, tmp_path):
    entry = json.loads((exported_litert / "export.json").read_text())["litert"]
    for file in [*(file["path"] for file in entry["files"]), "export.json"]:
        (tmp_path / "moved" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(exported_litert / file, tmp_path / "moved" / file)
    make_clip(programs, exported_litert, tmp_path / "a.png", "--prompt", PROMPT)
    make_clip(programs, tmp_path / "moved", tmp_path / "b.png", "--prompt", PROMPT)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.slow
def test_frames_raw_video_and_token_ids_give_the_same_clip(exported_litert, programs, tmp_path):
    ids = json.loads((exported_litert / "export.json").read_text())["litert"]["app"]["prompt"]["empty_ids"]
    ids = ",".join(str(i) for i in ids if i)
    for name, arguments in (("a.png", ["--prompt", ""]), ("frames", ["--ids", ids]), ("a.y4m", ["--ids", ids])):
        assert make_clip(programs, exported_litert, tmp_path / name, *arguments).returncode == 0
    clip = read_png(tmp_path / "a.png")
    frames = [read_png(path)[0] for path in sorted((tmp_path / "frames").iterdir())]
    np.testing.assert_array_equal(clip, np.stack(frames))
    with av.open(str(tmp_path / "a.y4m")) as video:
        decoded = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 8
    expanded = (np.stack(decoded)[..., None].astype(float) - 16) * 255 / 219
    assert abs(expanded - clip).max() <= 1


@pytest.mark.slow
def test_timing_has_every_run_of_every_part(exported_litert, programs, tmp_path):
    arguments = ["--prompt", PROMPT, "--repeat", "2", "--threads", "2", "--timing", str(tmp_path / "t.json")]
    done = make_clip(programs, exported_litert, tmp_path / "a.png", *arguments)
    assert done.returncode == 0, done.stderr
    timing = json.loads((tmp_path / "t.json").read_text())
    assert timing["threads"] == 2 and timing["peak_memory_mb"] > 1
    assert set(timing["load_ms"]) == {"tokenizer", "text_encoder", "denoiser", "decoder"}
    for clip in timing["clips"]:
        assert len(clip["denoiser_ms"]) == 8 and len(clip["decoder_ms"]) == 1  # 4 steps with guidance
        assert clip["total_ms"] == pytest.approx(clip["text_encoder_ms"] + clip["sampling_ms"] + clip["decoding_ms"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda app: app["models"]["denoiser"]["inputs"][0].update(shape=[1, 4, 4, 8, 9]), "denoiser.tflite: 'x' has"),
        (lambda app: app["models"]["decoder"].update(file="gone.tflite"), "gone.tflite: cannot be read"),
        (lambda app: app["models"]["decoder"].update(size_mb=9.5), "decoder.tflite: has another size"),
        (lambda app: app["prompt"].update(folder="nowhere"), "pass --ids"),
        (lambda app: app["prompt"].update(empty_context="export.json"), "empty_context"),
        (lambda app: app["clip"].update(frames=5), "clip.frames"),
        (lambda app: app.pop("sampling"), "sampling"),
        (lambda app: app["sampling"]["steps"].clear(), "sampling.steps"),
    ],
)
def test_a_faulty_folder_is_one_line_that_names_the_fault(exported_litert, programs, tmp_path, change, message):
    folder = tmp_path / "folder"
    shutil.copytree(exported_litert, folder)
    manifest = json.loads((folder / "export.json").read_text())
    change(manifest["litert"]["app"])
    (folder / "export.json").write_text(json.dumps(manifest))
    done = make_clip(programs, folder, tmp_path / "a.png", "--prompt", PROMPT)
    assert done.returncode == 2 and message in done.stderr and len(errors(done)) == 1
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompt", "a", "--ids", "1"], "either --prompt or --ids"),
        (["--prompt", "a", "--seed", "-1"], "--seed"),
        (["--prompt", "a", "--threads", "two"], "--threads"),
        (["--ids", "1,x"], "--ids"),
        (["--prompt", "a", "--out", "clip.mp4"], ".mp4"),
        (["--prompt", "a", "--library", "nowhere.so"], "--library"),
        (["--prompt", "a", "--library", "libz.so.1"], "has no function"),
        (["--prompt", "a", "--export", "nowhere"], "nowhere/export.json"),
        (["--prompt", "a", "--nonsense"], "--nonsense"),
        (["--prompt"], "--prompt"),
        (["--prompt", b"\xff\xfe".decode("utf8", "surrogateescape")], "valid UTF-8"),
    ],
)
def test_faulty_arguments_are_one_line(exported_litert, programs, tmp_path, arguments, message):
    done = make_clip(programs, exported_litert, tmp_path / "a.png", *arguments)
    assert done.returncode == 2 and message in done.stderr and len(errors(done)) == 1
