"""The benchmark of joint training on scenes: what it compares, and on which combinations."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from nas.data.latent_cache import LatentCache
from nas.data.scenes import Combination, Scenes
from nas.data.scenes.source import load_config
from nas.files import write_json
from nas.models import safetensors_io

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("joint_scenes")


@pytest.fixture
def combinations(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scene_combinations")


def test_the_sets_divide_the_combinations_and_clips_show_every_class_and_color(module, combinations):
    config = load_config(module.DATA)
    sets = {name: {(c.name, c.color) for c in found} for name, found in combinations.combinations(config).items()}
    assert len(sets["seen"] | sets["unseen"]) == len(config.class_names) * len(config.colors)
    assert not sets["seen"] & sets["unseen"]
    assert {name for name, _ in sets["seen"]} == set(config.class_names)
    assert {color for _, color in sets["seen"]} == set(config.colors)


@pytest.mark.parametrize("name", ["seen", "unseen", "seen_single", "unseen_single"])
def test_all_objects_of_a_set_have_its_combinations(module, combinations, name):
    config = load_config(module.DATA)
    kind, objects = combinations.SETS[name]
    allowed = {(c.name, c.color) for c in combinations.combinations(config)[kind]}
    source = Scenes(combinations.scenes_of(config, name), "test", 13, 8, 32, 32)
    scenes = [source.scene(index) for index in range(60)]
    assert {len(scene.objects) for scene in scenes} == {objects}
    assert {(thing.name, thing.color) for scene in scenes for thing in scene.objects} == allowed


def test_arms_take_equally_many_steps(module):
    for arm in module.ARMS.values():
        assert sum(steps for _, steps, _ in arm.parts(1000)) == 1000
    assert module.ARMS["video"].parts(1000) == [("train", 1000, 0.0)]
    assert module.ARMS["image-first"].parts(1000) == [("images", 500, 1.0), ("train", 500, 0.0)]


@pytest.mark.parametrize("text", ["attention", "standardized"])
def test_image_steps_cost_as_much_as_clip_steps(module, text):
    costs = module.Setting(text, 10, 8, 1e-3, 3.0).step_gflops
    assert costs["images"] == pytest.approx(costs["clips"], rel=0.03)


def test_standardized_tokens_reach_the_denoiser_through_attention_alone(module):
    denoiser = module.Setting("standardized", 10, 2, 1e-3, 3.0).denoiser(0)
    time, texts = torch.tensor([500.0]), torch.randn(2, 1, *denoiser.space.context_shape()[1:])
    one, other = (denoiser.embed_time(time, denoiser.read_text(text)) for text in texts)
    assert torch.equal(one, other)
    x = torch.randn(denoiser.space.input_shape())
    assert not torch.equal(denoiser(x, time, texts[0]), denoiser(x, time, texts[1]))


def test_differences_are_paired_by_seed(module):
    rows = [
        {"arm": arm, "seed": seed, **dict.fromkeys(module.COLUMNS, 0.1 * seed + gain)}
        for arm, gain in (("video", 0.0), ("joint-50", 0.25))
        for seed in (0, 1, 2)
    ]
    line = next(line for line in module.tables({"rows": rows}).splitlines()[2:] if "+0.250" in line)
    assert line == "| unseen object | +0.250, +0.250 to +0.250 |"


def test_captions_tell_which_images_show_only_given_combinations(module, combinations):
    config = load_config(module.DATA)
    seen = combinations.combinations(config)["seen"]
    pairs = {(c.name, c.color) for c in seen}
    source = Scenes(config, "train", 4, 2, 32, 32)
    for index in range(60):
        shown = {(thing.name, thing.color) for thing in source.scene(index, "images").objects}
        assert combinations.shows_only(source.image(index).caption, seen) == (shown <= pairs)
    assert all(combinations.shows_only(source.video(index).caption, seen) for index in range(60))


def test_a_copy_of_the_encoded_scenes_keeps_the_images_of_given_combinations(combinations, tmp_path):
    train = tmp_path / "decoder/train"
    train.mkdir(parents=True)
    captions = ["a red square", "a large green circle and a red square", "a red square"]
    latents = torch.arange(3.0).reshape(3, 1, 1, 1, 1)
    for number, rows in enumerate((slice(0, 2), slice(2, 3))):
        safetensors_io.save(train / f"images-0000{number}.safetensors", {"1x1x1": latents[rows]})
        write_json(train / f"images-0000{number}.json", {"captions": {"1x1x1": captions[rows]}, "skipped": []})
    write_json(train / "cache.json", {"videos": {"1x1x1": [4]}, "images": {"1x1x1": [2, 1]}})
    write_json(train / "captions.json", ["", *captions[:2]])
    copy = combinations.with_images_of(tmp_path / "decoder", tmp_path / "seen", [Combination("square", "red")])
    cache = LatentCache(copy / "train")
    assert (cache.videos, cache.images) == (4, 2)
    assert cache.captions("images", range(2)) == ("a red square", "a red square")
    assert LatentCache(tmp_path / "decoder/train").images == 3
