"""Measures without labels: what makes a clip worse lowers them."""

from __future__ import annotations

import numpy as np
import torch

from nas.data.scenes import Background, Scene, SceneConfig, SceneObject, Scenes
from nas.metrics import detection
from nas.metrics.label_free import consistency, measure
from nas.metrics.measures import drift
from nas.metrics.statistics import distance, share

SOURCE = Scenes(SceneConfig(), "test", 17)
STILL = SceneObject("square", "red", "small", start=(0.3, 0.3))
MOVING = SceneObject("square", "red", "small", "right", "slow", start=(0.3, 0.3))


def clip_of(*things: SceneObject, background: Background | None = None, fps: float = 8.0) -> torch.Tensor:
    return torch.from_numpy(SOURCE.paint(Scene(things, background or Background(), 17, fps)))


def test_only_what_moves_is_dynamic():
    still, moving = measure(clip_of(STILL), 8.0), measure(clip_of(MOVING), 8.0)
    assert (still.dynamic, still.speed) == (0, 0) and moving.dynamic == 1
    assert 0.1 < moving.speed < 0.25  # 0.125; ways are whole pixels of the resized clip
    assert measure(clip_of(MOVING, fps=24.0), 24.0).dynamic == 1
    noisy = clip_of(STILL) + 0.02 * torch.randn(3, 17, 64, 64, generator=torch.Generator().manual_seed(0))
    assert measure(noisy, 8.0).dynamic == 0


def test_flicker_and_jerks_lower_their_measures():
    steady = clip_of(STILL)
    flickering = steady + 0.2 * torch.tensor([1.0, -1.0] * 8 + [1.0])[:, None, None]
    assert measure(steady, 8.0).flicker == 1 and measure(flickering, 8.0).flicker < 0.85
    smooth = clip_of(MOVING)
    order = [0, 3, 1, 5, 2, 7, 4, 9, 6, 11, 8, 13, 10, 15, 12, 16, 14]
    assert measure(smooth, 8.0).smoothness > 0.998 > measure(smooth[:, order], 8.0).smoothness + 0.005
    assert measure(smooth, 8.0).flicker > 0.995  # motion is no flicker


def test_a_background_that_changes_is_not_consistent_and_objects_are_not_looked_at():
    textured = Background("stripes", (0.2, 0.2, 0.2), 0.12, ((0, 3),), (0.0,), (0.0, 0.06))
    steady = clip_of(MOVING, background=textured)
    changing = steady.clone()
    changing[:, 8:] += 0.5
    kept, broken = (measure(clip, 8.0, detection.background(clip.numpy())) for clip in (steady, changing))
    assert kept.background > 0.98 > broken.background + 0.05
    assert drift(steady.numpy(), detection.background(steady.numpy())) < 0.02
    assert drift(changing.numpy(), None) > 0.1


def test_real_scenes_are_near_one():
    found = [measure(torch.from_numpy(SOURCE.video(i).pixels), 8.0) for i in range(12)]
    assert (
        min(np.mean([getattr(one, name) for one in found]) for name in ("smoothness", "flicker", "background")) > 0.97
    )


def test_large_and_gray_clips_and_pairs_of_frames():
    large = measure(torch.rand(1, 5, 90, 160) * 2 - 1, 8.0)
    assert large.flicker < 0.95 and 0 <= large.background <= 1
    assert measure(torch.zeros(3, 2, 32, 32), 30.0).smoothness == 1
    assert consistency(np.ones((1, 4))) == 1


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        totals = random.integers(1, 4, 60)
        hits = random.binomial(totals, 0.8)
        one = share(hits, totals, seed)
        assert one.low <= one.value <= one.high and one.count == totals.sum()
        covered.append(one.low <= 0.8 <= one.high)
    assert 0.88 <= np.mean(covered) <= 0.99
    assert not share([]).known and not share([np.nan]).known and share([1, np.nan]).value == 1
    real, generated = random.normal(size=(80, 4)), random.normal(0.5, 1, size=(60, 4))
    found = distance(generated, real)
    assert found.low < found.value < found.high and found.low > 0.2 and found.count == 60
