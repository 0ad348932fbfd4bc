"""Clips in the search space: the latents' shape follows from the clip and the autoencoder."""

from pathlib import Path

import pytest

import nas
from nas.errors import SpaceError
from nas.spaces import Clip, Decoder, SearchSpace, VAEConfig, shipped_spaces

FIVE_SECONDS = """
name: five
clip: {seconds: 5, fps: 16, height: 512, width: 512}
autoencoder: {latent_channels: 4, temporal_compression: 4, spatial_compression: 8, layers_per_block: 2}
decoder: {frames: 1}
text: {tokens: 16, dim: 64}
backbone: {channels: [32, 64], heads: 4}
operators: {none: , Conv1D: }
"""


def load(folder: Path, text: str) -> SearchSpace:
    (folder / "space.yaml").write_text(text)
    return nas.SearchSpace.load(folder / "space.yaml")


def test_clip_and_autoencoder_give_the_latents(tmp_path):
    space = load(tmp_path, FIVE_SECONDS)
    assert space.input_shape() == (1, 4, 21, 64, 64)
    assert space.clip == Clip(81, 16.0, 512, 512) and space.clip.seconds == 5.0625
    assert str(space.clip) == "5.06 s clip (81 frames at 16 fps, 512x512)"
    assert space.decoder.vae == VAEConfig((128, 256, 512, 512), layers_per_block=2, temporal_compression=4)
    assert space.decoder_runs == 21


@pytest.mark.parametrize(
    ("length", "compression", "frames"),
    [
        ("seconds: 5", 1, 80), ("seconds: 5", 2, 81), ("seconds: 5", 4, 81), ("seconds: 5", 8, 81),
        ("seconds: 0.01", 8, 1), ("seconds: 0.1", 8, 9), ("frames: 1", 8, 1), ("frames: 33", 8, 33),
    ],
)  # fmt: skip
def test_a_length_in_seconds_is_rounded_up_to_whole_latents(tmp_path, length, compression, frames):
    text = FIVE_SECONDS.replace("seconds: 5", length).replace("compression: 4", f"compression: {compression}")
    clip = load(tmp_path, text).clip
    assert clip.frames == frames and (clip.frames - 1) % compression == 0


@pytest.mark.parametrize("text", [FIVE_SECONDS, FIVE_SECONDS.replace("decoder: {frames: 1}\n", "")])
def test_saving_keeps_the_clip_and_the_hash(tmp_path, text):
    space = load(tmp_path, text)
    copy = nas.SearchSpace.load(space.save(tmp_path / "copy.yaml"))
    assert (copy.clip, copy.hash, copy.decoder) == (space.clip, space.hash, space.decoder)


def test_fps_changes_neither_the_hash_nor_rows(tmp_path):
    """Tables and architectures of a space stay valid when only the frame rate is stated differently."""
    space = load(tmp_path, FIVE_SECONDS.replace("seconds: 5", "frames: 81"))
    slower = load(tmp_path, FIVE_SECONDS.replace("seconds: 5, fps: 16", "frames: 81, fps: 8"))
    assert (slower.hash, slower.workloads()) == (space.hash, space.workloads())
    assert str(slower.decoder_workload()) == str(space.decoder_workload())
    assert slower.clip.seconds == 2 * space.clip.seconds


def test_latents_without_a_clip_give_one(tmp_path):
    """Spaces from before clips keep their shapes: 8 fps, and the autoencoder that is declared or trained by default."""
    old = FIVE_SECONDS.split("clip:")[0] + "latent: {channels: 4, frames: 8, height: 8, width: 8}\n"
    old += FIVE_SECONDS[FIVE_SECONDS.index("text:") :]
    assert load(tmp_path, old).clip == Clip(8, 8.0, 32, 32)
    declared = load(tmp_path, old + "decoder: {vae: {channels: [32, 32]}}\n")
    assert declared.clip == Clip(8, 8.0, 16, 16)


def test_temporal_compression_is_another_decoder():
    plain, compressing = (Decoder(VAEConfig((32, 64, 64), temporal_compression=c)) for c in (1, 4))
    assert plain.hash() == "e6ecd511f5a3"  # that of versions without temporal compression, whose tables have it
    assert compressing.hash() != plain.hash()


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_shipped_spaces_state_their_clips(name):
    space = SearchSpace.load(name)
    if space.backbone is not None:
        assert space.fps is not None
        assert "clip" in shipped_spaces()[name].read_text().split("backbone:")[0].partition("\n\n")[2]


def test_snapgen_v_is_a_clip_of_five_seconds():
    space = SearchSpace.load("snapgen_v")
    assert space.clip == Clip(81, 16.0, 512, 512) and space.clip.seconds >= 5
    assert space.input_shape() == (1, 4, 21, 64, 64) and space.decoder_runs == 21


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seconds: 5, ", "", r"yaml:3: clip: without 'latent' it needs"),
        ("seconds: 5", "seconds: 5, frames: 81", r"yaml:3: clip: give either 'seconds' or 'frames'"),
        ("seconds: 5", "seconds: -1", r"yaml:3: clip.seconds: must be positive"),
        ("seconds: 5, fps: 16", "seconds: 1e6, fps: 1e3", r"yaml:3: clip.seconds: 1e\+06 s at 1000 fps exceed 1048576"),
        ("seconds: 5", "frames: 80", r"yaml:3: clip.frames: 80 is not 1 \+ a multiple .*try 77 or 81"),
        ("fps: 16, ", "", r"yaml:3: missing key 'clip.fps'"),
        ("fps: 16", "fps: 0", r"yaml:3: clip.fps: must be positive"),
        ("height: 512", "height: 500", r"yaml:3: clip.height: 500 is not a multiple of 16 .*try 496"),
        ("autoencoder: {", "autoencoders: {", r"unknown key 'autoencoders'; did you mean 'autoencoder'"),
        ("temporal_compression: 4", "temporal_compression: 3", r"yaml:4: temporal_compression: must be one of"),
        ("spatial_compression: 8", "spatial_compression: 2", r"yaml:4: temporal_compression: 4 needs a spatial"),
        ("spatial_compression: 8", "spatial_compression: 12", r"yaml:4: .*must be a power of two up to 32768, not 12"),
        ("spatial_compression: 8", "spatial_compression: 8, channels: [32, 32, 32]", r"yaml:4: .*spatial_compression: 8, but"),
        ("decoder: {frames: 1}", "decoder: {frames: 2}", r"decoder.frames: 2 does not divide latent.frames=21"),
        ("decoder: {frames: 1}", "decoder: {vae: {}}", r"yaml:5: decoder.vae: is the same as 'autoencoder'"),
        (
            "decoder: {frames: 1}",
            "latent: {channels: 4, frames: 8, height: 64, width: 64}",
            r"yaml:3: clip.seconds: 5, but latent.frames: 8 decodes to 29 frames \(1.81 s\)",
        ),
        (
            "decoder: {frames: 1}",
            "latent: {channels: 4, frames: 21, height: 32, width: 64}",
            r"yaml:3: clip.height: 512, but latent.height: 32 decodes to 256 pixels",
        ),
    ],
)  # fmt: skip
def test_errors_name_line_field_and_fix(tmp_path, old, new, message):
    assert old in FIVE_SECONDS
    with pytest.raises(SpaceError, match=message) as error:
        load(tmp_path, FIVE_SECONDS.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_a_clip_needs_an_autoencoder_and_a_backbone(tmp_path):
    lines = FIVE_SECONDS.splitlines(keepends=True)
    without = "".join(line for line in lines if not line.startswith(("autoencoder", "decoder")))
    with pytest.raises(SpaceError, match="yaml:3: clip: needs 'autoencoder' beside it"):
        load(tmp_path, without)
    with pytest.raises(SpaceError, match="yaml:3: clip: needs a 'backbone' beside it"):
        load(tmp_path, "name: a\nslots: {a: [none, x]}\nclip: {seconds: 1, fps: 8, height: 8, width: 8}\n")
