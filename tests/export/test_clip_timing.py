"""The time of a whole clip against the prediction: `nas calibrate --clip`."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import nas
from nas.checkpoint import load
from nas.cli import main
from nas.costs import CostModel, LookupTable, Row
from tests.support.cpp_runner import LIBRARY, build

STAND_INS = Path(__file__).parents[1] / "support" / "stand_ins"
SPACE = nas.SearchSpace.load("demo")
ARCHITECTURE = SPACE.random(0)


def save_table(space, path, **provenance):
    """A measured LiteRT table: operators 1 ms, backbone 10 ms, text encoder 6 ms, decoder 8 ms."""
    latencies = {str(space.backbone_workload()): 10.0}
    if space.text_encoder:
        latencies |= {str(space.text_workload()): 6.0, str(space.decoder_workload()): 8.0}
    workloads = [*space.workloads(), *space.pipeline_workloads()]
    rows = [Row(str(w), latencies.get(str(w), 1.0), 1.0, 1.0, 10, source="measured") for w in workloads]
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    known = {"runtime": "litert", "device": "local", "threads": 1, **provenance}
    return LookupTable.from_frame(frame, known).save(path)


@pytest.fixture
def files(tmp_path):
    """A table, an `export.json` of the demo's space and a timing of it: `change(name, key, value)` edits one."""
    step = {"time": 1.0, "timestep": 1000.0, "input_scale": 1.0, "keep": 1.0, "add": -0.5, "noise": 0.0}
    prompt = dict(kind="WordPiece", folder="t", tokens=16, padding_id=0, reads_mask=True)
    app = {
        "models": {},
        "prompt": {**prompt, "empty_ids": [], "empty_mask": [], "empty_context": "e.f32"},
        "sampling": dict(
            sampler="euler", prediction="flow", guidance=2.0, shift=1.0, initial_scale=1.0, steps=[step] * 2
        ),
        "latents": {"shape": SPACE.input_shape(), "scaling_factor": 1.0},
        "decoding": {"frames": 8},
        "clip": {"frames": 8, "fps": 8.0, "height": 32, "width": 32, "channels": 1},
    }
    checkpoint = {
        "space": "demo",
        "space_hash": SPACE.hash,
        "architecture": ARCHITECTURE.choices,
        "weights_sha256": "a1",
    }
    entry = {"library": "0", "checkpoint": checkpoint, "summary": "", "files": [], "app": app}
    clip = {"text_encoder_ms": 3.0, "denoiser_ms": [29.0, 30.0, 30.0, 31.0], "decoder_ms": [16.0], "total_ms": 140.0}
    slow = {**clip, "text_encoder_ms": 30.0, "total_ms": 700.0}  # the first clip
    timing = dict(
        schema_version=1,
        runtime="litert",
        weights_sha256="a1",
        threads=1,
        clips=[slow, clip, clip],
        peak_memory_mb=55.0,
    )
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text(json.dumps({"schema_version": 1, "litert": entry}))
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    save_table(SPACE, tmp_path / "table.csv")
    return tmp_path


def call(folder, *words):
    options = ["--space", "demo", "--table", str(folder / "table.csv"), "--clip", str(folder / "export")]
    return main(["calibrate", *options, "--timing", str(folder / "timing.json"), *words])


def test_each_part_is_compared_with_its_prediction(files, capsys):
    denoiser_ms = (
        CostModel(SPACE, LookupTable.load(files / "table.csv"), estimates=True).predict(ARCHITECTURE).latency_ms
    )
    assert call(files) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["text", "encoder", "1", "6", "3", "+100.0%"]
    assert lines[2][:4] == ["denoiser", "4", f"{denoiser_ms:.4g}", "30"]
    assert lines[3] == ["decoder", "1", "8", "16", "-50.0%"]
    assert lines[4][:4] == ["clip", "1", f"{6 + 4 * denoiser_ms + 8:.4g}", "140"]
    assert not (files / "table.calibration.json").exists()


def test_write_stores_the_correction_that_fits_the_denoiser(files, capsys):
    assert call(files, "--write") == 0
    table = LookupTable.load(files / "table.csv")
    assert CostModel(SPACE, table, estimates=True).predict(ARCHITECTURE).latency_ms == pytest.approx(30)
    assert call(files, "--write") == 0  # on a calibrated table: the same
    again = LookupTable.load(files / "table.csv").calibration
    assert again.scale == pytest.approx(table.calibration.scale)


def edit(path, *keys, value):
    values = json.loads(path.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "file, keys, value, text",
    [
        ("timing.json", ["schema_version"], 9, "schema_version"),
        ("timing.json", ["weights_sha256"], "b2", "of another export"),
        ("timing.json", ["threads"], 4, "timed with 4"),
        ("timing.json", ["runtime"], "coreml", "no entry for format coreml"),
        ("timing.json", ["clips"], [], "at least one clip"),
        ("timing.json", ["clips", 1, "denoiser_ms"], [30.0], "ran 1 times"),
        ("timing.json", ["clips", 1, "decoder_ms"], [0.0], "above 0"),
        ("timing.json", ["clips", 1, "decoder_ms"], "16", "decoder_ms"),
        ("export/export.json", ["litert", "checkpoint", "space_hash"], "other", "search space"),
        ("export/export.json", ["litert", "app"], None, "export it again"),
    ],
)
def test_files_that_do_not_belong_together_are_one_line(files, capsys, file, keys, value, text):
    edit(files / file, *keys, value=value)
    assert call(files) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_table_of_another_runtime_is_refused(files, capsys):
    save_table(SPACE, files / "table.csv", runtime="eager")
    assert call(files) == 2
    assert "made by runtime 'eager'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, text",
    [
        (["--runner", "x"], "either --runner"),
        (["--models", "3"], "--models"),
    ],
)
def test_options_that_exclude_each_other(files, capsys, words, text):
    assert call(files, *words) == 2
    assert text in capsys.readouterr().err


def test_options_of_clip_need_it(files, capsys):
    assert main(["calibrate", "--space", "demo", "--table", str(files / "table.csv"), "--write"]) == 2
    assert "--write: is for --clip" in capsys.readouterr().err


@pytest.mark.slow
def test_the_runner_is_timed_here_and_over_adb(
    clip_checkpoint, exported_litert, tmp_path_factory, tmp_path, monkeypatch, capsys
):
    loaded = load(clip_checkpoint)
    loaded.space.save(tmp_path / "clips.yaml")
    save_table(loaded.space, tmp_path / "table.csv")
    (tmp_path / "phone" / "tmp").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(tmp_path / "phone"))
    options = ["--space", str(tmp_path / "clips.yaml"), "--table", str(tmp_path / "table.csv"), "--clip"]
    runner = ["--runner", str(build(tmp_path_factory) / "nas-clip")]
    adb = ["--device", "adb", "--library", str(LIBRARY)]
    for words in ([], adb, adb):  # the second time over adb nothing is copied
        assert main(["calibrate", *options, str(exported_litert), *runner, *words]) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert out.splitlines()[1].split()[:4] == ["text", "encoder", "1", "unknown"]
        assert "peak memory of the runner" in out and "--pipeline" in out
    assert (tmp_path / "phone" / "tmp" / "nas" / "clip" / "export" / "export.json").exists()

    broken = tmp_path / "broken"
    shutil.copytree(exported_litert, broken)
    (broken / "decoder.tflite").write_bytes(b"x")
    for folder, words, text in (
        (exported_litert, ["--device", "adb"], "--library"),
        (exported_litert, ["--device", "toaster"], "--device"),
        (exported_litert, ["--runner", "nowhere"], "apps/cpp"),
        (exported_litert, ["--runner", str(tmp_path / "table.csv")], "cannot be run"),
        (exported_litert, ["--library", str(broken / "decoder.tflite")], "nas-clip failed"),
        (broken, [], "decoder.tflite"),
    ):
        words = words if "--runner" in words else [*runner, *words]
        assert main(["calibrate", *options, str(folder), *words]) == 2
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1
