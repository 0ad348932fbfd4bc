"""Evaluates a denoiser in training, on moving digits or scenes: generates clips and measures their quality."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas import checkpoint, distributed
from nas.config import build
from nas.data.digits import LABELS, MovingDigits, caption_of
from nas.data.latent_cache import LatentCache
from nas.data.scenes import SceneConfig, Scenes
from nas.data.source import Source
from nas.diffusion.sampling import generate
from nas.files import read_json
from nas.metrics.digit_classifier import DigitEvaluator, load_digit_evaluator
from nas.metrics.fvd import frechet_distance
from nas.metrics.judges import load_judges
from nas.metrics.scene_scores import score
from nas.models import Autoencoder
from nas.progress import progress

DECODED_AT_ONCE = 5
"""Clips: on a CPU, 40 at once take twice as long, because their activations do not fit the cache."""
EVALUATED, REFERENCE = 160, 200
"""Held-out scenes that clips are generated for, and those after them that Frechet distances are to."""


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
        latents = _generate(denoiser, self.context, self.empty, shape, steps, guidance)
        clips = torch.cat(list(_decode(self.autoencoder, latents)))
        return {"steps": steps, **asdict(self.digits(clips, self.labels))}


class SceneEvaluator:
    """Generates clips of held-out scenes with a denoiser and measures their quality, see `nas.metrics.scene_scores`.

    Args:
        decoder: folder of the finished `decoder` stage, or of `nas prepare`.
        clips: number of clips to generate; at most `EVALUATED`.
    """

    def __init__(self, decoder: Path, clips: int) -> None:
        path = decoder / "data.json"
        about = read_json(path, "data", dict)
        self.autoencoder: Autoencoder = checkpoint.load_autoencoder(decoder).to(distributed.device())
        cache = LatentCache(decoder / "train")
        latents, _ = cache.latents("videos", [0])
        factor = self.autoencoder.config.downsampling
        height, width = (side * factor for side in latents.shape[-2:])
        self.fps = float(about["fps"])
        config = build(SceneConfig, about["scenes"], str(path), "scenes")
        self.source = Scenes(config, "test", about["frames"], self.fps, height, width)
        self.judges = load_judges()
        self.scenes = [self.source.scene(index) for index in range(min(clips, EVALUATED))]
        captions = eval_captions(self.source)[: len(self.scenes)]
        self.context, self.empty = cache.contexts(captions), cache.empty
        held_out = range(EVALUATED, EVALUATED + REFERENCE)
        self.reference = np.concatenate([self._features(self.source.video(index).pixels) for index in held_out])

    def __call__(
        self, denoiser: nn.Module, shape: tuple[int, int, int, int], steps: int, guidance: float
    ) -> dict[str, Any]:
        """Quality at a number of sampling steps: `steps`, and what `score` returns."""
        latents = _generate(denoiser, self.context, self.empty, shape, steps, guidance)
        clips = (clip for part in _decode(self.autoencoder, latents) for clip in part.numpy())
        return {"steps": steps, **self.score(clips)}

    def score(self, clips: Iterable[np.ndarray]) -> dict[str, float]:
        """Quality of clips `(3, T, H, W)` in [-1, 1] that were generated for the scenes, in order.

        `frechet`; `digit_accuracy`: share of the objects whose class and color are right; `direction_accuracy`: share of
        the objects that move as their caption says; `scene_accuracy`: share of the clips in which everything is right.
        """
        scores, features = [], []
        for clip, scene in zip(clips, self.scenes):
            scores.append(score(clip, scene, self.judges))
            features.append(self._features(clip))

        def share(name: str) -> float:
            return sum(one.right[name] for one in scores) / max(sum(one.total[name] for one in scores), 1)

        return {
            "frechet": frechet_distance(np.concatenate(features), self.reference),
            "digit_accuracy": share("object"),
            "direction_accuracy": share("direction"),
            "scene_accuracy": share("scene"),
        }

    def real(self) -> Iterator[np.ndarray]:
        """The pixels of the scenes themselves."""
        return (self.source.paint(scene) for scene in self.scenes)

    def _features(self, clip: np.ndarray) -> np.ndarray:
        return self.judges.features(torch.from_numpy(clip)[None])


def _generate(denoiser: nn.Module, *arguments: Any) -> torch.Tensor:
    """What `generate` returns, in evaluation mode."""
    was_training = denoiser.training
    denoiser.eval()
    latents = generate(denoiser, *arguments)
    denoiser.train(was_training)
    return latents


def _decode(autoencoder: Autoencoder, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Clips `(N, C, T, H, W)` on the host, a few at a time."""
    for part in latents.split(DECODED_AT_ONCE):
        yield autoencoder.decode(part.to(distributed.device())).cpu()


def eval_captions(source: Source) -> list[str]:
    """The captions for which clips are generated to evaluate a denoiser; empty for data that cannot be judged."""
    if isinstance(source, MovingDigits):
        return [caption_of(label) for label in LABELS]
    if isinstance(source, Scenes):
        test = Scenes(source.config, "test", source.frames, source.fps, source.height, source.width)
        scenes = (test.scene(index) for index in range(EVALUATED))
        return [test.captions(scene, "videos", index)[0] for index, scene in enumerate(scenes)]
    return []


def load_evaluator(decoder: Path, clips: int) -> DenoiserEvaluator | SceneEvaluator | None:
    """The evaluator of a stage's data; None if generated clips of these cannot be judged."""
    about = read_json(decoder / "data.json", "data", dict)
    if "scenes" in about:
        return SceneEvaluator(decoder, clips)
    return DenoiserEvaluator(decoder, clips) if about["data"] == "digits" else None


def can_be_judged(decoder: Path) -> bool:
    """Whether a stage encoded data whose generated clips can be judged: moving digits or scenes."""
    about = read_json(decoder / "data.json", "data", dict)
    return about["data"] == "digits" or "scenes" in about


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
    """Quality at each number of sampling steps; empty if the data are neither moving digits nor scenes.

    Results are appended to `quality-TITLE.jsonl` in `folder`, from which an interrupted evaluation resumes.
    """
    if not (distributed.is_main() and can_be_judged(decoder)):
        return []
    path = folder / f"quality-{title}.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(results) >= len(steps):
        return results
    evaluator = load_evaluator(decoder, clips)
    for count in progress(steps[len(results) :], f"evaluate {title}", len(steps), len(results)):
        results.append(evaluator(denoiser, shape, count, guidance))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    return results
