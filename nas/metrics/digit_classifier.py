"""Quality of generated digit clips: accuracies of a digit classifier, and the Frechet distance in its features.

The features are those before the classifier's last layers, since no Python package includes a feature network for video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas import distributed
from nas.data.digits import DIRECTIONS, WORDS, MovingDigits
from nas.data.source import batch_indices
from nas.diffusion.seeding import generator
from nas.errors import NasError
from nas.metrics.fvd import frechet_distance
from nas.models import safetensors_io
from nas.progress import progress

LONG = 16
"""Most frames of a clip that the classifier looks at in steps of two frames; in longer clips it takes four."""
MIN_ACCURACY = 0.97
"""Least accuracy in direction, on held-out real clips, of a classifier that is used for evaluation."""


class DigitClassifier(nn.Module):
    """Clips `(B, 1, T, 32, 32)` -> logits of digit `(B, 10)` and of direction `(B, 4)`.

    Args:
        frames: T; of a long clip the first layer sees longer stretches, and the others fewer of them, for speed.
    """

    def __init__(self, frames: int = 8, features: int = 48) -> None:
        super().__init__()
        stride = 2 if frames <= LONG else 4
        self.body = nn.Sequential(
            nn.Conv3d(1, 24, (stride + 1, 5, 5), (stride, 2, 2), (1, 2, 2)),
            nn.SiLU(),
            nn.Conv3d(24, 48, 3, 2, 1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Conv3d(48, 96, (1, 3, 3), 1, (0, 1, 1)),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
        )
        self.project = nn.Linear(2 * 96, features)
        self.digit = nn.Linear(features, len(WORDS))
        self.direction = nn.Linear(features, len(DIRECTIONS))

    def features(self, clips: Tensor) -> Tensor:
        """Features `(B, features)` for the Frechet distance."""
        hidden = self.body(clips).flatten(2)  # pooled over time and position, of which labels are independent
        return F.silu(self.project(torch.cat([hidden.mean(2), hidden.amax(2)], 1)))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.features(clips)
        return self.digit(hidden), self.direction(hidden)


@dataclass(frozen=True)
class DigitQuality:
    """Quality of generated clips: Frechet distance to held-out real clips, and accuracy of digit and direction."""

    frechet: float
    digit_accuracy: float
    direction_accuracy: float


class DigitEvaluator:
    """Measures the quality of digit clips with a trained classifier.

    Attributes:
        real: features `(N, features)` of held-out real clips.
        accuracy: of digit and direction on the real clips.

    Raises:
        NasError: the classifier does not reach `MIN_ACCURACY`.
    """

    def __init__(self, classifier: DigitClassifier, frames: int, real: int = 1000) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.device = next(classifier.parameters()).device
        test = MovingDigits("test", frames)
        chosen = batch_indices(0, 0, min(real, test.videos), test.videos)
        clips, labels = _clips(test, chosen)
        self._test = clips, labels
        self.real = self._features(clips)
        self.accuracy = self._accuracy(self.real, labels)
        if self.accuracy[1] < MIN_ACCURACY:
            raise NasError(
                f"the digit classifier finds the direction of only {self.accuracy[1]:.3f} of held-out real clips, "
                f"{MIN_ACCURACY} are needed to evaluate generated ones; train it for more steps"
            )

    def __call__(self, clips: Tensor, labels: Tensor) -> DigitQuality:
        """Quality of clips `(N, 1, T, 32, 32)` in [-1, 1] that were generated for `labels` `(N, 2)`: digit, direction."""
        features = self._features(clips)
        digit, direction = self._accuracy(features, labels)
        frechet = frechet_distance(features.cpu().numpy(), self.real.cpu().numpy())
        return DigitQuality(frechet, digit, direction)

    def held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Held-out real clips `(count, 1, T, 32, 32)` and their labels `(count, 2)`."""
        clips, labels = self._test
        return clips[:count], labels[:count]

    @torch.no_grad()
    def _features(self, clips: Tensor) -> Tensor:
        return torch.cat([self.classifier.features(part.to(self.device)) for part in clips.split(100)])

    @torch.no_grad()
    def _accuracy(self, features: Tensor, labels: Tensor) -> tuple[float, float]:
        heads, labels = (self.classifier.digit, self.classifier.direction), labels.to(self.device)
        hits = [(head(features).argmax(1) == labels[:, i]).float().mean().item() for i, head in enumerate(heads)]
        return hits[0], hits[1]


def load_digit_evaluator(folder: Path, frames: int, steps: int = 250, seed: int = 0) -> DigitEvaluator:
    """The evaluator for clips of `frames` frames; its classifier is loaded from `folder`, or trained and saved there.

    Raises:
        NasError: the classifier does not reach `MIN_ACCURACY`.
    """
    path = folder / f"classifier-{frames}x{steps}-{seed}.safetensors"
    if not path.exists():
        classifier = _untrained(frames, seed).to(distributed.device())
        _train(classifier, MovingDigits("train", frames), steps, seed)
        safetensors_io.save(path, classifier.state_dict())
    return _read(path, path.stat().st_mtime_ns, frames, distributed.device())


@lru_cache(maxsize=1)
def _read(path: Path, written: int, frames: int, device: torch.device) -> DigitEvaluator:
    """The evaluator of the classifier in a file; the stages of a job use the same, and it takes seconds to make.

    Args:
        written: when the file was.
    """
    classifier = _untrained(frames)
    safetensors_io.load_into(classifier, path)
    return DigitEvaluator(classifier.to(device), frames)


def _untrained(frames: int, seed: int = 0) -> DigitClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitClassifier(frames)


def _train(classifier: DigitClassifier, source: MovingDigits, steps: int, seed: int, batch: int = 64) -> None:
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in progress(range(steps), "classifier", steps):
        clips, labels = _clips(source, batch_indices(seed, step, batch, source.videos))
        clips = clips + 0.1 * torch.randn(clips.shape, generator=generator(seed, step))
        clips, labels = clips.to(distributed.device()), labels.to(distributed.device())
        loss = sum(F.cross_entropy(logits, labels[:, i]) for i, logits in enumerate(classifier(clips)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _clips(source: MovingDigits, indices: list[int]) -> tuple[Tensor, Tensor]:
    clips = torch.from_numpy(np.stack([source.video(index).pixels for index in indices]))
    return clips, torch.tensor([source.labels(index) for index in indices])
