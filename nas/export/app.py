"""What an app that runs an export folder must know, as data classes. Written into `export.json`; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1
"""Of `export.json`. Raised when a field changes its meaning or goes; new fields alone do not raise it."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        dtype: as the model takes or gives it.
        minimum, maximum: of its values where they have ends; null where not.
        meaning: for the app's author.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32", "int32"]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Model:
    """One file to run.

    Attributes:
        weight_bits: of most weights.
    """

    file: str
    size_mb: float
    weight_bits: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Step:
    """One step of sampling: `x = keep * x + add * prediction + noise * fresh noise`.

    Attributes:
        time: t of rectified flow, 1 for noise and 0 for a clip.
        timestep: what the denoiser is given.
        input_scale: what x is multiplied by before the denoiser gets it.
        keep, add: what x and the denoiser's output (after guidance) are multiplied by.
        noise: what fresh normal noise is multiplied by; 0 for the sampler `euler`.
    """

    time: float
    timestep: float
    input_scale: float
    keep: float
    add: float
    noise: float


@dataclass(frozen=True)
class Sampling:
    """From noise to latents.

    Attributes:
        sampler: the steps say all that it does.
        prediction: what the denoiser gives: flow's velocity, the noise, or DDPM's v.
        guidance: scale of classifier-free guidance: without + guidance * (with - without), of the denoiser's outputs for
            the prompt and for the empty prompt. 1: the empty prompt is not needed.
        shift: of flow's times.
        initial_scale: what normal noise is multiplied by to be x before the first step.
        steps: in order.
    """

    sampler: Literal["euler", "renoise"]
    prediction: Literal["flow", "epsilon", "v"]
    guidance: float
    shift: float
    initial_scale: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Prompt:
    """From a prompt to the text encoder's inputs.

    Attributes:
        kind: of the tokenizer, as `tokenizer.json` calls its model: `WordPiece`, `BPE`, ...
        folder: of the tokenizer's files.
        tokens: a prompt is cut off and padded to so many.
        padding_id: the token that pads, at the end.
        reads_mask: whether the encoder reads `attention_mask`; if not, padding is read like words.
        empty_ids, empty_mask: the encoder's inputs for the empty prompt.
        empty_context: a file with the encoder's output for it, float32, little-endian, of the denoiser's `context` shape.
    """

    kind: str
    folder: str
    tokens: int
    padding_id: int
    reads_mask: bool
    empty_ids: tuple[int, ...]
    empty_mask: tuple[int, ...]
    empty_context: str


@dataclass(frozen=True)
class Latents:
    """What is sampled.

    Attributes:
        shape: `(1, C, T, h, w)`.
        scaling_factor: of the autoencoder. The decoder divides by it, the app does not.
        mean, std: that the decoder undoes; the app does not.
    """

    shape: tuple[int, ...]
    scaling_factor: float
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Clip:
    """What comes out: pixel = round((clamp(video, minimum, maximum) + 1) * 127.5), frames in order.

    Attributes:
        channels: 1 is gray, 3 is red, green, blue (sRGB, full range).
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
    """How the decoder is run.

    Attributes:
        frames: latent frames of one run.
        runs: for a clip.
        state: names of what one run hands to the next; empty where one run decodes the whole clip.
    """

    frames: int
    runs: int = 1
    state: tuple[str, ...] = ()


@dataclass(frozen=True)
class App:
    """All that an app needs to make a clip of the exported files."""

    models: dict[str, Model]
    prompt: Prompt
    sampling: Sampling
    latents: Latents
    decoding: Decoding
    clip: Clip
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file of the export folder."""

    path: str
    size_mb: float
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What one format wrote: an entry of `export.json`.

    Attributes:
        library: the version that wrote it.
        checkpoint: which model it is; see `nas.export.manifest.identity`.
        predicted: what a clip costs, from a lookup table; null without one.
        summary: the same as a sentence.
        checks: by part, how far its numbers are from torch's.
        app: null for formats that no app runs.
    """

    library: str
    checkpoint: dict[str, Any]
    summary: str
    files: tuple[File, ...]
    predicted: dict[str, Any] | None = None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    app: App | None = None
