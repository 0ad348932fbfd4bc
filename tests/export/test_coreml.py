"""Core ML packages match the architecture, and the check detects packages that do not."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nas import checkpoint
from nas.conversion.mil import Program
from nas.conversion.palettize import palette, palettize
from nas.errors import ConfigError, MissingDependency, NasError
from nas.export import FORMATS, check_package, coreml, operations, parts
from nas.export.check import relative_error
from nas.export.packages import compute_unit_errors, read_package, save
from nas.export.samples import real_samples
from nas.models.text_encoder import PromptEncoder


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return checkpoint.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("coreml")
    coreml(tiny_checkpoint, out)
    return out


def test_export_writes_three_parts_with_their_shapes(exported, loaded):
    def ports(name):
        description = read_package(exported / f"{name}.mlpackage").description
        return [
            {port.name: tuple(port.type.multiArrayType.shape) for port in side}
            for side in (description.input, description.output)
        ]

    clip = (1, 4, 4, 8, 8)
    assert ports("denoiser") == [{"x": clip, "timestep": (1,), "context": (1, 8, 32)}, {"velocity": clip}]
    assert ports("decoder") == [{"latents": clip}, {"video": (1, 1, 4, 16, 16)}]
    assert ports("text_encoder") == [{"input_ids": (1, 8), "attention_mask": (1, 8)}, {"context": (1, 8, 32)}]
    assert (exported / "tokenizer" / "tokenizer.json").exists()


def test_check_accepts_only_the_packages_architecture(exported, loaded):
    path, space, arch = exported / "denoiser.mlpackage", loaded.space, loaded.architecture
    check_package(path, arch, space)
    for slot, choice in [("mid.0/0", "none"), ("mid.0/0", "CrossAttention3D"), ("up.0.0/0", "Conv3D")]:
        with pytest.raises(NasError, match="architecture") as error:
            check_package(path, space.architecture({**arch.choices, slot: choice}), space)
        assert "\n" not in str(error.value)
    with pytest.raises(NasError, match="weights_sha256"):
        check_package(path, arch, space, weights_sha256="0" * 64)


def test_operation_counts_differ_between_the_choices_of_a_slot(loaded):
    space = loaded.space
    slot = "up.1.0/0"
    counts = [operations.of_architecture(space, space.architecture({slot: choice})) for choice in space.slots[slot]]
    for i, one in enumerate(counts):
        assert all(one != other for other in counts[:i])


def test_check_detects_a_wrong_program_with_right_metadata(exported, loaded, tmp_path):
    """A package with the metadata of another architecture is detected by its operations."""
    import coremltools as ct

    other = loaded.space.architecture({**loaded.architecture.choices, "mid.0/1": "Conv3D"})
    path = shutil.copytree(exported / "denoiser.mlpackage", tmp_path / "forged.mlpackage")
    inside = next(path.rglob("model.mlmodel"))
    spec = ct.utils.load_spec(str(path))
    spec.description.metadata.userDefined["nas.architecture"] = json.dumps(other.choices)
    inside.write_bytes(spec.SerializeToString())
    with pytest.raises(NasError, match="conv 32x32x3x3"):
        check_package(path, other, loaded.space)


def test_palettized_weights_are_smaller_and_close_to_the_original(exported, loaded, tmp_path):
    """Each weight differs from the original by at most a few steps of an evenly spaced palette."""
    import coremltools

    bits = 8  # 6 in test_palettes.py
    path = exported / "denoiser.mlpackage"
    small = palettize(coremltools.models.MLModel(str(path), skip_model_load=True), bits)
    small.user_defined_metadata.update({"nas.architecture": json.dumps(loaded.architecture.choices)})
    small.user_defined_metadata.update({"nas.space_hash": loaded.space.hash})
    paths = [path, save(small, tmp_path / "small.mlpackage")]
    check_package(paths[1], loaded.architecture, loaded.space)
    before, after = (sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in paths)
    assert after < before * 0.75  # biases and small tensors are not palettized
    weights, compressed = Program.load(paths[0]).weights(), Program.load(paths[1]).compressed()
    assert len(compressed) > 20
    for name, tensor in compressed.items():
        assert relative_error(tensor, weights[name.removesuffix("_palettized")]) < 3 / 2**bits, name


def test_palette_is_accurate_despite_outliers():
    """Evenly spaced values would map nearly all weights to one value."""
    weight = np.random.default_rng(0).normal(0, 0.01, (64, 64)).astype(np.float16)
    weight[0, 0] = 2.0
    values, indices = palette(weight, 256)
    restored = values[indices]
    assert values.shape == (256,) and indices.dtype == np.uint8 and restored.shape == weight.shape
    assert np.abs(restored - weight).max() < 0.005
    assert np.linalg.norm(restored.astype(float) - weight) < 0.01 * np.linalg.norm(weight.astype(float)[1:])
    few = np.array([[1.0, 2.0, 2.0]], np.float16)
    values, indices = palette(few, 64)
    assert (values[indices] == few).all()


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("count", [2304, 100_000])
def test_palette_of_normal_weights_is_nearly_optimal(bits, count):
    """The optimal palette for many normal weights has the error 1.65 / 2^bits (Panter and Dite 1951)."""
    weight = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float16)
    values, indices = palette(weight, 2**bits)
    error = np.linalg.norm(values[indices].astype(float) - weight) / np.linalg.norm(weight.astype(float))
    assert error < 1.75 / 2**bits


def test_manifest_has_everything_an_app_needs(exported, loaded):
    import jsonschema

    from nas.exported import manifest, schema

    contents = json.loads((exported / "export.json").read_text())
    jsonschema.validate(contents, json.loads(schema.SCHEMA.read_text()))
    app = manifest.read(exported, "coreml").app
    assert [port.name for port in app.models["denoiser"].inputs] == ["x", "timestep", "context"]
    assert {port.dtype for port in app.models["text_encoder"].inputs} == {"int32"}
    assert (app.clip.frames, app.clip.height, app.clip.channels, app.clip.fps) == (4, 16, 1, 8)
    context = np.fromfile(exported / app.prompt.empty_context, "<f4").reshape(1, 8, 32)
    assert np.allclose(context, PromptEncoder(loaded.space.text)([""]), atol=1e-6)
    del contents["coreml"]["app"]["sampling"]
    with pytest.raises(jsonschema.ValidationError, match="sampling"):
        jsonschema.validate(contents, schema.schema())


def test_tokenizer_file_gives_the_encoders_inputs(exported, loaded):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(exported / "tokenizer" / "tokenizer.json"))
    for prompt in parts.PROMPTS:
        encoding, expected = tokenizer.encode(prompt), parts.token_inputs(loaded.space.text, prompt)
        assert encoding.ids == expected["input_ids"][0].tolist()
        assert encoding.attention_mask == expected["attention_mask"][0].tolist()


def test_shipped_schema_matches_the_data_classes():
    from nas.exported import schema

    assert json.loads(schema.SCHEMA.read_text()) == schema.schema()


def test_unknown_number_of_bits_is_a_config_error(tiny_checkpoint):
    with pytest.raises(ConfigError, match="must be one of 6, 8, not 5"):
        palettize(None, 5)


def test_timesteps_stay_float32_up_to_their_sines(exported):
    """float16 cannot represent 999.7; it is precise enough only after sine and cosine."""
    import coremltools as ct

    float32 = ct.proto.MIL_pb2.DataType.FLOAT32
    seen = 0
    for operation in operations.program_operations(read_package(exported / "denoiser.mlpackage")):
        if operation.type in ("sin", "cos"):
            assert operation.outputs[0].type.tensorType.dataType == float32
            seen += 1
        if operation.type in ("conv", "linear", "softmax"):
            assert operation.outputs[0].type.tensorType.dataType == ct.proto.MIL_pb2.DataType.FLOAT16
    assert seen == 2


def test_manifest_lists_every_file_with_its_hash(exported, loaded):
    import hashlib

    manifest = json.loads((exported / "export.json").read_text())["coreml"]
    files = {str(f.relative_to(exported)) for f in exported.rglob("*") if f.is_file()} - {"export.json"}
    assert {entry["path"] for entry in manifest["files"]} == files
    for entry in manifest["files"]:
        data = (exported / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["size_mb"] == len(data) / 1e6
    assert manifest["checkpoint"]["architecture"] == loaded.architecture.choices
    assert "latency unknown" in manifest["summary"]
    assert set(manifest["checks"]) == {"denoiser", "decoder", "text_encoder"}
    for figures in manifest["checks"].values():
        assert 0 < figures["error_float32"] < 2e-3 and figures["error_float16"] < 4e-3
        assert 0 < figures["largest"] < figures["float16_limit"] and figures["largest_at"]
    assert manifest["checks"]["denoiser"]["samples"] == 6 and manifest["checks"]["text_encoder"]["samples"] == 5


def test_wrong_targets_files_and_missing_libraries_are_one_line_errors(
    tiny_checkpoint, exported, loaded, tmp_path, monkeypatch
):
    with pytest.raises(ConfigError, match=r"iOS71.*iOS18"):
        coreml(tiny_checkpoint, tmp_path, target="iOS71")
    (tmp_path / "broken.mlpackage").write_text("not a package")
    for path in (tmp_path / "broken.mlpackage", tmp_path / "missing.mlpackage"):
        with pytest.raises(NasError, match=path.name) as error:
            check_package(path, loaded.architecture, loaded.space)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingDependency, match="pip install coremltools"):
        coreml(tiny_checkpoint, tmp_path)


class Apple:
    """A fake of Core ML on a Mac: runs a part in torch and rounds to float16, with a larger error on one unit."""

    def __init__(self, part, error: float) -> None:
        self.part, self.error = part, error

    def __call__(self, path: str, compute_units):
        assert Path(path).suffix == ".mlpackage"
        self.factor = 1 + self.error * (compute_units.name == "CPU_AND_NE")
        return self

    @torch.no_grad()
    def predict(self, arrays):
        output = self.part.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        return {self.part.output: (output * self.factor).half().numpy()}


def test_running_packages_with_core_ml_requires_a_mac(tiny_checkpoint, loaded, tmp_path, monkeypatch):
    import coremltools

    with pytest.raises(NasError, match="on a Mac") as error_info:
        coreml(tiny_checkpoint, tmp_path, compare=True)
    assert "\n" not in str(error_info.value) and not list(tmp_path.iterdir())

    monkeypatch.setattr(sys, "platform", "darwin")
    path, samples = tmp_path / "a.mlpackage", real_samples(loaded)
    for part in (parts.denoiser(loaded), parts.decoder(loaded), parts.text_encoder(loaded)):
        monkeypatch.setattr(coremltools.models, "MLModel", Apple(part, 0.01))
        errors = compute_unit_errors(path, part, samples[part.name])
        assert list(errors) == ["CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL"]
        assert errors["CPU_AND_NE"] == pytest.approx(0.01, abs=1e-3) and errors["ALL"] < 1e-3
        for error, message in (
            (0.125, r"differs from torch by a relative error of 0\.1.* with CPU_AND_NE"),
            (float("nan"), "infinity or NaN"),
        ):
            monkeypatch.setattr(coremltools.models, "MLModel", Apple(part, error))
            with pytest.raises(NasError, match=message):
                compute_unit_errors(path, part, samples[part.name])
    monkeypatch.setattr(coremltools.models, "MLModel", lambda path, compute_units: 1 / 0)
    with pytest.raises(NasError, match="cannot run it"):
        compute_unit_errors(path, part, samples[part.name])


def test_every_format_returns_the_paths_it_wrote(tiny_checkpoint, exported, tmp_path):
    """`nas export` and `nas job` depend on these paths."""
    assert set(FORMATS) == {"coreml", "recipe", "litert", "web"}
    paths = FORMATS["recipe"](tiny_checkpoint, tmp_path)
    assert paths and all(Path(path).exists() and tmp_path in Path(path).parents for path in paths)
