"""Checkpoints as diffusers itself writes them."""

import json
from dataclasses import replace

import pytest
import torch
from test_autoencoder import diffusers_autoencoder
from test_backbone import diffusers_unet

from nas.errors import ConfigError
from nas.files import write_json
from nas.models import UNet, VAEConfig, build
from nas.models.checkpoints import (
    WEIGHTS,
    checkpoint_folder,
    load_autoencoder,
    load_spatial_weights,
    load_unet,
    prediction,
    save_unet,
)


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
    from safetensors.torch import load_file, save_file

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
    with pytest.raises(ConfigError, match="does not fit the backbone"):
        load_unet(folder)
    (folder / "unet" / WEIGHTS).write_bytes(b"\0" * 40)
    with pytest.raises(ConfigError, match="not a safetensors file"):
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


def test_the_scheduler_says_what_is_predicted(tmp_path):
    assert prediction(tmp_path) == "epsilon"
    for kind, name in (("epsilon", "epsilon"), ("v_prediction", "v")):
        write_json(tmp_path / "scheduler" / "scheduler_config.json", {"prediction_type": kind})
        assert prediction(tmp_path) == name
    write_json(tmp_path / "scheduler" / "scheduler_config.json", {"prediction_type": "sample"})
    with pytest.raises(ConfigError, match="prediction_type: 'sample' is not known"):
        prediction(tmp_path)


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
