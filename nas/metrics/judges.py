"""Small networks that judge scenes: one finds the class of an object, one gives features of whole clips.

Both are trained once on generated real scenes, a minute or two on one CPU core, and cached in the user's cache folder.
What pixels tell exactly (colors, numbers, places and motion) needs no network, see `nas.metrics.detection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas import caches, distributed
from nas.data.digits import WORDS
from nas.data.scenes import SceneConfig, Scenes
from nas.data.scenes.config import CLASSES, COLORS, DIRECTIONS
from nas.diffusion.seeding import generator
from nas.metrics.detection import CROP, find
from nas.models import safetensors_io
from nas.progress import progress

VERSION = 1
"""Changes with the networks, their training, or the data they are trained on."""
CLASS_STEPS, CLIP_STEPS = 700, 150
CANVASES = (32, 48, 64)
"""Sizes of the scenes that objects are cropped from."""
CLIP_FRAMES, CLIP_SIDE = 16, 32
"""Size to which clips are resized for features."""


class ObjectClassifier(nn.Module):
    """Crops of an object's ink `(B, 1, CROP, CROP)` from 0 to 1 -> logits of its class `(B, classes)`."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, 2, 2),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.project = nn.Linear(4 * width * (CROP // 8) ** 2, 96)
        self.classes = nn.Linear(96, len(CLASSES))

    def features(self, crops: Tensor) -> Tensor:
        """`(B, 96)`."""
        return F.silu(self.project(self.body(crops)))

    def forward(self, crops: Tensor) -> Tensor:
        return self.classes(F.dropout(self.features(crops), 0.3, self.training))


class ClipFeatures(nn.Module):
    """Clips `(B, 3, T, H, W)` in [-1, 1] of any size -> features for Frechet distances.

    It is trained to find which classes and colors a scene shows, how many objects, and in which directions they move.
    """

    def __init__(self, width: int = 16, features: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, width, (3, 5, 5), 2, (1, 2, 2)),
            nn.SiLU(),
            nn.Conv3d(width, 2 * width, 3, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv3d(2 * width, 4 * width, 3, (1, 2, 2), 1),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
        )
        self.project = nn.Linear(8 * width, features)
        self.labels = nn.Linear(features, len(CLASSES) + len(COLORS) + len(DIRECTIONS) + 3)

    def features(self, clips: Tensor) -> Tensor:
        """`(B, features)`."""
        hidden = self.body(resized(clips)).flatten(2)
        return F.silu(self.project(torch.cat([hidden.mean(2), hidden.amax(2)], 1)))

    def forward(self, clips: Tensor) -> Tensor:
        return self.labels(self.features(clips))


def resized(clips: Tensor) -> Tensor:
    """Clips as `ClipFeatures` sees them: at most `CLIP_FRAMES` frames, spread over the clip, of `CLIP_SIDE` pixels."""
    clips = clips.expand(-1, 3, -1, -1, -1)
    if clips.shape[2] > CLIP_FRAMES:
        clips = clips[:, :, torch.linspace(0, clips.shape[2] - 1, CLIP_FRAMES).round().long()]
    if clips.shape[3:] == (CLIP_SIDE, CLIP_SIDE):
        return clips
    frames = clips.transpose(1, 2).flatten(0, 1)
    small = F.interpolate(frames, (CLIP_SIDE, CLIP_SIDE), mode="bilinear", antialias=True)
    return small.unflatten(0, (len(clips), clips.shape[2])).transpose(1, 2)


@dataclass(frozen=True)
class Judges:
    """The trained networks."""

    objects: ObjectClassifier
    clips: ClipFeatures

    @torch.no_grad()
    def classify(self, crops: np.ndarray) -> tuple[str, np.ndarray]:
        """The class of an object from crops `(n, CROP, CROP)` of several frames, and the features of each `(n, 96)`."""
        device = next(self.objects.parameters()).device
        hidden = self.objects.features(torch.from_numpy(crops)[:, None].to(device))
        scores = self.objects.classes(hidden).log_softmax(1).mean(0)
        return CLASSES[int(scores.argmax())], hidden.cpu().numpy()

    @torch.no_grad()
    def features(self, clips: Tensor, batch: int = 16) -> np.ndarray:
        """Features `(N, D)`, float64, of clips `(N, C, T, H, W)`."""
        device = next(self.clips.parameters()).device
        parts = [self.clips.features(part.to(device)).double().cpu() for part in clips.split(batch)]
        return torch.cat(parts).numpy()


def load_judges(folder: Path | None = None) -> Judges:
    """The judges, loaded from `folder` or trained and saved there; default: the user's cache folder.

    Files are written whole, so an interrupted training is repeated; so is one by another version of this library.

    Raises:
        ConfigError: the cache folder cannot be written.
        MissingDependency: scikit-learn, which has the handwritten digits, is not installed.
    """
    folder = caches.usable(folder or caches.user_cache("judges"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objects, clips = ObjectClassifier(), ClipFeatures()
    for module, name, steps, train in (
        (objects, "objects", CLASS_STEPS, train_objects),
        (clips, "clips", CLIP_STEPS, train_clips),
    ):
        path = folder / f"{name}-v{VERSION}-{steps}.safetensors"
        if not path.exists():
            train(module.to(distributed.device()), steps)
            safetensors_io.save(path, module.state_dict())
        safetensors_io.load_into(module, path)
        module.to(distributed.device()).eval().requires_grad_(False)
    return Judges(objects, clips)


def object_crops(split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crops `(n, 1, CROP, CROP)` of objects in images of scenes, as the detection gives them, and their classes `(n,)`."""
    crops, labels = [], []
    sources = [
        Scenes(SceneConfig(objects=(1, 2), seed=seed + side), split, height=side, width=side) for side in CANVASES
    ]
    for index in progress(range(count), "draw scenes", count, unit="scene"):
        source = sources[index % len(sources)]
        scene = source.scene(index, "images")
        names = {thing.color: thing.name for thing in scene.objects}
        for one in find(source.paint(scene), 1):
            if one.color in names:
                crops.append(one.crops[:1])
                labels.append(CLASSES.index(names[one.color]))
    return torch.from_numpy(np.stack(crops)), torch.tensor(labels)


def train_objects(network: ObjectClassifier, steps: int, batch: int = 64, scenes: int = 3000) -> None:
    """Train the classifier on crops that are turned, resized, blurred and noisy, as those of generated clips may be."""
    crops, labels = object_crops("train", scenes)
    device = next(network.parameters()).device
    for step, (optimizer, random) in enumerate(_training(network, steps, "judge of objects", 3e-3)):
        chosen = torch.randint(len(crops), (batch,), generator=random)
        inputs, wanted = _varied(crops[chosen], labels[chosen], random), labels[chosen]
        network.train()
        with torch.random.fork_rng(devices=[]):  # dropout
            torch.manual_seed(step)
            loss = F.cross_entropy(network(inputs.to(device)), wanted.to(device), label_smoothing=0.05)
        loss.backward()
        optimizer.step()


def train_clips(network: ClipFeatures, steps: int, batch: int = 24, scenes: int = 1000) -> None:
    """Train the features on scenes; in a quarter of the steps on single frames."""
    source = Scenes(SceneConfig(objects=(1, 2, 3)), "train", CLIP_FRAMES, CLIP_FRAMES / 3, CLIP_SIDE, CLIP_SIDE)
    chosen_scenes = [source.scene(index) for index in range(scenes)]
    clips = np.stack([source.paint(scene) for scene in progress(chosen_scenes, "draw clips", scenes, unit="clip")])
    targets = torch.stack([_clip_labels(scene.objects) for scene in chosen_scenes])
    device = next(network.parameters()).device
    for step, (optimizer, random) in enumerate(_training(network, steps, "features of clips", 3e-3)):
        chosen = torch.randint(scenes, (batch,), generator=random)
        inputs = torch.from_numpy(clips[chosen.numpy()])
        wanted, weights = targets[chosen], torch.ones(targets.shape[1])
        if step % 4 == 3:
            inputs = inputs[:, :, int(torch.randint(CLIP_FRAMES, (1,), generator=random))][:, :, None]
            weights[len(CLASSES) + len(COLORS) : -3] = 0  # a frame has no direction
        inputs = inputs + 0.1 * torch.rand(1, generator=random) * torch.randn(inputs.shape, generator=random)
        logits = network(inputs.to(device))
        loss = F.binary_cross_entropy_with_logits(logits, wanted.to(device), weights.to(device))
        loss.backward()
        optimizer.step()


def _training(
    network: nn.Module, steps: int, title: str, rate: float
) -> Iterator[tuple[torch.optim.Optimizer, torch.Generator]]:
    """Per step the optimizer, without gradients, and a random generator."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in progress(range(steps), title, steps):
        optimizer.zero_grad()
        yield optimizer, generator(0, step)
        schedule.step()


def _clip_labels(things) -> Tensor:
    """Which classes, colors and directions objects have, and how many there are: 0 or 1 each."""
    groups = (
        (CLASSES, {thing.name for thing in things}),
        (tuple(COLORS), {thing.color for thing in things}),
        (tuple(DIRECTIONS), {thing.direction for thing in things}),
        ((1, 2, 3), {len(things)}),
    )
    return torch.tensor([float(value in present) for values, present in groups for value in values])


def _varied(crops: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    """Crops turned (digits only a little), resized, moved, blurred, weakened and noisy."""
    count = len(crops)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    most = torch.where(labels < len(WORDS), math.radians(12), math.pi)
    angle, scale = drawn(-1, 1) * most, drawn(0.9, 1.15)
    rows = torch.stack([angle.cos() / scale, -angle.sin() / scale, drawn(-0.08, 0.08)], 1)
    columns = torch.stack([angle.sin() / scale, angle.cos() / scale, drawn(-0.08, 0.08)], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(crops.shape), align_corners=False)
    turned = F.grid_sample(crops, grid, align_corners=False)
    blurred = F.avg_pool2d(F.avg_pool2d(turned, 3, 1, 1), 3, 1, 1)
    mix = drawn(0, 0.6)[:, None, None, None]
    varied = (mix * blurred + (1 - mix) * turned) * drawn(0.7, 1.15)[:, None, None, None]
    return (varied + 0.05 * torch.randn(varied.shape, generator=random)).clamp(0, 1)
