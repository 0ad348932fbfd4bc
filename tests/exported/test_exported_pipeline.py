"""An export folder alone makes the clips that torch makes with the checkpoint."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from nas.cli import main
from nas.errors import ConfigError, MissingDependency, NasError
from nas.exported.pipeline import ExportedPipeline
from nas.pipeline import Pipeline
from tests.support.exported import PROMPTS, psnr, resampled

pytestmark = pytest.mark.slow


def edited(exported, folder, *, content=None, **changes):
    """A copy of an export folder whose `litert` entry has other values at dotted paths; `content` replaces files."""
    shutil.copytree(exported, folder)
    entries = json.loads((folder / "export.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = entries
        for name in parents:
            node = node[name]
        node[last] = value
    for name, data in (content or {}).items():
        (folder / name).write_bytes(data)
        for file in entries["litert"]["files"]:
            if file["path"] == name:
                file["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "export.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"steps": 1, "guidance": 1.0},
        {"sampler": "renoise", "guidance": 1.0},
        {"sampler": "renoise", "steps": 3, "guidance": 2.5, "objective": "epsilon"},
        {"objective": "v", "guidance": 0.0},
        {"shift": 3.0, "guidance": 1.5},
    ],
    ids=str,
)
def test_clips_equal_torch(clip_checkpoint, exported_litert, tmp_path, info):
    checkpoint, export = resampled(clip_checkpoint, exported_litert, tmp_path, **info)
    expected = Pipeline.from_pretrained(checkpoint)(PROMPTS, seed=11)
    clips = ExportedPipeline(export)(PROMPTS, seed=11)
    assert clips.frames.shape == expected.frames.shape and clips.fps == expected.fps
    for ours, theirs in zip(clips.frames, expected.frames, strict=True):
        assert psnr(ours, theirs) >= 50
    other = ExportedPipeline(export)(PROMPTS, seed=12)
    assert psnr(other.frames, expected.frames) < 30


def test_a_decoder_with_state_is_run_in_order(exported_litert, tmp_path, monkeypatch):
    """Its state is zero in the first run, then what the run before returned; the first frames are dropped."""
    state = {"name": "past", "shape": [1, 2], "dtype": "float32", "meaning": "state"}
    app = json.loads((exported_litert / "export.json").read_text())["litert"]["app"]
    inputs = [*app["models"]["decoder"]["inputs"], state]
    folder = edited(
        exported_litert,
        tmp_path / "copy",
        litert__app__models__decoder__inputs=inputs,
        litert__app__decoding={"frames": 2, "runs": 2, "state": ["past"], "video_frames": 2, "drop_first": 1},
    )
    pipeline, seen = ExportedPipeline(folder), []
    load = pipeline._load

    def decode(inputs):
        seen.append((inputs["latents"], inputs["past"].tolist()))
        video = np.full((1, 1, 2, 4, 4), 0.5 * inputs["past"].max(), np.float32)
        return {"video": video, "past_out": inputs["past"] + 1}

    monkeypatch.setattr(pipeline, "_load", lambda name: decode if name == "decoder" else load(name))
    frames = pipeline(["a cat", "three"]).frames
    assert [past for _, past in seen] == [[[0.0, 0.0]], [[1.0, 1.0]]] * 2
    assert {latents.shape for latents, _ in seen} == {(1, 4, 2, 8, 8)}
    assert frames.shape == (2, 3, 4, 4, 1) and frames[:, :, 0, 0, 0].tolist() == [[128, 191, 191]] * 2


def test_prompts_and_guidance_change_the_clip(clip_checkpoint, exported_litert):
    pipeline = ExportedPipeline(exported_litert)
    one, other = pipeline(["three moves left", "five moves right"]).frames
    assert psnr(one, other) < 30
    guided = pipeline("three moves left", guidance=1.5).frames
    assert psnr(guided, Pipeline.from_pretrained(clip_checkpoint)("three moves left", guidance=1.5).frames) >= 50
    assert psnr(guided[0], one) < 40


def test_report_counts_the_runs_of_each_part(exported_litert):
    pipeline = ExportedPipeline(exported_litert, threads=2)
    pipeline(["three", "five", "a cat"])
    assert [(usage.part, usage.runs) for usage in pipeline.report.parts] == [
        ("text encoder", 3),
        ("denoiser", 24),  # 3 clips, 4 steps, with and without text
        ("decoder", 3),
    ]
    assert all(usage.memory_mb is None or usage.memory_mb >= 0 for usage in pipeline.report.parts)
    pipeline("three", guidance=1)
    assert pipeline.report.parts[1].runs == 4


def test_command_needs_neither_torch_nor_the_checkpoint(exported_litert, tmp_path):
    script = f"""
import sys
for name in ("torch", "transformers", "litert_torch", "coremltools"):
    sys.modules[name] = None
from nas.cli import main
sys.exit(main(["generate", "--runtime", "litert", {str(exported_litert)!r}, "--prompt", "a cat", "three",
               "--out", {str(tmp_path / "v.gif")!r}, "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["clips"] == [str(tmp_path / "v-1.gif"), str(tmp_path / "v-2.gif")]
    assert all((tmp_path / f"v-{i}.gif").stat().st_size for i in (1, 2))
    assert [part["part"] for part in printed["parts"]] == ["text encoder", "denoiser", "decoder"]


def test_command_prints_time_and_memory_by_part(exported_litert, tmp_path, capsys):
    words = ["generate", "--runtime", "litert", str(exported_litert), "--prompt", "a cat", "--out", str(tmp_path / "v")]
    assert main(words) == 0
    path, _, head, *lines = capsys.readouterr().out.splitlines()
    assert path == str(tmp_path / "v") and "peak memory" in head
    assert [line.split("  ")[0] for line in lines] == ["text encoder", "denoiser", "decoder", "whole"]


@pytest.mark.parametrize("name", ["denoiser.tflite", "tokenizer/tokenizer.json", "empty_context.f32"])
def test_missing_and_changed_files_are_named(exported_litert, tmp_path, name):
    folder = edited(exported_litert, tmp_path / "copy")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{name}: is not the file that export.json lists"):
        ExportedPipeline(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: is missing"):
        ExportedPipeline(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema_version: expected 1, not 99"),
        ({"litert__app": None}, "litert.app is missing"),
        ({"litert__app__denoiser": ["first"]}, "'first' is missing"),
        ({"litert__app__denoiser": []}, "'denoiser' is missing"),
        ({"litert__app__sampling__steps": []}, "sampling.steps: is empty"),
        ({"litert__app__latents__shape": [4, 8]}, "latents.shape: expected"),
        ({"litert__app__latents__shape": [1, 4, 4, 8, 16]}, "shape"),
        ({"litert__app__decoding__runs": 3}, "3 runs of 4 frames"),
        ({"litert__app__prompt__tokens": 99}, "12 tokens, .* takes 99"),
        ({"litert__app__prompt__empty_ids": [2, 3]}, "other tokens for the empty prompt"),
        ({"litert__files": [{"path": "../x", "size_mb": 1, "sha256": ""}]}, "outside the folder"),
        ({"content": {"decoder.tflite": b"not a model"}}, "decoder.tflite: cannot be loaded as a LiteRT model"),
        ({"content": {"denoiser.tflite": b""}}, "denoiser.tflite: cannot be loaded as a LiteRT model"),
        ({"content": {"tokenizer/tokenizer.json": b"{}"}}, "cannot be read as a tokenizer"),
        ({"content": {"empty_context.f32": b"1234"}}, "holds 1 numbers, not 384"),
    ],
    ids=str,
)
def test_damaged_folders_are_one_line_errors(exported_litert, tmp_path, changes, message):
    folder = edited(exported_litert, tmp_path / "copy", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        ExportedPipeline(folder)("a cat")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_the_described_one(exported_litert, tmp_path):
    decoder = (exported_litert / "decoder.tflite").read_bytes()
    folder = edited(exported_litert, tmp_path / "copy", content={"denoiser.tflite": decoder})
    with pytest.raises(ConfigError, match=r"denoiser\.tflite: has inputs and outputs other than export.json describes"):
        ExportedPipeline(folder)("a cat")


@pytest.mark.parametrize("name", ["steps", "frames", "height", "width"])
def test_what_the_export_fixes_is_refused(exported_litert, name):
    with pytest.raises(ConfigError, match=f"^{name}: .* was exported for"):
        ExportedPipeline(exported_litert)("a cat", **{name: 5})
    assert len(ExportedPipeline(exported_litert)("a cat", steps=4, frames=4, height=16, width=16)) == 1


def test_nan_is_an_error(exported_litert, tmp_path):
    folder = edited(exported_litert, tmp_path / "copy", litert__app__sampling__initial_scale=1e38)
    with pytest.raises(NasError, match="NaN or infinity"):
        ExportedPipeline(folder)("a cat")


@pytest.mark.parametrize("library", ["ai_edge_litert.interpreter", "tokenizers"])
def test_missing_library_names_the_extra(exported_litert, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency, match=r"nas-video\[litert\]"):
        ExportedPipeline(exported_litert)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--runtime eager needs --checkpoint DIR"),
        (["{export}"], "an export folder needs --runtime litert or coreml"),
        (["--runtime", "litert"], "--runtime litert needs an export folder"),
        (["--runtime", "litert", "--checkpoint", "{export}"], "--runtime litert needs an export folder"),
        (["--runtime", "litert", "{export}", "--checkpoint", "{export}"], "not both"),
        (["--checkpoint", "{export}"], "it is an export folder: run it with 'nas generate --runtime litert"),
        (["--runtime", "litert", "{empty}"], "contains no export.json"),
        (["--runtime", "litert", "{export}/export.json"], "is a file; give a folder"),
        (["--runtime", "coreml", "{export}"], "has no entry for format coreml"),
        (["--runtime", "litert", "{export}", "--steps", "3"], "steps: .* was exported for 4, not 3"),
        (["--runtime", "litert", "{export}", "--guidance", "nan"], "guidance: must be a finite number"),
        (["--runtime", "litert", "{export}", "--compute-unit", "all"], "--compute-unit belongs to --runtime coreml"),
        (["--checkpoint", "{export}", "--threads", "2"], "--threads belongs to --runtime litert"),
    ],
    ids=str,
)
def test_wrong_calls(exported_litert, tmp_path, capsys, words, message):
    words = [word.format(export=exported_litert, empty=tmp_path) for word in words]
    assert main(["generate", *words, "--prompt", "a cat", "--out", str(tmp_path / "v.mp4")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("nas generate: ") and re.search(message, error)
    assert not (tmp_path / "v.mp4").exists()
