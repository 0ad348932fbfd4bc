"""LiteRT exports with weights in float16 and int8."""

import json
import shutil

import pandas as pd
import pytest

from nas import checkpoint
from nas.cli import main
from nas.conversion.quantize import quantize
from nas.costs import LookupTable
from nas.errors import ConfigError, NasError
from nas.export import litert, litert_models
from nas.exported import manifest
from nas.exported.pipeline import ExportedPipeline
from nas.pipeline import Pipeline
from tests.support.exported import PROMPTS, psnr

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def converted(exported_litert, monkeypatch):
    """Use the models that `exported_litert` converted, which takes most of an export's time."""

    def copy(module, inputs, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copyfile(exported_litert / path.name, path)

    monkeypatch.setattr(litert_models, "to_litert", copy)


@pytest.mark.parametrize(("precision", "bits", "least_db"), [("float16", [16, 16, 16], 45), ("int8", [8, 8, 16], 18)])
def test_export_states_the_error(clip_checkpoint, tmp_path, capsys, precision, bits, least_db):
    words = ["export", "--checkpoint", str(clip_checkpoint), "--format", "litert", "--precision", precision]
    assert main([*words, "--out", str(tmp_path)]) == 0
    entry = manifest.read(tmp_path, "litert")
    parts = ("denoiser", "decoder", "text_encoder")
    assert [entry.app.models[name].weight_bits for name in parts] == bits
    printed = capsys.readouterr().out
    for name, stored in zip(parts, bits):
        own = {8: "int8", 16: "float16"}[stored]
        error = entry.checks[name][f"error_{own}"]
        assert entry.checks[name]["error_float32"] < 1e-5 < error < {8: 0.2, 16: 5e-3}[stored]
        assert f"{name}: {own} weights, relative error {error:.2g} from torch" in printed
    clips = ExportedPipeline(tmp_path)(PROMPTS, guidance=1.0)
    expected = Pipeline.from_pretrained(clip_checkpoint)(PROMPTS, guidance=1.0)
    assert psnr(clips.frames, expected.frames) >= least_db


def test_files_shrink(exported_litert, tmp_path):
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        path = shutil.copyfile(exported_litert / "decoder.tflite", tmp_path / f"{precision}.tflite")
        sizes[precision] = quantize(path, precision).stat().st_size
    assert sizes["int8"] < 0.75 * sizes["float16"] < 0.75 * 0.65 * sizes["float32"]


def test_too_large_an_error_fails(clip_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(litert_models.TOLERANCES, "int8", 1e-6)
    with pytest.raises(
        NasError, match=r"denoiser\.tflite: differs from torch by .* with int8 weights, more than 1e-06"
    ):
        litert(clip_checkpoint, tmp_path, precision="int8")


def test_a_table_of_another_precision_is_refused(clip_checkpoint, tmp_path):
    space = checkpoint.load(clip_checkpoint).space
    columns = {"latency_ms": 1.0, "memory_mb": 1.0, "weights_mb": 1.0, "params": 1, "source": "measured"}
    frame = pd.DataFrame([{"workload": str(workload), **columns} for workload in space.workloads()])
    table = LookupTable.from_frame(frame, {"runtime": "litert", "chip": "Phone 3"})
    with pytest.raises(ConfigError, match="measured with float32 weights, the export has int8"):
        litert(clip_checkpoint, tmp_path, table=table, precision="int8", check=False)
    table = LookupTable.from_frame(frame, {"runtime": "litert", "chip": "Phone 3", "precision": "int8"})
    litert(clip_checkpoint, tmp_path, table=table, precision="int8", check=False)
    assert "Phone 3" in json.loads((tmp_path / "export.json").read_text())["litert"]["summary"]


def test_rows_of_two_precisions_are_not_merged(tmp_path, capsys):
    frame = pd.DataFrame([{"workload": "a", "latency_ms": 1.0, "memory_mb": 1.0, "weights_mb": 1.0, "params": 1}])
    other = frame.assign(workload="b")
    LookupTable.from_frame(frame, {"runtime": "litert"}).save(tmp_path / "a.csv")
    LookupTable.from_frame(other, {"runtime": "litert", "precision": "int8"}).save(tmp_path / "b.csv")
    assert (
        main(["table", "merge", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--out", str(tmp_path / "c.csv")])
        == 2
    )
    assert "precision" in capsys.readouterr().err and not (tmp_path / "c.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "coreml", "--precision", "int8"], "--precision belongs to --format litert or web, not 'coreml'"),
        (["--format", "litert", "--precision", "int4"], "'int4' is not one of"),
        (["--format", "litert", "--chunk"], "--chunk belongs to --format coreml"),
        (["--format", "recipe", "--no-check"], "--no-check belongs to --format coreml or litert or web"),
    ],
    ids=str,
)
def test_wrong_options(clip_checkpoint, tmp_path, capsys, words, message):
    assert main(["export", "--checkpoint", str(clip_checkpoint), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
