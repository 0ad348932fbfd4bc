"""The three modules of a pipeline to export (denoiser, decoder, text encoder), each with example inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.checkpoint import Checkpoint
from nas.errors import ConfigError
from nas.models import Autoencoder
from nas.models.autoencoder import DecoderRun, PublicAutoencoder
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Text

PROMPTS = (
    "a cat runs",
    "the digit three moves left",
    "a red balloon rises over a quiet lake at dawn, seen from a slowly turning camera, with hills in the mist behind it",
    "five",
    "",
)
"""Prompts for comparing exported text encoders with torch: several lengths, including a truncated and an empty one."""

PREDICTIONS = {
    "flow": ("velocity", "the velocity of rectified flow at x for timestep 1000 t, t from 1 (noise) to 0"),
    "epsilon": ("noise", "the noise in x at a timestep of Stable Diffusion's schedule, from 999 down to 0"),
    "v": (
        "v",
        "v, sqrt(a) noise - sqrt(1 - a) clean, at a timestep of Stable Diffusion's schedule, from 999 down to 0",
    ),
}
"""By prediction type: name and description of the denoiser's output."""


@dataclass(frozen=True)
class Part:
    """One module to export.

    Attributes:
        name: file name without suffix.
        inputs: example tensors by argument name of `forward`; integer inputs are int32.
        output: name of the output, the first if there are several.
        more_outputs: names of the others, which the module returns in a dict with the first.
        description: written into the package's metadata.
        float32_residual: whether Core ML keeps layer norms and the sums before them float32, see `to_coreml`.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    description: str
    float32_residual: bool = False
    more_outputs: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output, *self.more_outputs)


def denoiser(checkpoint: Checkpoint) -> Part:
    """One denoising step: `x (B, C, T, H, W)`, `timestep (1,)`, `context (B, tokens, dim)` -> a prediction like `x`."""
    space = checkpoint.space
    inputs = {
        "x": torch.zeros(space.input_shape()),
        "timestep": torch.zeros(1),
        "context": torch.zeros(space.context_shape()),
    }
    output, description = PREDICTIONS[checkpoint.info.objective]
    return Part("denoiser", checkpoint.denoiser, inputs, output, f"One step of a video denoiser: {description}.")


def decoder(checkpoint: Checkpoint) -> Part:
    """What the lookup table's row of the decoder measures: the whole clip, or a part of it with the state of the rest.

    `latents (1, C, T, h, w)` -> `video (1, image channels, F, H, W)` in [-1, 1]. If the search space sets
    `decoder.frames` below the clip's length, that many latent frames, and the state as further inputs and outputs, see
    `nas.models.autoencoder.DecoderRun`.

    Raises:
        ConfigError: the checkpoint's autoencoder is a public one, run through diffusers.
    """
    if isinstance(checkpoint.autoencoder, PublicAutoencoder):
        raise ConfigError(
            f"{checkpoint.folder}: decodes with diffusers' {checkpoint.autoencoder.config.kind}, which is not exported; train "
            "on the stage 'decoder' of a search space with 'autoencoder: {from: ...}', which distills a decoder for phones"
        )
    _, *shape = checkpoint.space.input_shape()
    runs = max(1, checkpoint.space.decoder_runs)
    shape[1] //= runs
    inputs = {"latents": torch.zeros(1, *shape)}
    if runs == 1:
        whole = DecodeLatents(checkpoint.autoencoder)
        return Part("decoder", whole, inputs, "video", "Latents to pixels in [-1, 1].")
    run = DecoderRun(checkpoint.autoencoder)
    state = run.initial_state(1, *shape[2:])
    described = "Part of a clip's latents to pixels in [-1, 1]; outputs NAME_out are the next part's inputs NAME."
    outputs = tuple(f"{name}_out" for name in state)
    return Part("decoder", run, {**inputs, **state}, "video", described, more_outputs=outputs)


def text_encoder(checkpoint: Checkpoint) -> Part:
    """`input_ids (1, tokens)`, `attention_mask (1, tokens)`, as the tokenizer gives them -> `context (1, tokens, dim)`.

    Raises:
        MissingDependency: the encoder is not installed.
    """
    text = checkpoint.space.text
    tokenizer, model = PromptEncoder(text).load()
    return Part(
        "text_encoder",
        EncodeText(model),
        token_inputs(text, PROMPTS[0], tokenizer),
        "context",
        "Tokens of a caption to the context.",
        float32_residual=True,
    )


class DecodeLatents(nn.Module):
    """`Autoencoder.decode` as a module."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


class EncodeText(nn.Module):
    """A transformers text encoder with an explicit 4D attention mask, whose construction converters do not support.

    Args:
        model: a bidirectional encoder (BERT) or a causal one (CLIP's).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.causal = model, "clip" in model.config.model_type

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        length = input_ids.shape[1]
        masked = (1 - attention_mask)[:, None, None, :].expand(-1, 1, length, -1)
        if self.causal:  # attends to padding, as `PromptEncoder` does
            masked = torch.maximum(0 * masked, torch.ones(length, length, dtype=masked.dtype).triu(1))
        return self.model(input_ids=input_ids, attention_mask=masked * -1e4).last_hidden_state


def token_inputs(text: Text, prompt: str, tokenizer: Any = None) -> dict[str, Tensor]:
    """Tokenize a prompt: `input_ids` and `attention_mask`, int32 `(1, tokens)` each, padded at the end.

    Args:
        tokenizer: of the text encoder; by default it is loaded, which takes as long as loading the encoder.
    """
    if tokenizer is None:
        tokenizer, _ = PromptEncoder(text).load()
    encoding = tokenizer([prompt], padding="max_length", truncation=True, max_length=text.tokens, return_tensors="pt")
    return {name: encoding[name].int() for name in ("input_ids", "attention_mask")}
