"""A denoiser in two Core ML packages computes what the whole does, and an app can run both from `export.json`.

Core ML is stood in for by the interpreter of ML programs.
"""

import json
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

from nas.conversion.libraries import coremltools
from nas.conversion.mil import Program
from nas.errors import ConfigError, NasError
from nas.export import coreml, packages
from nas.export.package_files import read_package
from nas.exported import coreml as coreml_runtime
from nas.exported import manifest, schema
from nas.exported.pipeline import ExportedPipeline
from nas.pipeline import Pipeline
from tests.support.exported import PROMPTS, psnr

pytestmark = pytest.mark.slow


class InterpretedModel:
    """`coreml.models.MLModel` on a Mac, evaluated by the interpreter with each result rounded to its precision."""

    def __init__(self, path, compute_units):
        self.path, self.program = path, Program.load(path)

    def get_spec(self):
        return read_package(self.path)

    def predict(self, inputs):
        outputs = self.program.run(inputs, float16=True).outputs
        return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture
def mac(monkeypatch):
    units = SimpleNamespace(ALL="ALL", CPU_ONLY="CPU_ONLY")
    library = SimpleNamespace(models=SimpleNamespace(MLModel=InterpretedModel), ComputeUnit=units)
    monkeypatch.setattr(coreml_runtime, "library", lambda: library)


@pytest.fixture(scope="module")
def whole(clip_checkpoint, tmp_path_factory):
    """An export whose denoiser is small enough for one package, over one with two."""
    out = tmp_path_factory.mktemp("whole") / "export"
    for name in ("denoiser_1", "denoiser_2"):
        (out / f"{name}.mlpackage").mkdir(parents=True)
    coreml(clip_checkpoint, out, check=False, chunk=True)
    return out


@pytest.fixture(scope="module")
def chunked(clip_checkpoint, whole, tmp_path_factory):
    """An export whose denoiser is split, over one whose denoiser is not; it uses the models that `whole` converted."""
    out = tmp_path_factory.mktemp("chunked") / "export"
    (out / "denoiser.mlpackage").mkdir(parents=True)

    def converted(part, target):
        return coremltools().models.MLModel(str(whole / f"{part.name}.mlpackage"), skip_model_load=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "convert", converted)
        coreml(clip_checkpoint, out, check=False, chunk=True, max_package_mb=0.15)
    return out


def test_manifest_describes_both_halves(chunked):
    contents = json.loads((chunked / "export.json").read_text())
    jsonschema.validate(contents, schema.schema())
    app = manifest.read(chunked, "coreml").app
    assert app.denoiser == ("denoiser_1", "denoiser_2") and "denoiser" not in app.models
    first, second = (app.models[name] for name in app.denoiser)
    assert [port.name for port in second.outputs] == ["velocity"]
    passed = {port.name for port in first.outputs}
    assert passed and {port.name for port in second.inputs} - {"x", "timestep", "context"} == passed
    assert {port.meaning for port in first.outputs} == {"passed from denoiser_1 to denoiser_2"}
    for name, model in app.models.items():
        spec = read_package(chunked / model.file).description
        for ports, features in ((model.inputs, spec.input), (model.outputs, spec.output)):
            shapes = {f.name: tuple(f.type.multiArrayType.shape) for f in features}
            assert {port.name: port.shape for port in ports} == shapes, name
    assert not (chunked / "denoiser.mlpackage").exists()
    assert [w.split()[0] for w in app.warnings] == ["decoder.mlpackage"]  # which is not split


def test_clips_of_both_halves_equal_torch(chunked, clip_checkpoint, mac):
    pipeline = ExportedPipeline(chunked, "coreml", compute_unit="cpu")
    expected = Pipeline.from_pretrained(clip_checkpoint)(PROMPTS[:2], seed=3, guidance=1.0)
    clips = pipeline(PROMPTS[:2], seed=3, guidance=1.0)
    assert psnr(clips.frames, expected.frames) >= 45  # float16
    assert [usage.runs for usage in pipeline.report.parts] == [2, 8, 2]


def test_small_denoisers_stay_whole(whole, mac):
    assert sorted(path.stem for path in whole.glob("*.mlpackage")) == ["decoder", "denoiser", "text_encoder"]
    app = manifest.read(whole, "coreml").app
    assert app.denoiser == ("denoiser",) and not app.warnings
    clip = ExportedPipeline(whole, "coreml")("a cat").frames
    assert np.isfinite(clip).all() and clip.std() > 10


def test_a_package_that_is_not_the_described_one(chunked, mac, monkeypatch):
    monkeypatch.setattr(InterpretedModel, "get_spec", lambda self: read_package(chunked / "decoder.mlpackage"))
    with pytest.raises(ConfigError, match=r"has inputs and outputs other than export\.json describes"):
        ExportedPipeline(chunked, "coreml")("a cat")


def test_errors_of_core_ml_are_one_line(chunked, mac, monkeypatch):
    def fail(*_):
        raise RuntimeError("E5RT: first line\nsecond line")

    monkeypatch.setattr(InterpretedModel, "predict", fail)
    with pytest.raises(NasError, match=r"Core ML cannot run it: E5RT: first line$"):
        ExportedPipeline(chunked, "coreml")("a cat")


def test_other_systems_are_told_to_use_a_mac(chunked):
    with pytest.raises(NasError, match="Core ML requires macOS"):
        ExportedPipeline(chunked, "coreml")
