"""Scenes as a `Source` of captioned clips and images: drawn, painted and captioned one at a time from the index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from nas.config import load
from nas.data.digits import WORDS, handwritten
from nas.data.scenes.captions import caption, plain_caption
from nas.data.scenes.config import Combination, SceneConfig
from nas.data.scenes.drawing import draw
from nas.data.scenes.labels import Scene
from nas.data.scenes.sampling import draw_scene
from nas.data.source import Sample
from nas.errors import ConfigError
from nas.files import short_hash

NAME = "scenes"
"""The data set with the default config, where a data set is named; otherwise a YAML file with a `SceneConfig`."""
VERSION = 1
"""Changes with what a scene of an index looks like."""
SUFFIXES = (".yaml", ".yml")
SMALLEST = 16
"""Pixels of the shorter side of a canvas."""
KINDS = ("videos", "images")


class Scenes:
    """Clips `(3, frames, height, width)` of one to three moving objects, and images of such.

    An item is a function of the config's seed, the split, the kind and the index, so nothing is stored, and workers that
    share the indices see together what one would see. Clips of the test split show handwritten digits that are not in
    the train split.

    Args:
        split: `train` or `test`.
        frames, fps, height, width: of a clip.
        must: every scene has an object with one of these combinations, held out or not.

    Raises:
        ConfigError: an unknown split, or a canvas below 16x16 pixels.
        MissingDependency: scikit-learn, which has the handwritten digits, is not installed.
    """

    channels = 3
    skipped = ()

    def __init__(
        self,
        config: SceneConfig,
        split: str = "train",
        frames: int = 24,
        fps: float = 8.0,
        height: int = 64,
        width: int = 64,
        must: Sequence[Combination] = (),
    ) -> None:
        if min(height, width) < SMALLEST:
            raise ConfigError(f"scenes: a canvas of {height}x{width} pixels is too small; use {SMALLEST}x{SMALLEST}")
        self.config, self.split, self.must = config, split, tuple(must)
        self.frames, self.fps, self.height, self.width = frames, fps, height, width
        self._glyphs = handwritten(split)

    @property
    def videos(self) -> int:
        return self._count(self.config.videos)

    @property
    def images(self) -> int:
        return self._count(self.config.images)

    def scene(self, index: int, kind: str = "videos") -> Scene:
        """The labels of an item of `videos` or `images`."""
        size = self.frames, self.fps, self.height, self.width
        return draw_scene(self.config, kind, self._random(kind, index), self._numbers, *size, must=self.must)

    def video(self, index: int) -> Sample:
        return self._sample("videos", index)

    def image(self, index: int) -> Sample:
        return self._sample("images", index)

    def paint(self, scene: Scene) -> np.ndarray:
        """Pixels `(3, frames, height, width)` in [-1, 1] of a scene with this split's handwritten digits."""
        return draw(scene, [self._glyphs.get(thing.name, _NO_GLYPHS)[thing.glyph] for thing in scene.objects])

    def captions(self, scene: Scene, kind: str, index: int) -> tuple[str, ...]:
        """The captions of an item; different ones, as many as the config asks for, or the plain one."""
        if self.config.phrasing == "plain":
            return (plain_caption(scene),)
        random = self._random(kind, index, 1)
        found = dict.fromkeys(caption(scene, random) for _ in range(4 * self.config.wordings))
        return tuple(found)[: self.config.wordings]

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of all that the pixels and captions depend on."""
        size = self.frames, self.fps, self.height, self.width
        return short_hash([VERSION, self.split, size, self.config.to_dict()])

    def _sample(self, kind: str, index: int) -> Sample:
        scene = self.scene(index, kind)
        first, *others = self.captions(scene, kind, index)
        return Sample(self.paint(scene), first, tuple(others))

    def _random(self, kind: str, index: int, use: int = 0) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, self.split == "test", KINDS.index(kind), index, use))

    def _count(self, train: int) -> int:
        return train if self.split == "train" else max(train // 5, 1)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: len(self._glyphs[word]) for word in WORDS}


_NO_GLYPHS = np.zeros((1, 8, 8))


def is_scenes(data: str | Path) -> bool:
    """Whether the name of a data set means scenes."""
    return str(data) == NAME or (Path(data).suffix in SUFFIXES and not Path(data).is_dir())


def load_config(data: str | Path) -> SceneConfig:
    """The config that a data set's name stands for: `scenes`, or a YAML file.

    Raises:
        ConfigError: the file does not exist, or is invalid.
    """
    return SceneConfig() if str(data) == NAME else load(SceneConfig, data, "scenes")
