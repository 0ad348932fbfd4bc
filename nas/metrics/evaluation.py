"""Evaluates a denoiser on moving digits: generates clips for every caption and measures their quality."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.data.batches import held_out
from nas.data.digits import LABELS, caption_of
from nas.data.latent_cache import LatentCache
from nas.diffusion.losses import validation_loss
from nas.diffusion.sampling import generate
from nas.errors import ConfigError
from nas.files import read_json
from nas.metrics.digit_classifier import DigitEvaluator, load_digit_evaluator
from nas.models import Autoencoder
from nas.progress import progress

DECODED_AT_ONCE = 5
"""Clips: on a CPU, 40 at once take twice as long, because their activations do not fit the cache."""


class DenoiserEvaluator:
    """Generates clips of every digit and direction with a denoiser and measures their quality.

    Args:
        decoder: folder of the finished `decoder` stage.
        clips: number of clips to generate; a multiple of 40 has every caption equally often.
    """

    def __init__(self, decoder: Path, clips: int) -> None:
        data = read_json(decoder / "data.json", "data", dict)
        self.digits: DigitEvaluator = load_digit_evaluator(
            decoder, data["frames"], data["classifier_steps"], data["seed"]
        )
        self.autoencoder: Autoencoder = checkpoint.load_autoencoder(decoder).to(distributed.device())
        cache = LatentCache(decoder / "train")
        self.labels = torch.tensor([LABELS[i % len(LABELS)] for i in range(clips)])
        self.context = cache.contexts([caption_of(label) for label in self.labels.tolist()])
        self.empty = cache.empty

    def __call__(
        self, denoiser: nn.Module, shape: tuple[int, int, int, int], steps: int, guidance: float
    ) -> dict[str, Any]:
        """Quality at a number of sampling steps: `steps`, and the fields of `DigitQuality`."""
        was_training = denoiser.training
        denoiser.eval()
        latents = generate(denoiser, self.context, self.empty, shape, steps, guidance)
        denoiser.train(was_training)
        parts = (part.to(distributed.device()) for part in latents.split(DECODED_AT_ONCE))
        clips = torch.cat([self.autoencoder.decode(part).cpu() for part in parts])
        return {"steps": steps, **asdict(self.digits(clips, self.labels))}


def evaluate_checkpoint(
    folder: str | Path, decoder: str | Path, steps: tuple[int, ...] = (), clips: int = 160, device: str | None = None
) -> dict[str, Any]:
    """The loss of a checkpoint on held-out clips, and for moving digits its quality at numbers of denoising steps.

    Args:
        decoder: the folder of a finished `decoder` stage or of `nas prepare`, with clips of the checkpoint's size.
        steps: default: as the checkpoint was trained.
        clips: held-out clips behind the loss, and generated clips behind each quality.
        device: as in `nas.distributed.use_device`.

    Returns:
        `validation_loss`, and `quality`: a list with a `DigitQuality` and `steps` for each number of steps; empty for
        other data.

    Raises:
        ConfigError: the checkpoint or the data are missing, or do not match.
    """
    decoder = Path(decoder)
    with distributed.use_device(device):
        loaded = checkpoint.load(folder)
        latents, contexts = held_out(decoder, clips)
        expected = loaded.space.input_shape()[1], *loaded.space.context_shape()[1:]
        if (latents.shape[1], *contexts.shape[1:]) != expected:
            raise ConfigError(
                f"{decoder}: holds latents or texts of another shape than the checkpoint {folder} expects"
            )
        denoiser = loaded.denoiser.to(distributed.device())
        result = {"validation_loss": validation_loss(denoiser, latents, contexts), "quality": []}
        if is_digits(decoder):
            evaluator, shape = DenoiserEvaluator(decoder, clips), loaded.space.input_shape()[1:]
            for count in progress(steps or (loaded.info.steps,), "evaluate", len(steps) or 1):
                result["quality"].append(evaluator(denoiser, shape, count, loaded.info.guidance))
    return result


def is_digits(decoder: Path) -> bool:
    """Whether a stage encoded moving digits, whose generated clips can be classified."""
    return read_json(decoder / "data.json", "data", dict)["data"] == "digits"


def evaluate_denoiser(
    title: str,
    folder: Path,
    decoder: Path,
    denoiser: nn.Module,
    shape: tuple[int, int, int, int],
    steps: tuple[int, ...],
    guidance: float,
    clips: int,
) -> list[dict[str, Any]]:
    """Quality at each number of sampling steps; empty if the data are not moving digits.

    Results are appended to `quality-TITLE.jsonl` in `folder`, from which an interrupted evaluation resumes.
    """
    if not (distributed.is_main() and is_digits(decoder)):
        return []
    path = folder / f"quality-{title}.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(results) >= len(steps):
        return results
    evaluator = DenoiserEvaluator(decoder, clips)
    for count in progress(steps[len(results) :], f"evaluate {title}", len(steps), len(results)):
        results.append(evaluator(denoiser, shape, count, guidance))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    return results
