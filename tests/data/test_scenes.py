"""Scenes: labels against pixels by an independent reading of them, reproducibility, captions, held-out combinations."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.data import load_source
from nas.data.digits import MovingDigits
from nas.data.scenes import Combination, HeldOut, SceneConfig, Scenes
from nas.data.scenes.config import CLASSES, COLORS, MANNERS, ROUND
from nas.errors import ConfigError
from nas.training.stages.prepare import PrepareConfig, prepare

SINGLE = SceneConfig(objects=(1,))
PLAIN_MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}

indices, seeds = st.integers(0, 10**6), st.integers(0, 10**6)


def ink(frame: np.ndarray, color: str) -> np.ndarray:
    """How much of each pixel `(H, W)` is ink of a color: by colorfulness, where the hue is nearest to the color's."""
    pixel = (np.moveaxis(frame, 0, -1) + 1) / 2
    chroma = pixel.max(-1) - pixel.min(-1)
    hues = {name: np.array(rgb) - min(rgb) for name, rgb in COLORS.items()}
    unit = {name: hue / np.linalg.norm(hue) for name, hue in hues.items()}
    pure = pixel - pixel.min(-1, keepdims=True)
    likeness = {name: pure @ hue for name, hue in unit.items()}
    best = np.max(list(likeness.values()), axis=0)
    return np.where((likeness[color] >= best) & (chroma > 0.25), chroma, 0)


def middle(weights: np.ndarray) -> np.ndarray:
    """(y, x) of the center of mass on a canvas whose opposite borders meet, in pixels."""
    found = []
    for axis in (0, 1):
        length = weights.shape[axis]
        angles = 2 * np.pi * (np.arange(length) + 0.5) / length
        found.append(np.angle((weights.sum(1 - axis) * np.exp(1j * angles)).sum()) % (2 * np.pi) * length / (2 * np.pi))
    return np.array(found)


@settings(max_examples=40)
@given(indices, seeds, st.sampled_from([(64, 64), (48, 80)]), st.sampled_from([4.0, 8.0, 24.0]))
def test_labels_agree_with_pixels(index, seed, size, fps):
    source = Scenes(SceneConfig(objects=(1,), seed=seed), "test", 12, fps, *size)
    scene, clip = source.scene(index), source.video(index).pixels
    (thing,) = scene.objects
    assert clip.shape == (3, 12, *size) and clip.dtype == np.float32 and abs(clip).max() <= 1
    for t in range(scene.frames):
        found = {color: ink(clip[:, t], color).sum() for color in COLORS}
        assert [color for color, mass in found.items() if mass > 8] == [thing.color] * bool(scene.visible[0, t])
        if scene.visible[0, t]:
            away = middle(ink(clip[:, t], thing.color)) - scene.centers[0, t]
            away = (away + scene.canvas / 2) % scene.canvas - scene.canvas / 2
            assert abs(away).max() < 2, (thing, t)


@settings(max_examples=40)
@given(indices)
def test_objects_move_as_their_labels_say(index):
    scene = Scenes(SINGLE, "train", 17, 8.0).scene(index)
    (thing,) = scene.objects
    steps = np.diff(scene.centers[0], axis=0)
    if thing.manner != "bounces":
        steps = (steps + 32) % 64 - 32
        pixels = {"slow": 1.0, "fast": 3.0, "none": 0.0}[thing.speed]
        assert np.allclose(steps, pixels * np.array(PLAIN_MOVES.get(thing.direction, (0, 0))))
    else:
        axis = int(thing.direction in ("left", "right"))
        assert not steps[:, 1 - axis].any() and (abs(steps[:, axis]) > 0).any()
        side = scene.side(0) / 2
        assert (scene.centers[0] >= side - 1e-9).all() and (scene.centers[0] <= 64 - side + 1e-9).all()
    assert scene.visible[0, 0] == (thing.manner != "appears") and scene.visible[0, -1] == (thing.manner != "vanishes")
    assert not (
        thing.manner == "spins" and (thing.name in ROUND or thing.name not in ("square", "triangle", "cross", "star"))
    )


@settings(max_examples=30)
@given(indices, seeds, st.sampled_from([1, 2, 3, 7]))
def test_items_do_not_depend_on_workers_order_or_process(index, seed, workers):
    config = SceneConfig(seed=seed, wordings=3)
    alone = Scenes(config, frames=2)
    wanted = [alone.video(i) for i in range(index, index + 3)]
    for rank in range(workers):
        other = Scenes(config, frames=2)
        for i in reversed(range(index, index + 3)):
            if i % workers == rank:
                again = other.video(i)
                assert (again.pixels == wanted[i - index].pixels).all() and again.captions == wanted[i - index].captions
    assert len(set(wanted[0].captions)) == len(wanted[0].captions) <= 3


@settings(max_examples=40)
@given(indices, st.sampled_from(["videos", "images"]), st.sampled_from(["varied", "plain"]))
def test_captions_name_every_object_and_only_relations_that_hold(index, kind, phrasing):
    source = Scenes(SceneConfig(objects=(1, 2, 3), wordings=4, phrasing=phrasing), frames=9)
    scene = source.scene(index, kind)
    sample = source.video(index) if kind == "videos" else source.image(index)
    assert len({thing.color for thing in scene.objects}) == len(scene.objects)
    for text in sample.captions:
        words = text.replace(",", "").replace(":", "").split()
        for thing in scene.objects:
            place = words.index(thing.color)
            following = words[place + 1 : place + 3]
            assert thing.name in (following[0], following[-1]) and following[0] in (thing.name, "digit")
            assert not {"small", "large"} & {words[place - 1]} or words[place - 1] == thing.size
        named = [color for color in words if color in COLORS]
        assert set(named) == {thing.color for thing in scene.objects}
        moving = [word for word in words if word in ("slowly", "fast", "quickly")]
        assert len(moving) == sum(thing.speed != "none" for thing in scene.objects)
        if kind == "images":
            assert not moving and all(thing.direction == "none" for thing in scene.objects)
    assert sample.pixels.shape[1] == (9 if kind == "videos" else 1)


@settings(max_examples=60)
@given(indices)
def test_relations_hold_in_every_frame(index):
    scene = Scenes(SceneConfig(objects=(2, 3)), frames=17).scene(index)
    for first, name, second in scene.relations:
        both = scene.visible[first] & scene.visible[second]
        apart = (scene.centers[second] - scene.centers[first])[both]
        axis = int(name in ("left of", "right of"))
        assert (apart[:, axis] > 0).all() == (name in ("left of", "above"))
        assert abs(apart[:, axis]).min() >= 0.15 * 64


def test_what_is_held_out_of_clips_is_seen_in_images_only():
    held = HeldOut(videos=(Combination(("square", "digits"), "red"), Combination(color="blue", direction="left")))
    source = Scenes(SceneConfig(objects=(1, 2, 3), held_out=held))

    def reds(kind: str) -> set[str]:
        return {o.name for i in range(200) for o in source.scene(i, kind).objects if o.color == "red"}

    assert "square" not in reds("videos") and not reds("videos") & set(CLASSES[:10]) and "circle" in reds("videos")
    assert {"square", "seven"} <= reds("images")
    moves = {(o.color, o.direction) for i in range(200) for o in source.scene(i).objects}
    assert ("blue", "left") not in moves and {("blue", "right"), ("red", "left")} <= moves
    unseen = Scenes(source.config, must=held.videos)
    for i in range(40):
        assert any(p.holds(o.attributes) for p in held.videos for o in unseen.scene(i).objects)


def test_every_value_occurs_and_test_digits_are_not_trained_on():
    source = Scenes(SceneConfig())
    things = [thing for i in range(300) for thing in source.scene(i).objects]
    assert {thing.name for thing in things} == set(CLASSES) and {thing.manner for thing in things} == set(MANNERS)
    assert {thing.direction for thing in things} == {*PLAIN_MOVES, "none"}
    train, test = (Scenes(SINGLE, split)._glyphs for split in ("train", "test"))
    drawn = {glyph.tobytes() for glyphs in train.values() for glyph in glyphs}
    assert not any(glyph.tobytes() in drawn for glyphs in test.values() for glyph in glyphs)
    assert sum(map(len, train.values())) == MovingDigits("train").videos // 4


def test_start_places_keep_objects_apart():
    source = Scenes(SceneConfig(objects=(3,), sizes=("small",)))
    for i in range(100):
        for first, second in itertools.combinations(source.scene(i).centers[:, 0], 2):
            assert np.linalg.norm(first - second) >= 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objects: [4]", ("objects", "at most 3")),
        ("classes: [sqare]", ("classes", "did you mean 'square'?")),
        ("colors: [red]", ("colors", "2 objects of one scene need as many colors")),
        ("held_out: {videos: [{class: digits}, {class: shapes}]}", ("held_out.videos", "leaves 0 colors")),
        ("held_out: {videos: [{colour: red}]}", ("unknown key", "held_out.videos[0].colour", "did you mean 'color'?")),
        ("held_out: {images: [{color: pink}]}", ("color", "unknown value 'pink'")),
        ("held_out: {images: [{}]}", ("at least one attribute",)),
        ("wordings: 0", ("wordings", "at least 1")),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, space, text, words):
    path = tmp_path / "scenes.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        load_source(str(path), "train", space, space.autoencoder)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and all(word in message for word in words), message


def test_the_config_of_a_file_survives_its_record(tmp_path, space):
    path = tmp_path / "mine.yaml"
    path.write_text("objects: [1, 1, 3]\nseed: 4\nheld_out: {videos: [{class: digits, color: [red, blue]}]}\n")
    source = load_source(str(path), "train", space, space.autoencoder)
    again = nas.config.build(SceneConfig, source.config.to_dict(), "data.json")
    assert Scenes(again, frames=2).hash == Scenes(source.config, frames=2).hash != Scenes(SceneConfig(), frames=2).hash
    clips = [Scenes(c, frames=2).video(5).pixels for c in (again, source.config)]
    assert (clips[0] == clips[1]).all()


def test_scenes_are_prepared_like_any_data(tmp_path, space, vae):
    path = tmp_path / "mine.yaml"
    path.write_text("videos: 30\nimages: 20\n")
    config = PrepareConfig(str(path), str(vae), videos=6, images=4, held_out=2)
    metrics = prepare(tmp_path / "out", config, space).metrics
    assert (metrics["videos"], metrics["images"], metrics["held_out"]) == (6, 4, 2)
    assert nas.files.read_json(tmp_path / "out/data.json", "data")["scenes"]["videos"] == 30
    path.write_text("videos: 30\nimages: 20\nseed: 1\n")
    with pytest.raises(ConfigError, match="other clips or captions"):
        prepare(tmp_path / "out", config, space)


def test_captions_differ_in_wording():
    source = Scenes(SceneConfig(objects=(2,), wordings=6), frames=9)
    texts = list(itertools.chain.from_iterable(source.video(i).captions for i in range(20)))
    assert len(set(texts)) > 100
    assert len({text.split()[0] for text in texts}) > 1


def test_a_canvas_too_small_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="16x16"):
        Scenes(SceneConfig(), height=8, width=64)


def test_plain_captions_are_alike_where_what_they_name_is():
    source = Scenes(SceneConfig(objects=(1,), wordings=6, phrasing="plain"), frames=9)
    named: dict[str, set[tuple[str, ...]]] = {}
    for index in range(400):
        (text,) = source.video(index).captions
        attributes = source.scene(index).objects[0].attributes
        named.setdefault(text, set()).add(tuple(value for name, value in attributes.items() if name != "size"))
    unsaid = {text for text, found in named.items() if len(found) > 1}
    assert all("bounces" in text for text in unsaid)  # left and right is both directions
    assert source.hash != Scenes(SceneConfig(objects=(1,), wordings=6), frames=9).hash
