"""Checkpoints with random weights, so that an architecture can be tried on a device before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nas import checkpoint as checkpoints
from nas.checkpoint import CheckpointInfo
from nas.errors import ConfigError, MissingDependency, SpaceError
from nas.models import Autoencoder, build
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Architecture, SearchSpace, Text, TextEncoder

BYTES_AND_SPECIAL = 260
"""Tokens of the stand-in tokenizer: 256 bytes, padding, unknown, start and end."""


def random_checkpoint(
    space: SearchSpace, architecture: Architecture, folder: Path, seed: int = 0, needs_text: bool = True
) -> Path:
    """Write the checkpoint of an architecture with random weights, for four sampling steps without guidance.

    The autoencoder is the space's. So is the text encoder; if it is not installed, a random one of the same size takes its
    place, with a tokenizer of bytes.

    Args:
        folder: an empty folder; the checkpoint is its `checkpoint`.
        seed: of the weights.
        needs_text: whether the text encoder is exported too.

    Returns:
        The checkpoint's folder.

    Raises:
        SpaceError: the architecture belongs to another space, or the space has no backbone.
        ConfigError, MissingDependency: the text encoder is not installed, and the space does not state its size.
    """
    space.check(architecture)
    encoder = space.text.encoder if space.text else ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser, autoencoder = build(space, architecture), Autoencoder(space.autoencoder)
        for module in (denoiser, autoencoder):
            fill_zeros(module)
        if needs_text:
            space = _with_text_encoder(space, folder / "text")
    if space.text and space.text.encoder != encoder:
        encoder = f"random: '{encoder}' is not installed"
    architecture = space.architecture(architecture.choices)
    checkpoints.save_autoencoder(folder / "decoder", autoencoder)
    info = CheckpointInfo(checkpoints.RANDOM, steps=4, guidance=1.0, text_encoder=encoder)
    return checkpoints.save(folder / "checkpoint", denoiser.state_dict(), space, architecture, folder / "decoder", info)


def fill_zeros(module: nn.Module) -> None:
    """Draw the weights that training starts at zero, since what they multiply would not be computed or compared."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def _with_text_encoder(space: SearchSpace, folder: Path) -> SearchSpace:
    """The space, or one with a random text encoder if its own cannot be loaded."""
    if space.text is None:
        raise SpaceError(f"search space '{space.name}' has no text; an export needs a text encoder")
    try:
        PromptEncoder(space.text).load()
        return space
    except (ConfigError, MissingDependency):
        if space.text_encoder is None:
            raise
    _save_random_encoder(space.text, space.text_encoder, folder)
    return replace(space, text=replace(space.text, encoder=str(folder)))


def _save_random_encoder(text: Text, part: TextEncoder, folder: Path) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    family = {"bert": "Bert", "clip": "CLIPText"}[part.kind]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=max(part.vocabulary, BYTES_AND_SPECIAL),
        hidden_size=text.dim,
        intermediate_size=4 * text.dim,
        num_hidden_layers=part.layers,
        num_attention_heads=part.heads,
        max_position_embeddings=text.tokens,
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    alphabet = ["[PAD]", "[UNK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[], unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
