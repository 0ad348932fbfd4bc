"""The numerical check detects faults injected into a module or a package."""

import dataclasses
import shutil

import pytest
import torch
from torch.nn import functional as F

from nas import checkpoint
from nas.conversion import convert
from nas.errors import NasError
from nas.export import packages, parts
from nas.export.check import check_numbers
from nas.export.packages import save
from nas.export.samples import real_samples
from nas.models import autoencoder, layers, operators


@pytest.fixture(scope="module")
def loaded(small_checkpoint):
    return checkpoint.load(small_checkpoint)


@pytest.fixture(scope="module")
def samples(loaded):
    return real_samples(loaded)


def exported(part, folder):
    return save(packages.convert(part), folder / f"{part.name}.mlpackage")


def softmax_over_queries(q, k, v, attn_mask=None, **ignored):
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if attn_mask is None else scores + attn_mask).softmax(-2) @ v


def no_scale(q, k, v, attn_mask=None, **ignored):
    scores = q @ k.transpose(-1, -2)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v


class DenoiserFaults:
    """Faults that change the converted module through `patch` or modify `fresh`, a newly loaded checkpoint."""

    def softmax_over_queries(patch, fresh):
        patch.setattr(layers.F, "scaled_dot_product_attention", softmax_over_queries)

    def missing_attention_scale(patch, fresh):
        patch.setattr(layers.F, "scaled_dot_product_attention", no_scale)

    def height_and_width_swapped(patch, fresh):
        plain = operators.Conv3D.forward
        patch.setattr(
            operators.Conv3D, "forward", lambda self, x, c=None: plain(self, x.transpose(3, 4), c).transpose(3, 4)
        )

    def temporal_kernels_reversed(patch, fresh):
        for module in fresh.denoiser.modules():
            if isinstance(module, operators.Conv1D):
                module.conv.weight.data = module.conv.weight.data.flip(2)

    def geglu_halves_swapped(patch, fresh):
        def forward(self, x):
            gate, value = self.proj(x).chunk(2, dim=-1)
            return value * F.gelu(gate)

        patch.setattr(layers.GEGLU, "forward", forward)

    def other_weights(patch, fresh):
        torch.manual_seed(1)
        for parameter in fresh.denoiser.parameters():
            parameter.data = parameter.data + 0.02 * torch.randn_like(parameter)

    def timestep_ignored(patch, fresh):
        plain = type(fresh.denoiser).forward
        patch.setattr(type(fresh.denoiser), "forward", lambda self, x, t, c: plain(self, x, 0 * t + 500, c))

    def context_ignored(patch, fresh):
        plain = type(fresh.denoiser).forward
        patch.setattr(type(fresh.denoiser), "forward", lambda self, x, t, c: plain(self, x, t, 0 * c))


class DecoderFaults:
    def without_temporal_factors(patch, fresh):
        patch.setattr(autoencoder.TemporalConv, "forward", lambda self, x, frames, past=None: x)

    def without_scaling(patch, fresh):
        fresh.autoencoder.scaling_factor = 1.0

    def height_and_width_swapped(patch, fresh):
        plain = autoencoder.Autoencoder.decode
        patch.setattr(autoencoder.Autoencoder, "decode", lambda self, z: plain(self, z.transpose(3, 4)).transpose(3, 4))

    def temporal_kernels_reversed(patch, fresh):
        for module in fresh.autoencoder.modules():
            if isinstance(module, autoencoder.TemporalConv):
                module.conv.weight.data = module.conv.weight.data.flip(2)


class TextFaults:
    def softmax_over_queries(patch, fresh):
        patch.setattr(F, "scaled_dot_product_attention", softmax_over_queries)

    def missing_attention_scale(patch, fresh):
        patch.setattr(F, "scaled_dot_product_attention", no_scale)

    def prompt_ignored(patch, fresh):
        patch.setattr(convert, "distinct", lambda inputs: dict.fromkeys(inputs, torch.ones(1, 8, dtype=torch.int32)))

    def mask_ignored(patch, fresh):
        plain = parts.EncodeText.forward
        patch.setattr(parts.EncodeText, "forward", lambda self, ids, mask: plain(self, ids, mask * 0 + 1))


def faults(holder):
    by_name = {name: fault for name, fault in vars(holder).items() if not name.startswith("_")}
    return pytest.mark.parametrize("fault", by_name.values(), ids=by_name)


def assert_detected(part_of, loaded, samples, small_checkpoint, fault, folder, monkeypatch):
    fresh = checkpoint.load(small_checkpoint)
    with monkeypatch.context() as patch:
        fault(patch, fresh)
        path = exported(part_of(fresh), folder)
    with pytest.raises(NasError, match="differs from torch") as error:
        check_numbers(path, path.stem, samples)
    assert "\n" not in str(error.value)


@faults(DenoiserFaults)
def test_wrong_denoiser_is_detected(loaded, samples, small_checkpoint, fault, tmp_path, monkeypatch):
    assert_detected(parts.denoiser, loaded, samples["denoiser"], small_checkpoint, fault, tmp_path, monkeypatch)


@faults(DecoderFaults)
def test_wrong_decoder_is_detected(loaded, samples, small_checkpoint, fault, tmp_path, monkeypatch):
    assert_detected(parts.decoder, loaded, samples["decoder"], small_checkpoint, fault, tmp_path, monkeypatch)


@faults(TextFaults)
def test_wrong_text_encoder_is_detected(loaded, samples, small_checkpoint, fault, tmp_path, monkeypatch):
    assert_detected(parts.text_encoder, loaded, samples["text_encoder"], small_checkpoint, fault, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def packages_without_faults(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages_without_faults")
    return {part.name: exported(part, folder) for part in (parts.decoder(loaded), parts.text_encoder(loaded))}


def test_parts_without_faults_pass(packages_without_faults, samples):
    for name, path in packages_without_faults.items():
        figures = check_numbers(path, name, samples[name])
        assert 0 < figures.error_conversion < 1e-4 < figures.error_float32 < 2e-3
        assert figures.error_float32 < figures.error_float16 < 4e-3


def changed(path, folder, kind, attribute, value):
    """A copy of a package with another attribute value in the first operation of a kind."""
    from nas.export.operations import program_operations
    from nas.export.packages import read_package

    copy = shutil.copytree(path, folder / path.name)
    spec = read_package(copy)
    operations = list(program_operations(spec))
    first = next(operation for operation in operations if operation.type == kind)
    name = first.inputs[attribute].arguments[0].name
    constant = next(operation for operation in operations if operation.outputs[0].name == name)
    tensor = constant.attributes["val"].immediateValue.tensor
    tensor.ints.values[:] = value
    next(copy.rglob("model.mlmodel")).write_bytes(spec.SerializeToString())
    return copy


def test_wrong_package_is_detected(packages_without_faults, samples, tmp_path):
    """The fault is only in the file: height and width are swapped."""
    path = changed(packages_without_faults["decoder"], tmp_path, "transpose", "perm", [0, 2, 1, 4, 3])
    with pytest.raises(NasError, match="differs from torch"):
        check_numbers(path, "decoder", samples["decoder"])


def test_unsupported_operation_is_named(packages_without_faults, samples, monkeypatch):
    from nas.conversion.mil import OPERATIONS

    monkeypatch.delitem(OPERATIONS, "softmax")
    with pytest.raises(NasError, match=r"text_encoder\.mlpackage: cannot be evaluated.*softmax \(2 times\)") as error:
        check_numbers(packages_without_faults["text_encoder"], "text_encoder", samples["text_encoder"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("objective", "output"), [("epsilon", "noise"), ("v", "v")])
def test_output_is_named_after_the_prediction_type(loaded, tmp_path, objective, output):
    other = dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, objective=objective))
    path = exported(parts.denoiser(other), tmp_path)
    assert [port.name for port in packages.read_package(path).description.output] == [output]
