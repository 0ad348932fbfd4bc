"""What pixels tell of scenes, without networks, and scores of right and wrong clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data.scenes import Background, Scene, SceneConfig, SceneObject, Scenes
from nas.metrics import judges as judge_module
from nas.metrics.detection import find, motion
from nas.metrics.judges import Judges, ObjectClassifier, load_judges, object_crops
from nas.metrics.results import JUDGED
from nas.metrics.scene_scores import score


class Oracle:
    """Judges that know the class of the objects by their color, so that tests of the rest need no training."""

    def __init__(self, scene: Scene) -> None:
        self.names = {thing.color: thing.name for thing in scene.objects}

    def classify(self, crops: np.ndarray) -> tuple[str, np.ndarray]:
        return self.asked.pop(0), crops.reshape(len(crops), -1)

    def of(self, clip: np.ndarray) -> Oracle:
        self.asked = [self.names.get(one.color, "cross") for one in find(clip)]
        return self


def scored(clip: np.ndarray, scene: Scene):
    return score(clip, scene, Oracle(scene).of(clip))


@pytest.mark.parametrize(("frames", "fps", "side"), [(25, 8.0, 64), (17, 8.0, 32), (9, 4.0, 96)])
def test_judges_by_pixels_are_right_on_real_clips(frames, fps, side):
    source = Scenes(SceneConfig(objects=(1, 2, 3)), "test", frames, fps, side, side)
    right, total = dict.fromkeys(JUDGED, 0), dict.fromkeys(JUDGED, 0)
    for index in range(60):
        scene = source.scene(index)
        one = scored(source.paint(scene), scene)
        for name in JUDGED:
            right[name] += one.right[name]
            total[name] += one.total[name]
    for name in set(JUDGED) - {"class"}:
        least = 0.95 if name == "scene" else 0.97  # a whole scene is right if four judges are right of all its objects
        assert total[name] >= 10 and right[name] >= least * total[name], (name, right[name], total[name])


def test_blur_and_noise_do_not_mislead_them():
    source, random = Scenes(SceneConfig(objects=(2,)), "test", 17), np.random.default_rng(0)
    hits = []
    for index in range(20):
        scene = source.scene(index)
        clip = torch.from_numpy(source.paint(scene)).transpose(0, 1)
        soft = torch.nn.functional.avg_pool2d(clip, 3, 1, 1).transpose(0, 1).numpy()
        one = scored(soft + random.normal(0, 0.05, soft.shape).astype(np.float32), scene)
        hits += [one.right[name] / one.total[name] for name in ("color", "direction", "count")]
    assert np.mean(hits) >= 0.95


def test_wrong_clips_are_scored_as_wrong():
    things = (
        SceneObject("square", "red", "small", "left", "slow", start=(0.25, 0.5)),
        SceneObject("circle", "blue", "large", "none", "none", start=(0.7, 0.6)),
    )
    scene = Scene(things, Background(), 17)
    source = Scenes(SceneConfig(), "test", 17)
    clip = source.paint(scene)
    assert scene.relations == ((0, "above", 1),)
    right = scored(clip, scene)
    assert right.right == {**right.total} and right.total["relation"] == 1 and right.total["speed"] == 1

    backward = scored(clip[:, ::-1], scene)
    assert (backward.right["direction"], backward.total["direction"]) == (1, 2) and backward.right["scene"] == 1
    upside_down = scored(clip[:, :, ::-1], scene)
    assert upside_down.right["relation"] == 0 and upside_down.right["direction"] == 2
    fast = scored(clip[:, ::2], scene)
    assert (fast.right["speed"], fast.right["direction"]) == (0, 2)
    swapped = scored(clip[[2, 1, 0]], scene)  # red and blue
    assert swapped.right["color"] == 2 and swapped.right["direction"] == 0
    alone = scored(source.paint(Scene(things[:1], Background(), 17)), scene)
    assert (alone.right["object"], alone.right["count"], alone.right["scene"]) == (1, 0, 0)
    empty = scored(np.full_like(clip, -0.8), scene)
    assert not any(empty.right.values()) and np.isnan(empty.subject)
    twins = SceneObject("square", "red", "small", start=(0.75, 0.2))
    assert scored(source.paint(Scene((*things, twins), Background(), 17)), scene).right["count"] == 0


def test_an_object_that_crosses_the_border_is_one_and_moves_on():
    thing = SceneObject("cross", "green", "large", "right", "fast", start=(0.5, 0.8))
    source = Scenes(SceneConfig(), "test", 25)
    (found,) = find(source.paint(Scene((thing,), Background(), 25)))
    moved = motion(found, (64, 64), 8.0)
    assert found.color == "green" and found.parts == 1 and moved.direction == "right" and moved.speed() == "fast"
    assert moved.net[1] == pytest.approx(0.375, rel=0.02) and abs(moved.net[0]) < 0.01
    assert found.crops.shape == (4, 32, 32) and found.crops.max() > 0.9


def test_an_object_that_only_shows_for_a_moment_is_none():
    source = Scenes(SceneConfig(), "test", 20)
    thing = SceneObject("square", "red", "large")
    clip, nothing = (source.paint(Scene(things, Background(), 20)) for things in ((thing,), ()))
    assert not find(np.concatenate([clip[:, :4], nothing[:, 4:]], 1))
    (found,) = find(np.concatenate([clip[:, :9], nothing[:, 9:]], 1))
    assert list(found.seen) == [True] * 9 + [False] * 11


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    """Judges that were trained for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        hurried(patch)
        return load_judges(tmp_path_factory.mktemp("judges"))


def hurried(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judge_module, "CLASS_STEPS", 60)
    patch.setattr(judge_module, "CLIP_STEPS", 4)
    objects, clips = judge_module.train_objects, judge_module.train_clips
    patch.setattr(judge_module, "train_objects", lambda network, steps: objects(network, steps, 32, 300))
    patch.setattr(judge_module, "train_clips", lambda network, steps: clips(network, steps, 8, 20))


def test_the_judge_of_classes_learns_and_is_loaded_again(judges, tmp_path, monkeypatch):
    crops, labels = object_crops("test", 80)
    with torch.no_grad():
        accuracy = (judges.objects(crops).argmax(1) == labels).float().mean().item()
    assert accuracy > 0.4  # chance is 0.06; the whole training reaches 0.97
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    hurried(monkeypatch)
    monkeypatch.setattr(judge_module, "CLASS_STEPS", 2)
    monkeypatch.setattr(judge_module, "CLIP_STEPS", 1)
    first = load_judges(tmp_path)
    assert (torch.random.get_rng_state() == before).all()
    monkeypatch.setattr(judge_module, "train_objects", None)
    monkeypatch.setattr(judge_module, "train_clips", None)
    again = load_judges(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.objects.state_dict().values(), again.objects.state_dict().values())
    )


def test_an_interrupted_training_leaves_no_file(tmp_path: Path, monkeypatch):
    hurried(monkeypatch)

    def interrupted(network: ObjectClassifier, steps: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge_module, "train_clips", interrupted)
    monkeypatch.setattr(judge_module, "CLASS_STEPS", 1)
    with pytest.raises(KeyboardInterrupt):
        load_judges(tmp_path)
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["objects"]


def test_features_of_clips_take_any_size_and_tell_noise_from_scenes(judges):
    source = Scenes(SceneConfig(), "test", 21, 8.0, 48, 64)
    clips = torch.from_numpy(np.stack([source.video(i).pixels for i in range(6)]))
    features = judges.features(clips)
    assert features.shape == (6, 64) and features.dtype == np.float64
    assert np.allclose(features[2:3], judges.features(clips[2:3]), atol=1e-5)
    assert judges.features(clips[:, :1, :1]).shape == (6, 64)  # gray images
    assert np.linalg.norm(judges.features(torch.randn(1, 3, 21, 48, 64)) - features.mean(0)) > 0
