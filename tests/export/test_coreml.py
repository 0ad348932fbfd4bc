"""Core ML packages: that they are the architecture, and that the check sees when they are not."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from nas import checkpoint
from nas.conversion.convert import to_coreml
from nas.conversion.palettize import palettise
from nas.errors import ConfigError, MissingDependency, NasError
from nas.export import FORMATS, check_package, coreml, operations, parts
from nas.export.packages import TOLERANCE, package_error, read_package, save


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return checkpoint.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("coreml")
    coreml(tiny_checkpoint, out)
    return out


def test_a_phone_gets_all_three_parts_with_their_shapes(exported, loaded):
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


def test_the_package_is_the_architecture_and_no_other(exported, loaded):
    path, space, arch = exported / "denoiser.mlpackage", loaded.space, loaded.architecture
    check_package(path, arch, space)
    for slot, choice in [("mid.0/0", "none"), ("mid.0/0", "CrossAttention3D"), ("up.0.0/0", "Conv3D")]:
        with pytest.raises(NasError, match="architecture") as error:
            check_package(path, space.architecture({**arch.choices, slot: choice}), space)
        assert "\n" not in str(error.value)
    with pytest.raises(NasError, match="weights_sha256"):
        check_package(path, arch, space, weights_sha256="0" * 64)


def test_operations_tell_every_choice_of_a_slot_apart(loaded):
    space = loaded.space
    slot = "up.1.0/0"
    found = [operations.of_architecture(space, space.architecture({slot: choice})) for choice in space.slots[slot]]
    for i, one in enumerate(found):
        assert all(one != other for other in found[:i])


def test_a_label_does_not_hide_a_wrong_program(exported, loaded, tmp_path):
    """A package whose metadata were copied from another architecture's is found out by its operations."""
    import coremltools as ct

    other = loaded.space.architecture({**loaded.architecture.choices, "mid.0/1": "Conv3D"})
    path = shutil.copytree(exported / "denoiser.mlpackage", tmp_path / "forged.mlpackage")
    inside = next(path.rglob("model.mlmodel"))
    spec = ct.utils.load_spec(str(path))
    spec.description.metadata.userDefined["nas.architecture"] = json.dumps(other.choices)
    inside.write_bytes(spec.SerializeToString())
    with pytest.raises(NasError, match="conv 32x32x3x3"):
        check_package(path, other, loaded.space)


@pytest.mark.slow
def test_ios_18_keeps_attention_whole(tiny_checkpoint, loaded, tmp_path):
    coreml(tiny_checkpoint, tmp_path, target="iOS18")
    spec = read_package(tmp_path / "denoiser.mlpackage")
    kinds = [operation.type for operation in operations.program_operations(spec)]
    assert spec.specificationVersion == 9 and "scaled_dot_product_attention" in kinds
    check_package(tmp_path / "denoiser.mlpackage", loaded.architecture, loaded.space)


@pytest.fixture(scope="module")
def plain(loaded):
    part = parts.denoiser(loaded)
    return to_coreml(part.module, part.inputs, part.output, float32=("timestep",))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 6])
def test_palettised_weights_are_small_near_and_of_the_same_architecture(loaded, plain, tmp_path, bits):
    """Every weight moves by at most one step of 2^bits values spread over its tensor's range."""
    import coremltools as ct
    import numpy as np

    small = palettise(plain, bits)
    small.user_defined_metadata.update({"nas.architecture": json.dumps(loaded.architecture.choices)})
    small.user_defined_metadata.update({"nas.space_hash": loaded.space.hash})
    paths = [save(model, tmp_path / f"{name}.mlpackage") for name, model in [("plain", plain), ("small", small)]]
    check_package(paths[1], loaded.architecture, loaded.space)
    before, after = (sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in paths)
    assert after < before * {8: 0.75, 6: 0.65}[bits]  # biases and what is too small stay as they are
    restored = ct.optimize.coreml.decompress_weights(small)
    wanted, found = (weights(model) for model in (plain, restored))
    compared = [name for name in wanted if name in found]
    assert len(compared) > 20
    for name in compared:
        step = np.ptp(wanted[name]) / (2**bits - 1)
        assert np.abs(wanted[name] - found[name]).max() <= step, name


def weights(model) -> dict:
    import coremltools as ct

    return {
        name.removesuffix("_palettized"): about.val.astype(float)
        for name, about in ct.optimize.coreml.get_weights_metadata(model, weight_threshold=2048).items()
    }


def test_another_number_of_bits_is_one_line(tiny_checkpoint):
    with pytest.raises(ConfigError, match="must be one of 6, 8, not 5"):
        palettise(None, 5)


def test_timesteps_are_not_rounded_before_their_sines(exported):
    """float16 holds no 999.7; only behind sine and cosine is it enough."""
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


def test_the_manifest_has_every_file_with_its_hash(exported, loaded):
    import hashlib

    manifest = json.loads((exported / "export.json").read_text())["coreml"]
    files = {str(f.relative_to(exported)) for f in exported.rglob("*") if f.is_file()} - {"export.json"}
    assert {entry["path"] for entry in manifest["files"]} == files
    for entry in manifest["files"]:
        data = (exported / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["size_mb"] == len(data) / 1e6
    assert manifest["checkpoint"]["architecture"] == loaded.architecture.choices
    assert "latency unknown" in manifest["summary"]


def test_wrong_targets_files_and_missing_libraries_are_one_line(
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
    """Stands in for Core ML on a Mac: runs a part in torch and rounds as float16 does, or worse."""

    def __init__(self, part, error: float) -> None:
        self.part, self.error = part, error

    def __call__(self, path: str):
        assert Path(path).suffix == ".mlpackage"
        return self

    @torch.no_grad()
    def predict(self, arrays):
        found = self.part.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        return {self.part.output: (found * (1 + self.error)).half().numpy()}


def test_comparing_with_torch_takes_a_mac(tiny_checkpoint, loaded, tmp_path, monkeypatch):
    import coremltools

    with pytest.raises(NasError, match="on a Mac") as refused:
        coreml(tiny_checkpoint, tmp_path, compare=True)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())

    monkeypatch.setattr(sys, "platform", "darwin")
    for part in (parts.denoiser(loaded), parts.decoder(loaded)):
        for error in (0.0, 0.125):
            monkeypatch.setattr(coremltools.models, "MLModel", Apple(part, error))
            assert package_error(tmp_path / "a.mlpackage", part) == pytest.approx(error, abs=1e-3)
    with pytest.raises(NasError, match=r"differs from torch by 0\.12"):
        parts.check_error(tmp_path / "a.mlpackage", 0.12, TOLERANCE[None])
    monkeypatch.setattr(coremltools.models, "MLModel", lambda path: 1 / 0)
    with pytest.raises(NasError, match="cannot run it"):
        package_error(tmp_path / "a.mlpackage", parts.decoder(loaded))


def test_every_format_says_what_it_wrote(tiny_checkpoint, exported, tmp_path):
    """What `nas export` and a whole job rely on."""
    assert set(FORMATS) == {"coreml", "recipe", "litert"}
    paths = FORMATS["recipe"](tiny_checkpoint, tmp_path)
    assert paths and all(Path(path).exists() and tmp_path in Path(path).parents for path in paths)
