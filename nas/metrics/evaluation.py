"""Clips out of a denoiser, and what they are worth: used by the stages to measure themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas import checkpoint, distributed
from nas.data.digits import LABELS, caption_of
from nas.data.latent_cache import LatentCache
from nas.diffusion.sampling import generate
from nas.files import read_json
from nas.metrics.digit_classifier import DigitEvaluator, load_digit_evaluator
from nas.models import Autoencoder
from nas.progress import progress


class DenoiserEvaluator:
    """Judges a denoiser by the clips it generates for every digit and direction. For moving digits only.

    Args:
        decoder: folder of the finished `decoder` stage.
        clips: how many to generate; a multiple of 40 shows every caption equally often.
    """

    def __init__(self, decoder: Path, clips: int) -> None:
        about = read_json(decoder / "data.json", "data", dict)
        self.digits: DigitEvaluator = load_digit_evaluator(
            decoder, about["frames"], about["classifier_steps"], about["seed"]
        )
        self.autoencoder: Autoencoder = checkpoint.load_autoencoder(decoder)
        cache = LatentCache(decoder / "train")
        self.labels = torch.tensor([LABELS[i % len(LABELS)] for i in range(clips)])
        self.context = cache.contexts([caption_of(label) for label in self.labels.tolist()])
        self.empty = cache.empty

    def __call__(
        self, denoiser: nn.Module, shape: tuple[int, int, int, int], steps: int, guidance: float
    ) -> dict[str, Any]:
        """`steps`, and the fields of `DigitQuality`."""
        was_training = denoiser.training
        denoiser.eval()
        latents = generate(denoiser, self.context, self.empty, shape, steps, guidance)
        denoiser.train(was_training)
        clips = torch.cat([self.autoencoder.decode(part) for part in latents.split(40)])
        return {"steps": steps, **asdict(self.digits(clips, self.labels))}


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
    """Quality at each number of steps; none for data that is not moving digits. Kept in the folder as it is measured."""
    if not distributed.is_main() or read_json(decoder / "data.json", "data", dict)["data"] != "digits":
        return []
    evaluator, path = DenoiserEvaluator(decoder, clips), folder / f"quality-{title}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for count in progress(steps[len(found) :], f"judge {title}", len(steps), len(found)):
        found.append(evaluator(denoiser, shape, count, guidance))
        with path.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
    return found
