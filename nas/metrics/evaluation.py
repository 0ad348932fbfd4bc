"""Evaluates a denoiser on moving digits: generates clips for every caption and measures their quality."""

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
        self.autoencoder: Autoencoder = checkpoint.load_autoencoder(decoder)
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
    """Quality at each number of sampling steps; empty if the data are not moving digits.

    Results are appended to `quality-TITLE.jsonl` in `folder`, from which an interrupted evaluation resumes.
    """
    if not distributed.is_main() or read_json(decoder / "data.json", "data", dict)["data"] != "digits":
        return []
    evaluator, path = DenoiserEvaluator(decoder, clips), folder / f"quality-{title}.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for count in progress(steps[len(results) :], f"evaluate {title}", len(steps), len(results)):
        results.append(evaluator(denoiser, shape, count, guidance))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    return results
