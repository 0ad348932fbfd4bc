"""Public autoencoders run through diffusers: as diffusers itself, with its normalization, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas import checkpoint
from nas.errors import ConfigError, SpaceError
from nas.models.autoencoder import PublicAutoencoder, decode_chunks, encode_clips, public
from nas.models.diffusers_checkpoint import WEIGHTS, load_public
from tests.support.public_autoencoders import KINDS, tiny

IMAGES = ("AutoencoderKL", "AutoencoderTiny")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each class's folder and its model in diffusers."""
    root, models = tmp_path_factory.mktemp("public"), {}
    for kind in KINDS:
        model = tiny(kind)
        model.save_pretrained(root / kind)
        models[kind] = (root / kind, model)
    return models


@pytest.fixture
def change(saved, tmp_path):
    """Writes a class's folder with changed keys of the config; the weights stay where they are."""

    def write(kind, **keys):
        folder = saved[kind][0]
        (tmp_path / WEIGHTS).symlink_to(folder / WEIGHTS)
        config = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **keys}))
        return tmp_path

    return write


def by_channel(values):
    return torch.as_tensor(values)[:, None, None, None]


def expected_latents(kind, model, video):
    """As diffusers' pipelines for the class encode and normalize."""
    config = model.config
    if kind in IMAGES:
        encoded = [model.encode(frame) for frame in video.transpose(1, 2).flatten(0, 1).split(1)]
        frames = torch.cat([e.latents if kind == "AutoencoderTiny" else e.latent_dist.mean for e in encoded])
        z = frames.unflatten(0, (len(video), -1)).transpose(1, 2)
        return (z - config.shift_factor) * config.scaling_factor
    z = model.encode(video).latent_dist.mean
    if kind == "AutoencoderKLWan":
        return (z - by_channel(config.latents_mean)) * (1 / by_channel(config.latents_std))
    if kind == "AutoencoderKLLTXVideo":
        return (z - by_channel(model.latents_mean)) * config.scaling_factor / by_channel(model.latents_std)
    return z * config.scaling_factor


def expected_clip(kind, model, latents):
    config = model.config
    if kind in IMAGES:
        z = latents / config.scaling_factor + config.shift_factor
        frames = torch.cat([model.decode(frame).sample for frame in z.transpose(1, 2).flatten(0, 1).split(1)])
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)
    if kind == "AutoencoderKLWan":
        return model.decode(latents / (1 / by_channel(config.latents_std)) + by_channel(config.latents_mean)).sample
    if kind == "AutoencoderKLLTXVideo":
        z = latents * by_channel(model.latents_std) / config.scaling_factor + by_channel(model.latents_mean)
        return model.decode(z, torch.zeros(len(z))).sample
    return model.decode(latents / config.scaling_factor).sample


@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_clips_are_those_of_diffusers(saved, kind, frames):
    folder, model = saved[kind]
    autoencoder = checkpoint.load_autoencoder(folder)
    assert isinstance(autoencoder, PublicAutoencoder)
    compression = 1 if kind in IMAGES else 4
    assert (autoencoder.config.temporal_compression, autoencoder.config.downsampling) == (compression, 4)
    video = torch.rand(2, 3, frames, 16, 24) * 2 - 1
    latents = encode_clips(autoencoder, video)
    assert latents.shape == (2, 4, (frames - 1) // compression + 1, 4, 6)
    torch.testing.assert_close(latents, expected_latents(kind, model, video), rtol=1e-5, atol=1e-5)
    clip = torch.cat(list(decode_chunks(autoencoder, latents)), dim=2)
    assert clip.shape == video.shape
    torch.testing.assert_close(clip, expected_clip(kind, model, latents), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_space_takes_its_latents_from_the_config(saved, kind, tmp_path):
    path = tmp_path / "space.yaml"
    folder = saved[kind][0]
    options = "channels: [8, 8, 16], norm_groups: 4, mid_attention: false"
    clip = "{frames: 9, fps: 8, height: 32, width: 64}"
    path.write_text(space_text(f"{{from: '{folder}', {options}}}", clip))
    space = nas.SearchSpace.load(path)
    frames = 9 if kind in IMAGES else 3
    assert space.input_shape() == (1, 4, frames, 8, 16) and space.clip.frames == 9
    assert space.autoencoder.encoder == str(folder) and space.autoencoder.channels == (8, 8, 16)
    assert nas.SearchSpace.load(space.save(tmp_path / "again.yaml")).decoder == space.decoder
    space.decoder_workload()
    path.write_text(space_text(f"{{from: '{folder}', {options}, temporal_compression: 8}}", clip))
    with pytest.raises(
        SpaceError, match=r"space.yaml:\d+: autoencoder.temporal_compression: 8, but that of .* is [14]"
    ):
        nas.SearchSpace.load(path)


def space_text(autoencoder, clip="{frames: 9, fps: 8, height: 32, width: 32}"):
    return f"""
name: public
clip: {clip}
autoencoder: {autoencoder}
text: {{tokens: 16, dim: 384}}
backbone: {{channels: [16, 16], attention_levels: [1], heads: 2, norm_groups: 8}}
operators: {{none: , Conv1D: {{}}}}
only_sites: [mid.0]
"""


def test_a_folder_is_relative_to_the_file_and_widths_are_stable_diffusions(saved, tmp_path):
    folder = tmp_path / "models" / "vae"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((saved["AutoencoderKLWan"][0] / "config.json").read_text())
    (tmp_path / "space.yaml").write_text(space_text("{from: models}"))
    space = nas.SearchSpace.load(tmp_path / "space.yaml")
    assert space.autoencoder.encoder == str(folder) and space.autoencoder.channels == (128, 256, 512)


@pytest.mark.parametrize(
    ("autoencoder", "words"),
    [
        ("{from: nowhere}", "nowhere: contains no autoencoder"),
        ("{from: OWNER/NAME}", "OWNER/NAME: no such folder, and the download from the Hub failed .no network."),
        ("{from: FOLDER, scaling_factor: 2}", "scaling_factor: is that of"),
        ("{from: FOLDER, channels: [8, 8, 8, 8], norm_groups: 4}", "4 levels of channels compress by 8"),
        ("{encoder: FOLDER, channels: [32]}", "give the public autoencoder as 'from'"),
    ],
)
def test_a_wrong_key_is_one_line(saved, tmp_path, monkeypatch, autoencoder, words):
    import huggingface_hub

    def unreachable(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    text = space_text(autoencoder.replace("FOLDER", str(saved["AutoencoderKLWan"][0])))
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(SpaceError, match=words) as error:
        nas.SearchSpace.load(tmp_path / "space.yaml")
    assert "space.yaml:4" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((kind, "a_key_of_later_versions", True) for kind in KINDS),
        *((kind, "out_channels", 4) for kind in KINDS),
        ("AutoencoderKL", "_class_name", "AutoencoderDC"),
        ("AutoencoderKL", "latents_mean", [0.0, 1.0, 0.0, 0.0]),
        ("AutoencoderKL", "latents_std", [1.0, 2.0]),
        ("AutoencoderKL", "scaling_factor", 0),
        ("AutoencoderTiny", "upsampling_scaling_factor", 3),
        ("AutoencoderTiny", "latents_mean", [0.0, 1.0, 0.0, 0.0]),
        ("AutoencoderKLWan", "latents_std", [1.0, 2.0]),
        ("AutoencoderKLWan", "temperal_downsample", [True, False]),
        ("AutoencoderKLWan", "scaling_factor", 0.5),
        ("AutoencoderKLCogVideoX", "invert_scale_latents", True),
        ("AutoencoderKLCogVideoX", "use_quant_conv", True),
        ("AutoencoderKLCogVideoX", "temporal_compression_ratio", 3),
        ("AutoencoderKLHunyuanVideo", "temporal_compression_ratio", 8),
        ("AutoencoderKLHunyuanVideo", "shift_factor", 0.5),
        ("AutoencoderKLLTXVideo", "decoder_inject_noise", [True, False, False, False]),
        ("AutoencoderKLLTXVideo", "patch_size_t", 2),
        ("AutoencoderKLLTXVideo", "decoder_spatio_temporal_scaling", [True, False, False]),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(change, kind, key, value):
    folder = change(kind, **{key: value})
    name = "num_decoder_blocks" if key == "upsampling_scaling_factor" else key
    for load in (load_public, checkpoint.load_autoencoder):
        with pytest.raises(ConfigError, match=name) as error:
            load(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_mean_and_std_of_autoencoderkl_are_applied(change, saved):
    """As Stable Diffusion XL's pipeline does for Playground's."""
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    folder = change("AutoencoderKL", shift_factor=None, latents_mean=mean, latents_std=std)
    autoencoder, (_, model) = checkpoint.load_autoencoder(folder), saved["AutoencoderKL"]
    image = torch.rand(1, 3, 1, 16, 16)
    z = model.encode(image[:, :, 0]).latent_dist.mean[:, :, None]
    latents = autoencoder.encode(image)
    torch.testing.assert_close(latents, (z - by_channel(mean)) * 0.36 / by_channel(std))
    torch.testing.assert_close(autoencoder.decode(latents)[:, :, 0], model.decode(z[:, :, 0]).sample)


def test_weights_that_do_not_fit_are_one_line(saved, tmp_path):
    folder, model = saved["AutoencoderKLWan"]
    model.save_pretrained(tmp_path)
    state = load_file(folder / WEIGHTS)
    removed = {name: value for name, value in state.items() if name != "quant_conv.bias"}
    for weights, words in ((removed, "lacks 'quant_conv.bias'"), (None, "no such file")):
        save_file(weights, tmp_path / WEIGHTS) if weights else (tmp_path / WEIGHTS).unlink()
        with pytest.raises(ConfigError, match=words) as error:
            checkpoint.load_autoencoder(tmp_path)
        assert "\n" not in str(error.value)


def test_half_precision_weights_run_in_float32(saved, tmp_path):
    folder, model = saved["AutoencoderKLWan"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(state, tmp_path / WEIGHTS.replace(".safetensors", ".fp16.safetensors"))
    video = torch.rand(1, 3, 5, 16, 16)
    expected = expected_latents("AutoencoderKLWan", model, video)
    torch.testing.assert_close(load_public(tmp_path).encode(video), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in IMAGES])
def test_a_clip_without_latents_is_one_line(saved, kind):
    with pytest.raises(ConfigError, match=r"a clip of 8 frames: .* encodes 1 \+ a multiple of 4"):
        encode_clips(load_public(saved[kind][0]), torch.zeros(1, 3, 8, 16, 16))


def test_cogvideox_decodes_an_odd_number_of_latent_frames(saved):
    autoencoder = load_public(saved["AutoencoderKLCogVideoX"][0])
    assert autoencoder.decode(torch.zeros(1, 4, 3, 4, 4)).shape[2] == 9
    with pytest.raises(ConfigError, match="use a clip of 1 or 9 frames"):
        autoencoder.decode(torch.zeros(1, 4, 2, 4, 4))


def test_long_clips_are_encoded_in_parts(saved, monkeypatch):
    """Images a few at a time; Wan and CogVideoX exactly, HunyuanVideo blended, as diffusers does by itself."""
    video = torch.rand(1, 3, 33, 16, 16)
    seen = []
    monkeypatch.setattr(public, "MAX_PIXELS", 2 * 16 * 16)
    for kind in ("AutoencoderKL", "AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo"):
        folder, model = saved[kind]
        autoencoder = load_public(folder)
        entry = autoencoder.model.encoder
        seen.clear()
        hook = entry.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
        latents = encode_clips(autoencoder, video)
        hook.remove()
        longest = max(shape[0] if kind == "AutoencoderKL" else shape[2] for shape in seen)
        assert longest == {"AutoencoderKL": 2, "AutoencoderKLWan": 4, "AutoencoderKLCogVideoX": 9}.get(kind, 17)
        torch.testing.assert_close(latents, expected_latents(kind, model, video), rtol=1e-5, atol=1e-5)


def test_a_public_autoencoder_is_saved_with_what_uses_it(saved, tmp_path):
    for kind in ("AutoencoderKLLTXVideo", "AutoencoderTiny"):
        autoencoder = load_public(saved[kind][0])
        checkpoint.save_autoencoder(tmp_path / kind, autoencoder)
        again = checkpoint.load_autoencoder(tmp_path / kind)
        assert again.config == autoencoder.config
        assert checkpoint.autoencoder_hash(tmp_path / kind)
        latents = torch.randn(1, 4, 1, 4, 4)
        torch.testing.assert_close(again.decode(latents), autoencoder.decode(latents))
