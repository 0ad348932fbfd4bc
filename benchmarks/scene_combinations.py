"""Clips to generate of scenes whose combinations of class and color training clips showed, or did not show."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from joint import with_some
from torch import Tensor, nn

from nas import checkpoint
from nas.config import build
from nas.data.scenes import Combination, SceneConfig, Scenes
from nas.data.scenes.config import CLASSES, COLORS, HeldOut
from nas.diffusion.losses import validation_loss
from nas.diffusion.sampling import generate
from nas.files import read_json, write_json
from nas.metrics.judges import load_judges
from nas.metrics.scene_scores import score
from nas.models import safetensors_io
from nas.models.autoencoder import encode_clips
from nas.models.text_encoder import EMPTY, PromptEncoder
from nas.spaces import SearchSpace

COMBINATIONS = ("unseen", "seen")
"""Whether training clips show them."""
SETS = {"unseen": ("unseen", 2), "seen": ("seen", 2), "unseen_single": ("unseen", 1), "seen_single": ("seen", 1)}
"""Combinations of every object of a scene, and the number of objects."""
MEASURES = ("object", "scene", "direction", "moving_scene")
AT_ONCE = 8
"""Clips encoded or decoded at once."""


def combinations(config: SceneConfig) -> dict[str, tuple[Combination, ...]]:
    """The pairs of class and color of each kind."""
    found: dict[str, tuple[Combination, ...]] = {kind: () for kind in COMBINATIONS}
    for name, color in itertools.product(config.class_names, config.colors):
        held_out = any(one.holds({"class": name, "color": color}) for one in config.held_out.videos)
        found["unseen" if held_out else "seen"] += (Combination(name, color),)
    return found


def scenes_of(config: SceneConfig, name: str) -> SceneConfig:
    """The scenes of one of `SETS`."""
    kind, objects = SETS[name]
    (other,) = set(COMBINATIONS) - {kind}
    return replace(config, objects=(objects,), held_out=HeldOut(videos=combinations(config)[other]))


def shows_only(caption: str, allowed: Iterable[Combination]) -> bool:
    """Whether every object that a caption names, `... COLOR CLASS`, has one of the combinations."""
    pairs = {(one.color, one.name) for one in allowed}
    words = caption.replace(",", " ").split()
    named = [(color, name) for color, name in itertools.pairwise(words) if color in COLORS and name in CLASSES]
    return bool(named) and all(pair in pairs for pair in named)


def with_images_of(decoder: Path, copy: Path, allowed: Iterable[Combination]) -> Path:
    """A copy of a decoder stage with those of its images that show only these combinations, and all clips."""
    pairs = tuple(allowed)
    return with_some(decoder, copy, "images", lambda caption: shows_only(caption, pairs))


def shares(clips: Iterable[np.ndarray], scenes: Iterable, judges) -> dict[str, float]:
    """Shares of clips `(3, T, H, W)` and their objects that are as their scenes say.

    `object`: objects whose class and color are right; `direction`: objects that move as they should; `scene`: clips with
    the right objects and no others, the multi-object accuracy; `moving_scene`: those of them whose objects also all move as
    they should.
    """
    scores = [score(clip, scene, judges) for clip, scene in zip(clips, scenes)]
    objects = sum(one.total["object"] for one in scores)
    right = {name: sum(one.right[name] for one in scores) / objects for name in ("object", "direction")}
    whole = [one.right["scene"] == 1 for one in scores]
    moving = [one.right["direction"] == one.total["object"] for one in scores]
    return right | {"scene": float(np.mean(whole)), "moving_scene": float(np.mean(np.logical_and(whole, moving)))}


class SceneSets:
    """The scenes, captions and real clips of all sets, and the judges.

    Args:
        decoder: the folder of a finished `decoder` stage on scenes.
        folder: where texts and latents are kept for the next process.
        clips: of each set.
    """

    def __init__(self, decoder: Path, space: SearchSpace, folder: Path, clips: int) -> None:
        self.config, self.space, self.clips = scene_config(decoder), space, clips
        self.autoencoder = checkpoint.load_autoencoder(decoder)
        self.judges = load_judges()
        clip = space.clip
        self.sources = {
            name: Scenes(scenes_of(self.config, name), "test", clip.frames, clip.fps, clip.height, clip.width)
            for name in SETS
        }
        self.scenes = {name: [source.scene(i) for i in range(clips)] for name, source in self.sources.items()}
        path = folder / f"scenes-{clips}.safetensors"
        if not path.exists():
            safetensors_io.save(path, self._encoded())
        self._tensors = safetensors_io.load(path)

    def _encoded(self) -> dict[str, Tensor]:
        encode_text = PromptEncoder(self.space.text)
        tensors = {"empty": encode_text([EMPTY])}
        for name, source in self.sources.items():
            captions = [source.captions(scene, "videos", i)[0] for i, scene in enumerate(self.scenes[name])]
            tensors[f"{name}.context"] = encode_text(captions)
            parts = torch.from_numpy(np.stack(list(self._real(name)))).split(AT_ONCE)
            tensors[f"{name}.latents"] = torch.cat([encode_clips(self.autoencoder, part) for part in parts])
        return tensors

    def _real(self, name: str) -> Iterator[np.ndarray]:
        return (self.sources[name].paint(scene) for scene in self.scenes[name])

    def evaluate(self, denoiser: nn.Module, steps: int, guidance: float) -> dict[str, float]:
        """`SET_MEASURE` of generated clips, and `SET_validation_loss` on the real ones."""
        denoiser.eval()
        shape, values = self.space.input_shape()[1:], {}
        for name in SETS:
            context, real = self._tensors[f"{name}.context"], self._tensors[f"{name}.latents"]
            latents = generate(denoiser, context, self._tensors["empty"], shape, steps, guidance)
            found = shares(self._decoded(latents), self.scenes[name], self.judges)
            found["validation_loss"] = validation_loss(denoiser, real, context)
            values |= {f"{name}_{measure}": value for measure, value in found.items()}
        return values

    def real(self, folder: Path) -> dict[str, dict[str, float]]:
        """What the judges say of the real clips, `real`, and of these after the autoencoder, `reconstructed`: upper bounds."""
        path = folder / f"real-{self.clips}.json"
        if not path.exists():
            found: dict[str, dict[str, float]] = {"real": {}, "reconstructed": {}}
            for name in SETS:
                rebuilt = self._decoded(self._tensors[f"{name}.latents"])
                for kind, clips in (("real", self._real(name)), ("reconstructed", rebuilt)):
                    of_set = shares(clips, self.scenes[name], self.judges)
                    found[kind] |= {f"{name}_{measure}": value for measure, value in of_set.items()}
            write_json(path, found)
        return read_json(path, "judges of real clips")

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Iterator[np.ndarray]:
        for part in latents.split(AT_ONCE):
            yield from self.autoencoder.decode(part).numpy()


def scene_config(decoder: Path) -> SceneConfig:
    """The scenes that a decoder stage encoded."""
    path = decoder / "data.json"
    return build(SceneConfig, read_json(path, "data", dict)["scenes"], str(path), "scenes")
