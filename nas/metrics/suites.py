"""What `nas evaluate` generates: the cases of each suite, their captions, and the real clips beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.data.digits import LABELS, MovingDigits, caption_of
from nas.data.scenes import Combination, Scene, SceneConfig, Scenes
from nas.data.scenes.config import HeldOut
from nas.data.source import batch_indices
from nas.errors import ConfigError, suggestion
from nas.metrics.evaluation import REFERENCE
from nas.models.text_encoder import EMPTY
from nas.spaces import Clip

SUITES = ("standard", "long", "stress")
LASTING = ("moves", "bounces", "spins")
"""Manners of objects that are seen in every part of a clip of any length."""
LONGER = (2, 4)
"""Lengths of the suite `long`, in trained lengths."""
WORDINGS = 3
"""Captions of one scene that a long caption consists of."""

Lengths = Sequence[int]
"""Frames of a clip of 1, 2 and 4 trained lengths of latents."""


@dataclass(frozen=True)
class Case:
    """Clips to generate and to compare.

    Attributes:
        title: its name in tables.
        captions: one per clip.
        times: length of the clips in trained lengths.
        scenes: that the captions describe; None for captions without labels.
        real: pixels `(C, T, H, W)` of a real clip for each caption: what a perfect model might generate.
        reference: further real clips; None: the real ones, whose own distance is then not known.
        on_scenes: whether the model was trained on scenes.
        parts: what is measured of each clip: a suffix of the title, and the number of frames from the end (None: all).
    """

    title: str
    captions: tuple[str, ...]
    times: int = 1
    scenes: tuple[Scene | None, ...] = ()
    real: Callable[[], Iterator[np.ndarray]] | None = None
    reference: Callable[[], Iterator[np.ndarray]] | None = None
    on_scenes: bool = False
    parts: tuple[tuple[str, int | None], ...] = (("", None),)


def scene_cases(suite: str, config: SceneConfig, clip: Clip, lengths: Lengths, count: int) -> list[Case]:
    """The cases of a suite for a model that was trained on scenes.

    Args:
        clip: that the model was trained on.

    Raises:
        ConfigError: there is no such suite.
    """
    check_suite(suite)

    def case(title: str, config: SceneConfig, times: int = 1, must: tuple[Combination, ...] = ()) -> Case:
        frames = lengths[(1, *LONGER).index(times)]
        return _scene_case(title, Scenes(config, "test", frames, clip.fps, clip.height, clip.width, must), count, times)

    if suite == "standard":
        return [case("scenes", config)]
    if suite == "long":
        lasting = replace(config, manners=tuple(m for m in config.manners if m in LASTING) or ("moves",))
        last = (", last part", lengths[0])
        longer = [replace(case(f"{times}x length", lasting, times), parts=(("", None), last)) for times in LONGER]
        return [case("1x length", lasting), *longer]
    several = tuple(number for number in config.objects if number > 1) or (2,)
    colors = config.colors if len(set(config.colors)) > 2 else SceneConfig().colors
    free = replace(config, held_out=HeldOut(), colors=colors, objects=several)
    cases = [
        case("three objects", replace(free, objects=(3,))),
        case("crossing paths", replace(free, crossing=True)),
    ]
    if config.held_out.videos:
        cases.append(case("unseen combinations", free, must=config.held_out.videos))
    plain = case("scenes", free)
    unlabeled = replace(plain, scenes=(None,) * count)
    return [
        *cases,
        replace(plain, title="long captions", captions=_long(free, plain, clip, lengths[0])),
        replace(unlabeled, title="contradictory captions", captions=_contradictory(plain)),
        replace(unlabeled, title="empty captions", captions=(EMPTY,) * count),
    ]


def digit_cases(suite: str, lengths: Lengths, count: int) -> list[Case]:
    """Those for a model that was trained on moving digits: what needs no labels.

    Raises:
        ConfigError: there is no such suite, or not for this data.
    """
    _check_has_no_labels(suite)
    captions = tuple(caption_of(LABELS[i % len(LABELS)]) for i in range(count))

    def case(times: int) -> Case:
        source = MovingDigits("test", lengths[(1, *LONGER).index(times)])
        chosen = batch_indices(0, 0, min(count + REFERENCE, source.videos), source.videos)

        def clips(part: slice) -> Iterator[np.ndarray]:
            return (source.video(index).pixels for index in chosen[part])

        return Case(
            f"{times}x length" if suite == "long" else "captions",
            captions,
            times,
            (None,) * count,
            lambda: clips(slice(None, count)),
            lambda: clips(slice(count, None)),
        )

    return [case(times) for times in ((1, *LONGER) if suite == "long" else (1,))]


def other_cases(suite: str, captions: tuple[str, ...], real: Callable[[], Iterator[np.ndarray]]) -> list[Case]:
    """Those for a model of any other data, from the captions of its held-out clips and these clips.

    Raises:
        ConfigError: there is no such suite, or not for this data.
    """
    _check_has_no_labels(suite)
    first = Case("captions", captions, 1, (None,) * len(captions), real)
    if suite == "standard":
        return [first]
    longer = [replace(first, title=f"{times}x length", times=times, real=None) for times in LONGER]
    return [replace(first, title="1x length"), *longer]


def check_suite(suite: str) -> None:
    """
    Raises:
        ConfigError: there is no such suite.
    """
    if suite not in SUITES:
        raise ConfigError(f"suite: no suite '{suite}'{suggestion(suite, SUITES)}")


def _check_has_no_labels(suite: str) -> None:
    check_suite(suite)
    if suite == "stress":
        raise ConfigError("suite: 'stress' asks for scenes, which this model was not trained on; give standard or long")


def _scene_case(title: str, source: Scenes, count: int, times: int) -> Case:
    scenes = tuple(source.scene(index) for index in range(count))
    captions = tuple(source.captions(scene, "videos", index)[0] for index, scene in enumerate(scenes))
    return Case(
        title,
        captions,
        times,
        scenes,
        lambda: (source.paint(scene) for scene in scenes),
        lambda: (source.video(index).pixels for index in range(count, count + REFERENCE)),
        on_scenes=True,
    )


def _long(config: SceneConfig, case: Case, clip: Clip, frames: int) -> tuple[str, ...]:
    """Several wordings of each scene, one sentence after the other."""
    wordy = Scenes(
        replace(config, wordings=WORDINGS, phrasing="varied"), "test", frames, clip.fps, clip.height, clip.width
    )
    texts = (wordy.captions(scene, "videos", i) for i, scene in enumerate(case.scenes) if scene is not None)
    return tuple("in this clip, " + ", in other words, ".join(several) for several in texts)


def _contradictory(case: Case) -> tuple[str, ...]:
    """Captions of the first object of each scene that cannot be true."""
    texts = []
    for scene in case.scenes:
        if scene is not None:
            name = f"{scene.objects[0].color} {scene.objects[0].name}"
            texts.append(f"a {name} moves left fast while the {name} moves right slowly and the {name} stays still")
    return tuple(texts)
