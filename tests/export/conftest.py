"""A checkpoint that converts quickly and in which conversion faults change the outputs."""

import dataclasses
import shutil

import pytest
import torch

from nas import checkpoint
from nas.models import Autoencoder, build
from nas.spaces import Backbone, SearchSpace


@pytest.fixture(scope="session")
def small_checkpoint(tiny_checkpoint, tmp_path_factory):
    """A one-level denoiser, the tiny checkpoint's decoder, and a text encoder whose attention affects its output."""
    tiny = checkpoint.load(tiny_checkpoint)
    folder = tmp_path_factory.mktemp("small")
    backbone = Backbone(
        (16,), attention_levels=(0,), heads=2, norm_groups=8, mid=False, text_tokens=tiny.space.text.tokens
    )
    kinds = ("SelfAttention3D", "Conv1D", "Conv3D")
    slots = {f"{site}/0": ["none", *kinds] for site in backbone.sites(tiny.space.latent)}
    text = dataclasses.replace(tiny.space.text, encoder=str(_text_encoder(tiny.space.text.encoder, folder / "text")))
    space = SearchSpace("small", slots, tiny.space.operators, backbone, tiny.space.latent, text, fps=12.0)
    arch = space.architecture(dict(zip(slots, kinds)))
    torch.manual_seed(0)
    denoiser = build(space, arch)
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    denoiser.text_embedding.mean.copy_(torch.randn_like(denoiser.text_embedding.mean))  # as after training
    decoder = Autoencoder(dataclasses.replace(tiny.autoencoder.config, scaling_factor=0.5))
    decoder.load_state_dict(tiny.autoencoder.state_dict())
    checkpoint.save_autoencoder(folder / "decoder", decoder)
    info = dataclasses.replace(tiny.info, text_encoder=text.encoder)
    return checkpoint.save(folder / "checkpoint", denoiser.state_dict(), space, arch, folder / "decoder", info)


def _text_encoder(source, folder):
    """The tiny text encoder with larger attention weights; BERT's initial attention is almost uniform."""
    from transformers import BertModel

    shutil.copytree(source, folder)
    model = BertModel.from_pretrained(source)
    for name, parameter in model.named_parameters():
        if "attention" in name and name.endswith("weight") and parameter.ndim == 2:
            parameter.data *= 15
    model.save_pretrained(folder)
    return folder
