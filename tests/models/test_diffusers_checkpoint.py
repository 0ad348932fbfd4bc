"""Checkpoints as diffusers itself writes them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_autoencoder import diffusers_autoencoder

from nas.errors import ConfigError
from nas.models import UNet, VAEConfig, build
from nas.models.diffusers_checkpoint import (
    STEM,
    WEIGHTS,
    checkpoint_folder,
    load_autoencoder,
    load_spatial_weights,
    load_unet,
    save_unet,
)
from tests.models.test_unet import diffusers_unet


@pytest.fixture
def checkpoint(space, tmp_path):
    unet, vae = diffusers_unet(space.backbone, 4, 12), diffusers_autoencoder(VAEConfig((32, 64)))
    unet.save_pretrained(tmp_path / "unet")
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path, unet, vae


def test_a_checkpoint_gives_its_own_model(checkpoint, space):
    folder, reference, _ = checkpoint
    unet = load_unet(folder)
    assert unet.config == space.backbone
    x, timestep, text = torch.randn(2, 4, 8, 8), torch.tensor([5, 800]), torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, timestep, text), reference(x, timestep, text).sample, rtol=1e-5, atol=1e-5)


def test_a_denoiser_takes_the_spatial_weights_and_keeps_its_temporal_ones(checkpoint, space):
    folder, reference, _ = checkpoint
    denoiser = build(space, space.architecture({"mid.0/0": "SelfAttention3D"}))
    before = {k: v.clone() for k, v in denoiser.temporal.state_dict().items()}
    load_spatial_weights(denoiser, folder)
    state = denoiser.state_dict()
    assert all(torch.equal(state[key], value) for key, value in reference.state_dict().items())
    assert all(torch.equal(denoiser.temporal.state_dict()[key], value) for key, value in before.items())


def test_an_autoencoder_loads_under_its_old_names_too(checkpoint):
    folder, _, reference = checkpoint
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = reference.encode(images).latent_dist.mean[:, :, None] * 0.18215
        torch.testing.assert_close(load_autoencoder(folder).encode(images[:, :, None]), expected)
        state = load_file(folder / "vae" / WEIGHTS)
        old = {"to_q": "query", "to_k": "key", "to_v": "value"}
        renamed = {}
        for key, value in state.items():
            key = key.replace("to_out.0", "proj_attn")
            renamed[".".join(old.get(part, part) for part in key.split("."))] = value
        save_file(renamed, folder / "vae" / WEIGHTS)
        torch.testing.assert_close(load_autoencoder(folder).encode(images[:, :, None]), expected)


def test_what_cannot_be_loaded_is_one_line_that_names_the_file(checkpoint, space, tmp_path):
    folder, *_ = checkpoint
    config_path = folder / "unet" / "config.json"
    config = json.loads(config_path.read_text())
    config_path.write_text(json.dumps({**config, "use_linear_projection": True}))
    with pytest.raises(ConfigError, match=r"config.json: use_linear_projection: True"):
        load_unet(folder)
    config_path.write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(ConfigError, match="is the checkpoint of this size"):
        load_unet(folder)
    (folder / "unet" / WEIGHTS).write_bytes(b"\0" * 40)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_unet(folder)
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match="no such file"):
        load_spatial_weights(build(space, space.architecture({})), folder)


def test_what_is_saved_is_a_diffusers_checkpoint(space, tmp_path):
    from diffusers import UNet2DConditionModel

    for backbone in (space.backbone, replace(space.backbone, mid=False, attention_levels=(0,), layers_per_block=2)):
        unet = UNet(backbone, 4, 12)
        reference = UNet2DConditionModel.from_pretrained(save_unet(unet, tmp_path / "unet"))
        x, timestep, text = torch.randn(2, 4, 8, 8), torch.tensor([5, 800]), torch.randn(2, 5, 12)
        with torch.no_grad():
            expected = reference(x, timestep, text).sample
            torch.testing.assert_close(unet(x, timestep, text), expected, rtol=1e-5, atol=1e-5)
        again = load_unet(tmp_path)
        assert again.config == backbone
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())


def test_a_text_embedding_survives_saving(space, tmp_path):
    unet = UNet(replace(space.backbone, text_tokens=5), 4, 12)
    again = load_unet(save_unet(unet, tmp_path))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())


def test_a_name_that_is_no_folder_says_how_to_get_the_files(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert checkpoint_folder(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match=r"Network is unreachable.*'hf download someone/model --include \"unet/"):
        checkpoint_folder("someone/model")
    with pytest.raises(ConfigError, match="no such checkpoint folder"):
        checkpoint_folder(tmp_path / "nowhere")


def sharded(folder: Path, name: str, index: str) -> None:
    """The plain weights of a folder in two files and an index."""
    state = load_file(folder / WEIGHTS)
    halves = {f"{name}-0000{i + 1}-of-00002.safetensors": dict(list(state.items())[i::2]) for i in range(2)}
    for file, part in halves.items():
        save_file(part, folder / file)
    shards = {key: file for file, part in halves.items() for key in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize(
    "name, index",
    [
        (STEM, f"{WEIGHTS}.index.json"),
        (f"{STEM}.fp16", f"{WEIGHTS}.index.fp16.json"),
        (None, f"{STEM}.fp16.safetensors"),
        (None, f"{STEM}.non_ema.safetensors"),
    ],
)
def test_shards_and_variants_are_read_as_the_hub_has_them(checkpoint, part, name, index):
    folder = checkpoint[0] / part
    load = load_unet if part == "unet" else load_autoencoder
    expected = load(folder).state_dict()
    if name is None:
        state = load_file(folder / WEIGHTS)
        save_file({key: value.half() for key, value in state.items()}, folder / index)
        (folder / WEIGHTS).unlink()
    else:
        sharded(folder, name, index)
    for key, value in load(folder).state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-3 if name is None else 0)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_what_the_hub_has_and_is_not_read_is_one_line(checkpoint, part):
    folder = checkpoint[0] / part
    load = load_unet if part == "unet" else load_autoencoder
    sharded(folder, STEM, index := f"{WEIGHTS}.index.json")
    gone = folder / f"{STEM}-00002-of-00002.safetensors"
    gone.rename(folder / f"{STEM}.fp16.bin")
    with pytest.raises(ConfigError, match=r"00002-of-00002\.safetensors: no such weights file"):
        load(folder)
    for value, words in (
        ([], "expected an object"),
        ({}, "weight_map"),
        ({"weight_map": {"a": "../a"}}, "is not a file name"),
    ):
        (folder / index).write_text(json.dumps(value))
        with pytest.raises(ConfigError, match=words):
            load(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"variant 'fp16'.*fp16\.bin.*safe_serialization"):
        load(folder)


@pytest.mark.parametrize(
    "part, field, value",
    [
        ("unet", "block_out_channels", None),
        ("unet", "block_out_channels", [-4, 8]),
        ("unet", "in_channels", 0),
        ("unet", "cross_attention_dim", "wide"),
        ("unet", "down_block_types", 3),
        ("unet", "norm_num_groups", 0),
        ("vae", "block_out_channels", [10**12, 10**12]),
        ("vae", "layers_per_block", 10**9),
        ("vae", "scaling_factor", 0),
        ("vae", "norm_num_groups", "x"),
    ],
)
def test_a_damaged_config_is_one_line_that_names_file_and_field(checkpoint, part, field, value):
    path = checkpoint[0] / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        (load_unet if part == "unet" else load_autoencoder)(checkpoint[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part, field, value",
    [
        ("unet", "act_fn", "gelu"),
        ("unet", "norm_eps", 1e-6),
        ("unet", "freq_shift", 1),
        ("unet", "out_channels", 8),
        ("unet", "only_cross_attention", True),
        ("unet", "num_class_embeds", 10),
        ("unet", "encoder_hid_dim", 64),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "_class_name", "UNet3DConditionModel"),
        ("unet", "a_key_of_later_versions", {"x": 1}),
        ("vae", "act_fn", "relu"),
        ("vae", "shift_factor", 0.0609),
        ("vae", "latents_mean", [0.0, 1.0, 0.0, 0.0]),
        ("vae", "latents_std", [1.0, 2.0, 1.0, 1.0]),
        ("vae", "use_quant_conv", False),
        ("vae", "out_channels", 4),
        ("vae", "up_block_types", ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "a_key_of_later_versions", True),
    ],
)
def test_a_feature_that_is_not_implemented_is_refused_by_name(checkpoint, part, field, value):
    """Ignored, the model would compute something else than the one that was trained."""
    path, load = checkpoint[0] / part / "config.json", load_unet if part == "unet" else load_autoencoder
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, field: value}))
    with pytest.raises(ConfigError, match=rf"{part}/config\.json: {field}: .*"):
        load(checkpoint[0])
    path.write_text(json.dumps({**config, "a_key_of_later_versions": None, "sample_size": 8, "_name_or_path": "x"}))
    load(checkpoint[0])


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_with_nan_are_refused(checkpoint, part):
    folder = checkpoint[0] / part
    state = load_file(folder / WEIGHTS)
    state["conv_out.bias" if part == "unet" else "decoder.conv_out.bias"][0] = float("nan")
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"conv_out\.bias' holds NaN"):
        (load_unet if part == "unet" else load_autoencoder)(folder)
