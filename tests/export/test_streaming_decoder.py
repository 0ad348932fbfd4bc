"""The exported decoder takes and returns its state: run after run it makes the clip that torch decodes at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nas import checkpoint
from nas.conversion.convert import to_coreml, to_litert
from nas.conversion.mil import Program
from nas.export import describe, parts
from nas.export.check import compare, relative_error
from nas.export.samples import _decoder_inputs, _samples
from nas.models import Autoencoder
from nas.spaces import Decoder, VAEConfig

CASES = {"every frame": (1, 1), "two by two, compressed": (2, 2)}
"""Temporal compression and latent frames per run."""


COMPRESSED = pytest.mark.parametrize("loaded", [(2, 2)], indirect=True, ids=["two by two, compressed"])


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def loaded(request, tiny_checkpoint) -> checkpoint.Checkpoint:
    """The tiny checkpoint with a decoder that streams, whose temporal layers matter."""
    tiny, (compression, frames) = checkpoint.load(tiny_checkpoint), request.param
    config = VAEConfig((8, 16), image_channels=1, norm_groups=8, temporal_compression=compression, scaling_factor=0.5)
    config = replace(config, latents_mean=(0.5, -0.5, 0.25, 0.0), latents_std=(1.0, 2.0, 0.5, 1.5))
    torch.manual_seed(0)
    autoencoder = Autoencoder(config).eval().requires_grad_(False)
    for parameter in autoencoder.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return replace(tiny, space=replace(tiny.space, decoder=Decoder(config, frames)), autoencoder=autoencoder)


def streamed(loaded, run, latents: torch.Tensor) -> torch.Tensor:
    """Decode as export.json says, with `run` from inputs to outputs by name."""
    part = parts.decoder(loaded)
    decoding = describe._decoding(part, latents.shape[2], loaded.autoencoder.config)
    state = {name: torch.zeros(part.inputs[name].shape) for name in decoding.state}
    frames = []
    for number in range(decoding.runs):
        given = latents[:, :, number * decoding.frames : (number + 1) * decoding.frames].contiguous()
        outputs = run({"latents": given, **state})
        assert outputs["video"].shape[2] == decoding.video_frames
        frames.append(outputs["video"])
        state = {name: outputs[f"{name}_out"] for name in decoding.state}
    video = torch.cat(frames, dim=2)[:, :, decoding.drop_first :]
    assert video.shape[2] == loaded.clip.frames == decoding.runs * decoding.video_frames - decoding.drop_first
    return video


def clip_latents(loaded) -> torch.Tensor:
    return torch.randn(loaded.space.input_shape(), generator=torch.Generator().manual_seed(1))


def test_torch_streams_the_whole_clip(loaded):
    latents = clip_latents(loaded)
    video = streamed(loaded, lambda inputs: parts.decoder(loaded).module(**inputs), latents)
    whole = loaded.autoencoder.decode(latents)
    torch.testing.assert_close(video, whole, rtol=1e-5, atol=1e-5)
    image_by_image = torch.cat([loaded.autoencoder.decode(part) for part in latents.split(1, dim=2)], dim=2)
    assert relative_error(whole[:, :, :1], image_by_image[:, :, :1]) > 0.01  # the temporal layers matter


def test_part_and_table_row_are_the_same_module(loaded):
    from nas.profiling.workers.eager import build_module, make_inputs

    workload, part = loaded.space.decoder_workload(), parts.decoder(loaded)
    inputs = make_inputs(workload, torch.device("cpu"))
    assert type(build_module(workload)) is type(part.module)
    assert {name: x.shape for name, x in inputs.items()} == {name: x.shape for name, x in part.inputs.items()}


@COMPRESSED
def test_litert_streams_the_whole_clip(loaded, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    pytest.importorskip("litert_torch")
    part = parts.decoder(loaded)
    path = to_litert(part.module, part.inputs, tmp_path / "decoder.tflite")
    runner = interpreter.Interpreter(str(path)).get_signature_runner()

    def run(inputs):
        outputs = runner(**{name: x.numpy() for name, x in inputs.items()})
        return {name: torch.from_numpy(x.copy()) for name, x in outputs.items()}

    latents = clip_latents(loaded)
    assert relative_error(streamed(loaded, run, latents), loaded.autoencoder.decode(latents)) < 1e-4
    from ai_edge_litert.interpreter import Interpreter

    kinds = {op["op_name"] for op in Interpreter(str(path))._get_ops_details()}
    assert not any("3D" in kind for kind in kinds)
    assert max(len(tensor["shape"]) for tensor in Interpreter(str(path)).get_tensor_details()) <= 5


@COMPRESSED
def test_coreml_streams_the_whole_clip(loaded, tmp_path):
    part = parts.decoder(loaded)
    program = Program.of(to_coreml(part.module, part.inputs, part.output))
    latents = clip_latents(loaded)

    def run(inputs):
        return program.run(inputs).outputs

    whole = loaded.autoencoder.decode(latents)
    assert relative_error(streamed(loaded, run, latents), whole) < 3e-3  # its weights are float16
    rounded = replace(loaded, autoencoder=with_float16_weights(loaded.autoencoder))
    assert relative_error(streamed(loaded, run, latents), rounded.autoencoder.decode(latents)) < 1e-4
    figures = compare(program, _samples(part, _decoder_inputs(part, [latents])))
    assert figures.error_conversion < 2.5e-5 and figures.error_float16 < 6e-3


def with_float16_weights(autoencoder: Autoencoder) -> Autoencoder:
    rounded = Autoencoder(autoencoder.config).eval().requires_grad_(False)
    rounded.load_state_dict({name: value.half().float() for name, value in autoencoder.state_dict().items()})
    return rounded
