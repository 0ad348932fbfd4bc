"""A tiny space and a decoder stage on moving digits that the stages' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nas
from nas import checkpoint
from nas.models import Autoencoder, VAEConfig
from nas.training import DecoderConfig, DistillConfig, FinetuneConfig, Inputs, run_stage
from tests.support.exported import built_once

SPACE = """
name: tiny
latent: {channels: 4, frames: 8, height: 8, width: 8}
text: {tokens: 16, dim: 384}
backbone: {channels: [16, 16], attention_levels: [1], heads: 2, norm_groups: 8}
operators:
  none:
  Conv1D: {}
  SelfAttention1D: {heads: 2}
only_sites: [down.0.0, mid.0, up.1.1]
"""


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> nas.SearchSpace:
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(SPACE)
    return nas.SearchSpace.load(path)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory, space: nas.SearchSpace) -> Path:
    """The folder of a finished decoder stage: a real classifier, an autoencoder hardly trained, few latents."""
    return built_once(tmp_path_factory, "decoder-stage", _decoder_stage) / "decoder"


def _decoder_stage(folder: Path) -> None:
    path = folder / "space.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(SPACE)
    space = nas.SearchSpace.load(path)
    torch.set_num_threads(1)
    config = DecoderConfig(
        steps=10, batch=4, channels=(8, 16, 16), videos=80, images=40, held_out=16, classifier_steps=20
    )
    run_stage("decoder", folder / "decoder", config, Inputs(space))


@pytest.fixture(scope="session")
def finetuned(space: nas.SearchSpace, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Inputs of the stage `adversarial`: a model that was trained for two steps."""
    root = tmp_path_factory.mktemp("finetuned")
    torch.set_num_threads(1)
    config = DistillConfig(steps=2, batch=4, validation=4)
    start = run_stage("distill", root / "distill", config, Inputs(space, decoder)).folder
    config = FinetuneConfig(steps=2, batch=4, image_batch_size=4, validation=4, eval_steps=())
    inputs = Inputs(space, decoder, start, space.architecture({"mid.0/0": "SelfAttention1D"}))
    return Inputs(space, decoder, run_stage("finetune", root / "finetune", config, inputs).folder)


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained autoencoder of color clips that fits the space."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    config = VAEConfig((8, 16, 16), norm_groups=8, mid_attention=False)
    checkpoint.save_autoencoder(folder, Autoencoder(config))
    return folder
