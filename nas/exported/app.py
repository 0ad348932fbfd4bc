"""Data classes of `export.json`: everything that an app needs to run exported models. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1
"""Schema version of `export.json`, incremented if a field is removed or changes its meaning, not if one is added."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        dtype: data type of the tensor.
        minimum, maximum: bounds of its values; null if unbounded.
        meaning: description for app developers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32", "int32"]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Model:
    """One model file.

    Attributes:
        weight_bits: bits per weight; biases and small tensors may have more.
    """

    file: str
    size_mb: float
    weight_bits: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Step:
    """One sampling step: `x = keep * x + add * prediction + noise * normal noise`.

    Attributes:
        time: t of rectified flow, from 1 (noise) to 0 (clip).
        timestep: the denoiser's `timestep` input.
        input_scale: factor of x in the denoiser's input.
        keep, add: factors of x and of the denoiser's output (after guidance).
        noise: factor of newly drawn normal noise; 0 for the sampler `euler`.
    """

    time: float
    timestep: float
    input_scale: float
    keep: float
    add: float
    noise: float


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled from noise.

    Attributes:
        sampler: name of the sampler; `steps` fully describe what it does.
        prediction: what the denoiser predicts: the velocity of rectified flow, the noise, or v of DDPM.
        guidance: scale of classifier-free guidance: uncond + guidance * (cond - uncond), where cond and uncond are the
            denoiser's outputs for the prompt and for the empty prompt. At 1 the empty prompt is not needed.
        shift: timestep shift of the flow schedule.
        initial_scale: factor of normal noise that gives x before the first step.
        steps: the sampling steps in order.
    """

    sampler: Literal["euler", "renoise"]
    prediction: Literal["flow", "epsilon", "v"]
    guidance: float
    shift: float
    initial_scale: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Prompt:
    """How a prompt becomes the text encoder's inputs.

    Attributes:
        kind: model type of the tokenizer in `tokenizer.json`: `WordPiece`, `BPE`, ...
        folder: folder of the tokenizer's files.
        tokens: length that prompts are truncated or padded to.
        padding_id: id of the padding token; padding is at the end.
        reads_mask: whether the encoder uses `attention_mask`; if not, it attends to padding too.
        empty_ids, empty_mask: the encoder's inputs for the empty prompt.
        empty_context: file of the encoder's output for the empty prompt: little-endian float32 of the denoiser's
            `context` shape.
        examples: prompts that an app may offer.
    """

    kind: str
    folder: str
    tokens: int
    padding_id: int
    reads_mask: bool
    empty_ids: tuple[int, ...]
    empty_mask: tuple[int, ...]
    empty_context: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latents:
    """The sampled latents.

    Attributes:
        shape: `(1, C, T, h, w)`.
        scaling_factor: scaling factor of the autoencoder. The decoder divides by it; the app must not.
        mean, std: normalization of the latents before the scaling, one number or one for each channel. The decoder reverts
            it; the app must not.
    """

    shape: tuple[int, ...]
    scaling_factor: float
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class Clip:
    """The decoded clip: pixel = round((clamp(video, minimum, maximum) + 1) * 127.5), frames in order.

    Attributes:
        channels: 1 for gray, 3 for RGB (sRGB, full range).
    """

    frames: int
    fps: float
    height: int
    width: int
    channels: int
    minimum: float = -1.0
    maximum: float = 1.0


@dataclass(frozen=True)
class Decoding:
    """How the decoder is run: `runs` times per clip, each time on the next `frames` latent frames.

    Every run returns `video_frames` pixel frames. The clip is the frames of all runs in order, without the first
    `drop_first`: clip.frames = runs * video_frames - drop_first.

    Attributes:
        frames: latent frames per run: T of the decoder's input `latents`.
        runs: number of runs per clip; runs * frames is T of the sampled latents.
        state: inputs that carry the state from one run to the next. The input NAME is all zeros in the first run of a
            clip, and then the output `NAME_out` of the run before. Empty if one run decodes the whole clip.
        video_frames: pixel frames that a run returns: T of its output `video`; null: as many as latent frames.
        drop_first: pixel frames at the start of the first run that are not part of the clip. With temporal compression
            c, the first latent frame stands for one pixel frame and each later one for c; if the decoder is run in
            parts, all runs return c per latent frame, and c - 1 are dropped.
    """

    frames: int
    runs: int = 1
    state: tuple[str, ...] = ()
    video_frames: int | None = None
    drop_first: int = 0


@dataclass(frozen=True)
class App:
    """Everything that an app needs to generate a clip with the exported files.

    Attributes:
        models: by name: `text_encoder`, `decoder`, and those listed in `denoiser`.
        denoiser: names of the models that are the denoiser, run one after the other in each sampling step. An input is
            one of the denoiser's (`x`, `timestep`, `context`), or the output of that name of an earlier model. The only
            output of the last model is the prediction.
    """

    models: dict[str, Model]
    prompt: Prompt
    sampling: Sampling
    latents: Latents
    decoding: Decoding
    clip: Clip
    warnings: tuple[str, ...] = ()
    denoiser: tuple[str, ...] = ("denoiser",)


@dataclass(frozen=True)
class File:
    """A file in the export folder."""

    path: str
    size_mb: float
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The entry of one export format in `export.json`.

    Attributes:
        library: version of `nas` that wrote the entry.
        checkpoint: identity of the exported model, see `nas.export.manifest.identity`.
        predicted: cost of a clip predicted from a lookup table; null without a table.
        summary: the predicted cost as one sentence.
        checks: by part, the errors relative to torch.
        app: null for formats that do not run in an app.
        random_weights: whether the weights are random because nothing was trained. Latency and memory are those of a
            trained model, clips are noise.
    """

    library: str
    checkpoint: dict[str, Any]
    summary: str
    files: tuple[File, ...]
    predicted: dict[str, Any] | None = None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    app: App | None = None
    random_weights: bool = False
