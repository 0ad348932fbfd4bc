"""Build the description of an exported checkpoint for apps, see `nas.exported.app`, and write the tokenizer's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.checkpoint import Checkpoint
from nas.export import chunks, parts
from nas.export.package_files import size_mb
from nas.export.parts import Part
from nas.export.schedule import sampling
from nas.exported.app import App, Clip, Decoding, Latents, Model, Port, Prompt
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.spaces import Text, VAEConfig

EMPTY_CONTEXT = "empty_context.f32"

MEANINGS = {
    "x": "the current latents times the step's input_scale",
    "timestep": "the step's timestep",
    "context": "the text encoder's output for the prompt",
    "latents": "the latents after the last step, or a run's part of them; see decoding",
    "input_ids": "the prompt's tokens",
    "attention_mask": "1 for the prompt's tokens, 0 for padding",
    "video": "pixels; see clip",
    "velocity": "the velocity of rectified flow, noise - clean",
    "noise": "the noise in x",
    "v": "sqrt(a) noise - sqrt(1 - a) clean of DDPM",
}
STATE = "state of the decoder's temporal layers: zeros in the first run of a clip, then the same name's output of the run before"
STATE_AFTER = "state after this run: the next run's input"


def describe(
    checkpoint: Checkpoint,
    out: Path,
    files: dict[str, Path],
    floats: str,
    bits: dict[str, int],
    tokenizer: Path,
    halves: Sequence[Path] = (),
    max_package_mb: float = chunks.MAX_PACKAGE_MB,
) -> App:
    """Build the description, and write the context of the empty prompt into the export folder.

    Args:
        out: the export folder.
        files: model file or package by part.
        floats: dtype of the models' floating-point inputs and outputs; the timestep is always float32.
        bits: bits per weight by part.
        tokenizer: folder of the tokenizer's files.
        halves: the packages that the denoiser's was split into, see `nas.export.chunks`.
        max_package_mb: larger packages get a warning.
    """
    exported = (parts.denoiser(checkpoint), parts.decoder(checkpoint), parts.text_encoder(checkpoint))
    models = {part.name: _model(checkpoint, part, files[part.name], out, floats, bits[part.name]) for part in exported}
    if halves:
        models = _halves(models.pop("denoiser"), halves) | models
    shape, vae = checkpoint.space.input_shape(), checkpoint.autoencoder.config
    made = checkpoint.clip
    clip = Clip(made.frames, made.fps, made.height, made.width, vae.image_channels)
    return App(
        models,
        _prompt(checkpoint, out, tokenizer),
        sampling(checkpoint),
        Latents(tuple(shape), vae.scaling_factor, vae.latents_mean or 0.0, vae.latents_std or 1.0),
        _decoding(exported[1], shape[2], vae),
        clip,
        tuple(_warnings(models, max_package_mb)),
        chunks.NAMES if halves else ("denoiser",),
    )


def _decoding(decoder: Part, latent_frames: int, vae: VAEConfig) -> Decoding:
    """How the exported decoder decodes the latents."""
    frames = decoder.inputs["latents"].shape[2]
    runs = latent_frames // frames
    state = tuple(name for name in decoder.inputs if name != "latents")
    if not state:
        return Decoding(frames, runs, video_frames=vae.pixel_frames(latent_frames))
    return Decoding(frames, runs, state, frames * vae.temporal_compression, vae.temporal_compression - 1)


def _halves(denoiser: Model, paths: Sequence[Path]) -> dict[str, Model]:
    known = {port.name: port for port in (*denoiser.inputs, *denoiser.outputs)}
    return {
        path.stem: Model(path.name, size_mb(path), denoiser.weight_bits, *chunks.ports(path, known)) for path in paths
    }


def _warnings(models: dict[str, Model], max_package_mb: float) -> list[str]:
    return [
        f"{model.file} has {model.size_mb:.0f} MB; iOS may terminate an app that loads more than {max_package_mb:g} MB: "
        f"export with --bits 8 or 6{' or --chunk' if name == 'denoiser' else ''}"
        for name, model in models.items()
        if model.file.endswith(".mlpackage") and model.size_mb > max_package_mb
    ]


def _model(checkpoint: Checkpoint, part: Part, path: Path, out: Path, floats: str, bits: int) -> Model:
    tokens = checkpoint.space.text.tokens

    def port(name: str, shape: Any, whole: bool) -> Port:
        low, high = _RANGES.get(name, (None, None))
        if name == "input_ids":
            low, high = 0, len(PromptEncoder(checkpoint.space.text).load()[0]) - 1
        dtype = "int32" if whole else "float32" if name == "timestep" else floats
        meaning = MEANINGS.get(name) or (STATE_AFTER if name.endswith("_out") else STATE)
        return Port(name, tuple(shape), dtype, meaning, low, high)

    inputs = tuple(port(name, x.shape, not x.is_floating_point()) for name, x in part.inputs.items())
    shape, vae = tuple(checkpoint.space.input_shape()), checkpoint.autoencoder.config
    decoding = _decoding(part, shape[2], vae) if part.name == "decoder" else None
    video = (
        1,
        vae.image_channels,
        decoding and decoding.video_frames,
        *(size * vae.downsampling for size in shape[3:]),
    )
    shapes = {"denoiser": shape, "decoder": video, "text_encoder": (1, tokens, checkpoint.space.text.dim)}
    outputs = [port(part.output, shapes[part.name], False)]
    outputs += [port(name, part.inputs[name.removesuffix("_out")].shape, False) for name in part.more_outputs]
    return Model(path.relative_to(out).as_posix(), size_mb(path), bits, inputs, tuple(outputs))


_RANGES = {"timestep": (0.0, 1000.0), "attention_mask": (0, 1)}


def _prompt(checkpoint: Checkpoint, out: Path, folder: Path) -> Prompt:
    text = checkpoint.space.text
    encoder = PromptEncoder(text)
    tokenizer, model = encoder.load()
    empty = parts.token_inputs(text, EMPTY, tokenizer)
    context = encoder([EMPTY]).numpy().astype("<f4")
    (out / EMPTY_CONTEXT).write_bytes(np.ascontiguousarray(context).tobytes())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return Prompt(
        kind=type(backend.model).__name__ if backend is not None else type(tokenizer).__name__,
        folder=folder.relative_to(out).as_posix(),
        tokens=text.tokens,
        padding_id=tokenizer.pad_token_id,
        reads_mask=not parts.EncodeText(model).causal,
        empty_ids=tuple(empty["input_ids"][0].tolist()),
        empty_mask=tuple(empty["attention_mask"][0].tolist()),
        empty_context=EMPTY_CONTEXT,
    )


def save_tokenizer(text: Text, folder: Path) -> Path:
    """Write the tokenizer of a text encoder into a folder.

    Padding and truncation in `tokenizer.json` are set to the exported encoder's length, since apps use the file
    directly. `transformers` overrides both in each call, so the original file may have other lengths (128 for MiniLM).

    Raises:
        MissingDependency: the encoder is not installed.
    """
    tokenizer, _ = PromptEncoder(text).load()
    tokenizer.model_max_length = text.tokens
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.enable_truncation(text.tokens)
        backend.enable_padding(
            length=text.tokens,
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_type_id=tokenizer.pad_token_type_id,
            pad_token=tokenizer.pad_token,
        )
    tokenizer.save_pretrained(folder)
    return folder
