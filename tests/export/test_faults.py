"""The numerical check detects faults injected into a module or a package.

A fault of a module is put into the torch model that a package without faults is compared with. The difference is that
of the reverse, without a conversion for each fault.
"""

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
from nas.export.samples import Sample, real_samples, with_rounded_weights
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
    return masked(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, attn_mask).softmax(-2) @ v


def no_scale(q, k, v, attn_mask=None, **ignored):
    return masked(q @ k.transpose(-1, -2), attn_mask).softmax(-1) @ v


def masked(scores, mask):
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -1e4) if mask.dtype == torch.bool else scores + mask


class DenoiserFaults:
    """Faults that change the module's code through `patch` or modify `fresh`, a newly loaded checkpoint."""

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
        plain = parts.EncodeText.forward
        patch.setattr(parts.EncodeText, "forward", lambda self, ids, mask: plain(self, mask, mask))

    def mask_ignored(patch, fresh):
        plain = parts.EncodeText.forward
        patch.setattr(parts.EncodeText, "forward", lambda self, ids, mask: plain(self, ids, mask * 0 + 1))


def faults(holder):
    by_name = {name: fault for name, fault in vars(holder).items() if not name.startswith("_")}
    return pytest.mark.parametrize("fault", by_name.values(), ids=by_name)


@pytest.fixture(scope="module")
def packages_without_faults(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages_without_faults")
    made = (part_of(loaded) for part_of in (parts.denoiser, parts.decoder, parts.text_encoder))
    return {part.name: exported(part, folder) for part in made}


def outputs(part, module, inputs):
    returned = module(*inputs.values())
    return returned if isinstance(returned, dict) else {part.output: returned}


@torch.no_grad()
def assert_detected(part_of, packages_without_faults, samples, small_checkpoint, fault, monkeypatch):
    fresh = checkpoint.load(small_checkpoint)
    with monkeypatch.context() as patch:
        fault(patch, fresh)
        part = part_of(fresh)
        rounded = with_rounded_weights(part)
        given = [s.inputs for s in samples[part.name]]
        wrong = [Sample(x, outputs(part, part.module, x), outputs(part, rounded, x)) for x in given]
    with pytest.raises(NasError, match="differs from torch") as error:
        check_numbers(packages_without_faults[part.name], part.name, wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scaling_factor", [0.8315413238054672, 0.18215])
def test_a_scaling_factor_that_float16_rounds_is_no_fault(scaling_factor, small_checkpoint, tmp_path):
    """Found with a trained decoder: the inverse of its factor, 1.2026, is 1.2021 in float16, and the export was refused."""
    fresh = checkpoint.load(small_checkpoint)
    fresh.autoencoder.scaling_factor = scaling_factor
    part = parts.decoder(fresh)
    figures = check_numbers(exported(part, tmp_path), "decoder", real_samples(fresh)["decoder"])
    assert figures.error_conversion < 2e-5


def test_a_spread_of_texts_that_float16_rounds_is_no_fault(small_checkpoint, tmp_path):
    """Found with a trained denoiser, whose attention amplified the error of the inverse twentyfold."""
    fresh = checkpoint.load(small_checkpoint)
    fresh.denoiser.text_embedding.spread.fill_(0.8315413238054672)
    part = parts.denoiser(fresh)
    figures = check_numbers(exported(part, tmp_path), "denoiser", real_samples(fresh)["denoiser"])
    assert figures.error_conversion < 5e-5


@faults(DenoiserFaults)
def test_wrong_denoiser_is_detected(packages_without_faults, samples, small_checkpoint, fault, monkeypatch):
    assert_detected(parts.denoiser, packages_without_faults, samples, small_checkpoint, fault, monkeypatch)


@faults(DecoderFaults)
def test_wrong_decoder_is_detected(packages_without_faults, samples, small_checkpoint, fault, monkeypatch):
    assert_detected(parts.decoder, packages_without_faults, samples, small_checkpoint, fault, monkeypatch)


@faults(TextFaults)
def test_wrong_text_encoder_is_detected(packages_without_faults, samples, small_checkpoint, fault, monkeypatch):
    assert_detected(parts.text_encoder, packages_without_faults, samples, small_checkpoint, fault, monkeypatch)


def test_merged_inputs_are_detected(loaded, samples, tmp_path, monkeypatch):
    """A fault of the conversion: example inputs that are one tensor make the traced encoder ignore the prompt."""
    with monkeypatch.context() as patch:
        ones = torch.ones(1, 8, dtype=torch.int32)
        patch.setattr(convert, "distinct", lambda inputs: dict.fromkeys(inputs, ones))
        path = exported(parts.text_encoder(loaded), tmp_path)
    with pytest.raises(NasError, match="differs from torch"):
        check_numbers(path, "text_encoder", samples["text_encoder"])


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
def test_output_is_named_after_the_prediction_type(loaded, packages_without_faults, objective, output):
    other = dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, objective=objective))
    assert parts.denoiser(other).output == output
    description = packages.read_package(packages_without_faults["denoiser"]).description
    assert [port.name for port in description.output] == [parts.denoiser(loaded).output]
