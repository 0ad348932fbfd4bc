"""A decoder distilled from a public autoencoder: it trains, keeps the normalization, and decodes in the pipeline."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import nas
from nas import checkpoint, config
from nas.data import video_writer
from nas.data.latent_cache import LatentCache
from nas.diffusion.sampling import generate
from nas.errors import ConfigError, MissingDependency
from nas.export import parts
from nas.export.describe import describe, save_tokenizer
from nas.exported.app import App
from nas.files import read_json
from nas.models import Autoencoder, build
from nas.models.autoencoder import PublicAutoencoder
from nas.models.diffusers_checkpoint import load_public
from nas.models.safetensors_io import load
from nas.models.text_encoder import PromptEncoder
from nas.training.recipe import train
from nas.training.stages.decoder_distillation import DecoderStudent, distillation_losses
from nas.training.stages.prepare import PrepareConfig, prepare
from tests.support.clip_files import write_clip
from tests.support.exported import text_encoder
from tests.support.public_autoencoders import KINDS, tiny

SPACE = """
name: tiny
clip: {frames: 5, fps: 8, height: 32, width: 32}
autoencoder: {from: vae, channels: [8, 8, 16], norm_groups: 4, mid_attention: false}
text: {tokens: 12, dim: 32, encoder: TEXT}
backbone: {channels: [8, 8], heads: 2, norm_groups: 4}
operators: {none: , Conv1D: }
only_sites: [mid.0]
"""
STEPS = 30


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A recipe that distills a decoder, with its space, its clips and a public autoencoder."""
    folder = tmp_path_factory.mktemp("project")
    for split, count in (("train", 3), ("test", 1)):
        (folder / "clips" / split).mkdir(parents=True)
        for i in range(count):
            write_clip(folder / "clips" / split / f"{i}.mp4", frames=5, height=32, width=32)
        lines = "".join(f"{i}.mp4,the digit {i}\n" for i in range(count))
        (folder / "clips" / split / "metadata.csv").write_text(f"file_name,text\n{lines}")
    tiny("AutoencoderKLWan").save_pretrained(folder / "vae")
    (folder / "space.yaml").write_text(SPACE.replace("TEXT", str(text_encoder(folder / "text"))))
    write_recipe(folder)
    return folder


def write_recipe(folder, name="recipe.yaml", **options):
    stage = {"data": "clips", "steps": STEPS, "batch": 2, "held_out": 1, "optimization": {"lr": 1e-2}, **options}
    (folder / name).write_text(yaml.safe_dump({"space": "space.yaml", "stages": {"decoder": stage}}))
    return folder / name


@pytest.fixture(scope="module")
def distilled(project):
    return train("decoder", project / "recipe.yaml", project / "run")


def clips_of(folder, space, decoder, prompt):
    """The checkpoint of an untrained denoiser on a decoder stage's folder, and a clip by it."""
    architecture = space.random(seed=0)
    torch.manual_seed(0)
    info = checkpoint.CheckpointInfo("finetune", steps=2, guidance=1.0, text_encoder=space.text.encoder)
    weights = build(space, architecture).state_dict()
    pipeline = nas.Pipeline.from_pretrained(checkpoint.save(folder, weights, space, architecture, decoder, info))
    loaded = pipeline.checkpoint
    context = PromptEncoder(space.text)([prompt])
    with torch.no_grad():
        latents = generate(loaded.denoiser, context, context, space.input_shape()[1:], 2, 1.0, seed=3)
    return loaded, latents, pipeline(prompt, seed=3)


def test_the_losses_fall_and_only_the_decoder_is_kept(project, distilled):
    with open(distilled.folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "features"):
        values = [float(row[name]) for row in rows]
        assert np.mean(values[-5:]) < 0.5 * np.mean(values[:5]), name
    made = read_json(distilled.folder / "decoder.json", "decoder")
    assert made["encoder"] == str(project / "vae") and made["latents_std"] == [0.5, 1.0, 1.5, 2.0]
    names = load(distilled.folder / "decoder.safetensors")
    assert {name.split(".")[0] for name in names} == {"decoder", "post_quant_conv"}
    assert {"psnr_db", "ssim"} == distilled.metrics["public"].keys() and distilled.metrics["psnr_db"] > 0


def test_the_data_are_encoded_by_the_public_autoencoder(project, distilled):
    teacher, made = load_public(project / "vae"), checkpoint.load_autoencoder(distilled.folder)
    cache = LatentCache(distilled.folder / "train")
    latents, _ = cache.latents("videos", [0])
    video = teacher.decode(torch.randn(1, 4, 2, 8, 8))
    torch.testing.assert_close(made.encode(video), teacher.encode(video))
    assert latents.shape == (1, 4, 2, 8, 8)
    frames = torch.arange(5.0)[:, None, None].expand(5, 32, 32) * 10 / 127.5 - 1  # what write_clip draws
    error = (latents - teacher.encode(frames.expand(1, 3, -1, -1, -1))).abs().max()
    assert error < 0.1


def test_the_pipeline_decodes_with_it_and_reverts_the_normalization(project, distilled, tmp_path):
    space = nas.SearchSpace.load(project / "space.yaml")
    loaded, latents, clips = clips_of(tmp_path, space, distilled.folder, "the digit 1")
    made = loaded.autoencoder.config
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (made.latents_mean, made.latents_std))
    expected = loaded.autoencoder.decode_unscaled(latents * std + mean)
    assert clips.frames.shape == (1, 5, 32, 32, 3)
    assert np.abs(clips.frames.astype(int) - video_writer.to_uint8(expected.numpy())).max() <= 1
    whole = parts.decoder(loaded)
    torch.testing.assert_close(whole.module(latents), expected)
    run = parts.decoder(dataclasses.replace(loaded, space=in_runs_of_one_frame(space)))
    state = {name: x for name, x in run.inputs.items() if name != "latents"}
    torch.testing.assert_close(run.module(latents[:, :, :1], **state)["video"][:, :, 3:], expected[:, :, :1])


def test_export_json_states_the_normalization(project, distilled, tmp_path):
    space = nas.SearchSpace.load(project / "space.yaml")
    loaded, _, _ = clips_of(tmp_path, space, distilled.folder, "the digit 1")
    files = {name: tmp_path / f"{name}.tflite" for name in ("denoiser", "decoder", "text_encoder")}
    for path in files.values():
        path.touch()
    tokenizer = save_tokenizer(space.text, tmp_path / "tokenizer")
    app = describe(loaded, tmp_path, files, "float32", dict.fromkeys(files, 32), tokenizer)
    assert app.latents.mean == (0.1, -0.2, 0.3, -0.4) and app.latents.std == (0.5, 1.0, 1.5, 2.0)
    assert config.build(App, json.loads(json.dumps(dataclasses.asdict(app))), "export.json") == app


def in_runs_of_one_frame(space):
    return dataclasses.replace(space, decoder=dataclasses.replace(space.decoder, frames=1))


def test_a_finished_stage_is_that_of_the_same_public_autoencoder(project, distilled):
    assert train("decoder", project / "recipe.yaml", project / "run").metrics == distilled.metrics
    other = tiny("AutoencoderKLWan")
    other.quant_conv.bias += 1
    (project / "vae").rename(project / "first")
    try:
        other.save_pretrained(project / "vae")
        with pytest.raises(ConfigError, match=r"started with another config\.encoder_hash"):
            train("decoder", project / "recipe.yaml", project / "run")
    finally:
        (project / "vae").rename(project / "other")
        (project / "first").rename(project / "vae")


def test_the_public_decoder_may_also_decode_in_the_pipeline(project, tmp_path):
    space = nas.SearchSpace.load(project / "space.yaml")
    done = prepare(tmp_path / "encoded", PrepareConfig(str(project / "clips"), str(project / "vae")), space)
    assert done.metrics["videos"] == 3
    loaded, latents, clips = clips_of(tmp_path / "saved", space, done.folder, "the digit 2")
    assert isinstance(loaded.autoencoder, PublicAutoencoder)
    expected = load_public(project / "vae").decode(latents).numpy()
    assert np.abs(clips.frames.astype(int) - video_writer.to_uint8(expected)).max() <= 1
    with pytest.raises(ConfigError, match="AutoencoderKLWan, which is not exported") as error:
        parts.decoder(loaded)
    assert "\n" not in str(error.value)


def test_another_public_autoencoder_than_the_declared_one_does_not_prepare(project, tmp_path):
    tiny("AutoencoderTiny").save_pretrained(tmp_path / "vae")
    space = nas.SearchSpace.load(project / "space.yaml")
    with pytest.raises(ConfigError, match=r"another autoencoder \(AutoencoderTiny, 4 channels"):
        prepare(tmp_path / "out", PrepareConfig(str(project / "clips"), str(tmp_path / "vae")), space)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_every_class_are_compared(kind, tmp_path):
    tiny(kind).save_pretrained(tmp_path)
    teacher = load_public(tmp_path)
    vae = nas.models.VAEConfig(
        (8, 8, 16),
        norm_groups=4,
        mid_attention=False,
        temporal_compression=teacher.config.temporal_compression,
        encoder=str(tmp_path),
    )
    latents = torch.randn(2, 4, 7, 4, 4)  # more latent frames than HunyuanVideo decodes in one part
    student = DecoderStudent(Autoencoder(vae, teacher), teacher, latents[:1])
    assert len(student.blocks) >= 3 and student.blocks[0][0] == 0
    losses = distillation_losses(student, teacher, latents)
    (losses["output"] + losses["features"]).backward()
    assert losses["clip"].shape == losses["target"].shape and not losses["target"].requires_grad
    assert all(p.grad is not None for name, p in student.named_parameters() if "decoder.conv_in" in name)


class FakeLPIPS(nn.Module):
    def __init__(self, net, verbose):
        super().__init__()

    def forward(self, a, b):
        assert a.shape == b.shape and a.shape[1] == 3 and a.dim() == 4
        return (a - b).abs().mean((1, 2, 3), keepdim=True)


def test_lpips_is_added_if_it_is_asked_for(project, monkeypatch):
    recipe = write_recipe(project, "lpips.yaml", steps=1, lpips=0.5)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingDependency, match=r"pip install 'nas-video\[lpips\]'"):
        train("decoder", recipe, project / "without")
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=FakeLPIPS))
    done = train("decoder", recipe, project / "with")
    with open(done.folder / "history.csv") as file:
        assert float(next(csv.DictReader(file))["lpips"]) > 0
    space = (project / "space.yaml").read_text().replace("from: vae", "spatial_compression: 4")
    (project / "own.yaml").write_text(space)
    recipe.write_text(recipe.read_text().replace("space.yaml", "own.yaml"))
    with pytest.raises(ConfigError, match=r"decoder.lpips: 0.5 is for distillation"):
        train("decoder", recipe, project / "own")


def test_image_steps_are_refused_where_only_the_decoder_is_trained(project):
    with pytest.raises(ConfigError, match=r"decoder.image_steps: 2 is for an autoencoder that is trained whole"):
        train("decoder", write_recipe(project, "images.yaml", steps=4, image_steps=2), project / "images")
