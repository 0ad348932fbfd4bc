"""Saving and loading checkpoints: folders with all that a text-to-video pipeline needs.

The stages `finetune` and `adversarial` write them.

Layout::

    space.yaml             the search space (`SearchSpace.load`) with the clips' fps
    architecture.json      the architecture (`Architecture.load`)
    denoiser.safetensors   weights of `nas.models.build(space, architecture)`, averaged over training (EMA)
    decoder.safetensors    weights of `nas.models.Autoencoder(VAEConfig)`: encoder and decoder, or only a distilled decoder
    decoder.json           the fields of `nas.models.VAEConfig`, with the normalization of the latents
    vae/                   instead of these two, a public autoencoder as diffusers saves it
    checkpoint.json        the fields of `CheckpointInfo`; written last, so that its presence marks a complete checkpoint

No file is a pickle: loading a checkpoint executes no code from it.

To generate clips, encode captions with `nas.models.text_encoder.PromptEncoder(space.text)`, call
`nas.diffusion.sampling.generate` with the steps, guidance and sampler of `CheckpointInfo`, and decode the latents with
`autoencoder.decode`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nas
from nas import distributed
from nas.config import build as build_config
from nas.diffusion.predictions import Objective, Prediction, get_objective
from nas.diffusion.sampling import MAX_SAMPLING_STEPS, SAMPLERS, Sampler
from nas.errors import ConfigError, suggestion
from nas.files import read_json, short_hash, write_json
from nas.models import Autoencoder, Denoiser, VAEConfig, build, pretrained_files, safetensors_io
from nas.models import diffusers_checkpoint as diffusers
from nas.models.autoencoder import PublicAutoencoder
from nas.models.pretrained_files import WeightFiles
from nas.models.safetensors_io import load_into
from nas.ranges import MAX_GUIDANCE, check_range
from nas.spaces import DEFAULT_FPS, Architecture, Clip, SearchSpace
from nas.spaces.clip import check_fps

STAGE_ORDER = ("decoder", "distill", "supernet", "finetune", "adversarial")
"""The training stages in the order in which they run; each starts from the one before it."""

RANDOM = "random"
"""The stage of a checkpoint that no stage wrote: its weights are random."""

BASE = "base"
"""The key of `stage.json` for the folder that relative paths in its config are resolved against."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Sampling parameters of a checkpoint's denoiser, and its provenance.

    Attributes:
        stage: the stage that wrote it.
        steps: default number of denoising steps: 25 after `finetune`, 4 after `adversarial`.
        guidance: default scale of classifier-free guidance; 1 is none.
        sampler: `euler` or `renoise`, see `nas.diffusion.sampling`.
        text_encoder: as in `nas.spaces.Text`.
        objective: `flow`, `epsilon` or `v`: what the denoiser predicts. This and the fields down to `zero_terminal_snr` are those of
            `nas.diffusion.predictions.Objective`, used in training and in sampling.
        provenance: `space_hash`, `architecture`, `architecture_hash`, `table_hash` of the lookup table used in the search,
            `library` version, `training_steps`, `seconds`, and more.

    Raises:
        ConfigError: a number out of range, or an unknown sampler or objective.
    """

    stage: str
    steps: int
    guidance: float
    sampler: Sampler = "euler"
    text_encoder: str = "minilm"
    objective: Prediction = "flow"
    time_mean: float = 1.0
    time_std: float = 1.0
    shift: float = 1.0
    shift_base: int | None = None
    min_snr: float | None = None
    zero_terminal_snr: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(self, ("steps",), 1, MAX_SAMPLING_STEPS)
        check_range(self, ("guidance",), 0, MAX_GUIDANCE)
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler: unknown sampler '{self.sampler}'{suggestion(self.sampler, SAMPLERS)}")
        self.to_objective()  # checks its fields

    def to_objective(self) -> Objective:
        """The objective of the denoiser."""
        names = [field.name for field in fields(Objective) if field.name != "prediction"]
        return Objective(self.objective, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; the modules are in evaluation mode and need no gradients.

    The denoiser has the attribute `objective`, which losses and samplers read.
    """

    folder: Path
    space: SearchSpace
    architecture: Architecture
    denoiser: Denoiser
    autoencoder: Autoencoder | PublicAutoencoder
    info: CheckpointInfo

    @property
    def clip(self) -> Clip:
        """Frames, fps, height and width of a clip; fps is that of the training data (`DEFAULT_FPS` if it is unknown)."""
        return Clip.of(self.space.latent, self.autoencoder.config, self.space.clip.fps)


def save(
    folder: str | Path,
    denoiser: Mapping[str, Tensor],
    space: SearchSpace,
    architecture: Architecture,
    decoder: str | Path,
    info: CheckpointInfo,
) -> Path:
    """Write a checkpoint, on rank 0 only.

    Args:
        denoiser: state dict of the denoiser.
        decoder: folder of the stage `decoder` or of prepared data, with decoder.safetensors and decoder.json, which are
            copied, and data.json, which gives the fps.
    """
    folder, decoder = Path(folder), Path(decoder)
    if not distributed.is_main():
        return folder
    replace(space, fps=data_fps(decoder, space.clip.fps)).save(folder / "space.yaml")
    architecture.save(folder / "architecture.json")
    safetensors_io.save(folder / "denoiser.safetensors", denoiser)
    save_autoencoder(folder, load_autoencoder(decoder))
    provenance = {
        "library": nas.__version__,
        "torch": torch.__version__,
        "space": space.name,
        "space_hash": space.hash,
        "architecture": architecture.choices,
        "architecture_hash": short_hash(architecture.choices),
        **info.provenance,
    }
    write_json(folder / "checkpoint.json", {**asdict(info), "provenance": provenance})
    return folder


def load(folder: str | Path) -> Checkpoint:
    """Load a checkpoint that `save` wrote.

    Raises:
        ConfigError: a file is missing, or does not match the others.
    """
    folder = Path(folder)
    if folder.is_dir() and not (folder / "checkpoint.json").exists():
        patterns = ("*/checkpoint.json", "*/*/checkpoint.json")  # in a run's folder `checkpoints`, in a run
        candidates = [path for pattern in patterns for path in folder.glob(pattern)]
        newest = max(candidates, key=lambda path: path.stat().st_mtime, default=None)
        stage = (
            f"did you mean '{newest.parent}'?"
            if newest
            else "give the folder of a finished finetune or adversarial stage"
        )
        if (folder / "export.json").exists():
            stage = f"it is an export folder: run it with 'nas generate --runtime litert {folder}'"
        raise ConfigError(f"{folder}: contains no checkpoint.json; {stage}")
    info = build_config(
        CheckpointInfo, read_json(folder / "checkpoint.json", "checkpoint"), f"{folder}/checkpoint.json"
    )
    space = SearchSpace.load(folder / "space.yaml")
    architecture = space.check(Architecture.load(folder / "architecture.json"))
    with torch.device("meta"):
        denoiser = build(space, architecture)
    load_into(denoiser, folder / "denoiser.safetensors", described="space.yaml and architecture.json")
    denoiser.objective = info.to_objective()
    return Checkpoint(
        folder, space, architecture, denoiser.eval().requires_grad_(False), load_autoencoder(folder), info
    )


def data_fps(decoder: str | Path, default: float = DEFAULT_FPS) -> float:
    """Frames per second of the clips that a `decoder` stage or `nas prepare` encoded; `default` if it is not recorded.

    Versions before clips recorded it in `data.json` only of prepared data, but always in `stage.json`.
    """
    for name, key in (("data.json", None), ("stage.json", "config")):
        path = Path(decoder) / name
        values = read_json(path, "data", dict) if path.exists() else {}
        fps = (values.get(key) or {} if key else values).get("fps")
        if fps is not None:
            check_fps(fps, f"{path}: fps")
            return float(fps)
    return default


def prediction(denoiser: Denoiser) -> dict[str, Any]:
    """A denoiser's objective as fields of `CheckpointInfo`."""
    values = asdict(get_objective(denoiser))
    return {"objective": values.pop("prediction"), **values}


def save_autoencoder(folder: str | Path, autoencoder: Autoencoder | PublicAutoencoder) -> None:
    """Write decoder.safetensors and decoder.json, or the folder `vae` of a public autoencoder."""
    if isinstance(autoencoder, PublicAutoencoder):
        autoencoder.save(Path(folder) / "vae")
        return
    safetensors_io.save(Path(folder) / "decoder.safetensors", autoencoder.state_dict())
    write_json(Path(folder) / "decoder.json", asdict(autoencoder.config))


def load_autoencoder(folder: str | Path) -> Autoencoder | PublicAutoencoder:
    """The autoencoder of a checkpoint, of a `decoder` stage or of a diffusers checkpoint, in evaluation mode.

    One of diffusers is run through diffusers, except an `AutoencoderKL` that is a special case of `Autoencoder`.

    Raises:
        ConfigError: a file is missing, does not match the others, or asks for something that is not implemented.
        MissingDependency: diffusers is needed and not installed.
    """
    path = Path(folder) / "decoder.json"
    public = None if (Path(folder) / "decoder.safetensors").exists() else _diffusers_weights(folder)
    if public is not None:
        own = diffusers.is_own_kind(public.named.parent)
        return (diffusers.load_autoencoder if own else diffusers.load_public)(folder).eval().requires_grad_(False)
    config = build_config(VAEConfig, read_json(path, "decoder"), str(path))
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    load_into(autoencoder, Path(folder) / "decoder.safetensors", described="decoder.json")
    return autoencoder.eval().requires_grad_(False)


def autoencoder_weights(folder: str | Path) -> tuple[Path, ...]:
    """The files with an autoencoder's weights: `decoder.safetensors`, or diffusers' in the folder or its `vae`."""
    own = Path(folder) / "decoder.safetensors"
    weights = None if own.exists() else _diffusers_weights(folder)
    return weights.files if weights else (own,)


def autoencoder_hash(folder: str | Path) -> str:
    """A hash of the files with an autoencoder's weights, 12 hexadecimal digits."""
    digests = []
    for path in autoencoder_weights(folder):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest()[:12])
    return digests[0] if len(digests) == 1 else short_hash(digests)


def _diffusers_weights(folder: str | Path) -> WeightFiles | None:
    """The weights of a diffusers autoencoder in the folder or its `vae`.

    Raises:
        ConfigError: the only weights are in an unsupported format.
    """
    parts = [part for part in (Path(folder) / "vae", Path(folder)) if (part / "config.json").exists()]
    weights = [pretrained_files.find_weights(part, diffusers.STEM) for part in parts]
    if parts and not any(weights):
        raise ConfigError(pretrained_files.missing_weights(parts[0], diffusers.STEM))
    return next((files for files in weights if files), None)
