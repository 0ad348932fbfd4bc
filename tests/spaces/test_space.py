"""Search spaces: shapes, workloads, canonical form, and line-numbered errors."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.errors import SpaceError
from nas.spaces import NONE, Backbone, BackboneSpace, CostOnlySpace, Latent, Operator, shipped_spaces

DEEP = """
name: deep
latent: {channels: 4, frames: 4, height: 8, width: 8}
text: {tokens: 4, dim: 16}
backbone: {channels: [32, 64], heads: 4}
depth: 3
operators:
  none:
  SelfAttention1D: {heads: 4}
  Conv1D_k5: {kind: Conv1D, kernel: 5}
  CrossAttention3D: {heads: 4}
sites:
  mid.0: [none, Conv1D_k5]
"""


@pytest.fixture
def deep(tmp_path):
    (tmp_path / "deep.yaml").write_text(DEEP)
    return nas.SearchSpace.load(tmp_path / "deep.yaml")


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_shipped_space_survives_saving(name, tmp_path):
    space = nas.SearchSpace.load(name)
    assert nas.SearchSpace.load(space.save(tmp_path / "copy.yaml")).hash == space.hash


def test_slots_follow_the_sites_and_their_own_choices(deep):
    assert list(deep.slots)[:4] == ["down.0.0/0", "down.0.0/1", "down.0.0/2", "down.1.0/0"]
    assert deep.slots["mid.0/2"] == (NONE, "Conv1D_k5")
    assert deep.operators["Conv1D_k5"] == Operator("Conv1D", (("kernel", 5),))


def test_equal_work_is_one_workload(deep):
    keys = [str(w) for w in deep.workloads()]
    assert len(set(keys)) == len(keys)
    # 3 operators at each of two resolutions, and the backbone: slots and sites of one shape share rows
    assert len(keys) == 1 + 3 * 2
    # text belongs to the key of what reads it and of nothing else
    assert all(("text" in k.split("]")[1]) == k.startswith(("CrossAttention", "Backbone")) for k in keys)


@given(st.integers(0, 10**6))
def test_canonical_form(seed):
    space = nas.SearchSpace.load("snapgen_v")
    rng = np.random.default_rng(seed)
    codes = [rng.integers(len(c)) if rng.random() < 0.5 else 0 for c in space.slots.values()]
    arch = space.decode(codes)
    for group in space.slot_groups:
        chosen = [arch.choices[slot] for slot in group]
        layers = [c for c in chosen if c != NONE]
        assert chosen == layers + [NONE] * (len(chosen) - len(layers))  # none stands last
        before = [c for slot, c in zip(space.slots, codes) if slot in group]
        named = [space.slots[s][c] for s, c in zip(group, before)]
        assert layers == [c for c in named if c != NONE]  # and the order of the layers stays
    assert space.decode(space.encode(arch)) == arch


def test_a_slot_keeps_what_its_neighbor_does_not_offer():
    space = nas.SearchSpace.load("demo")
    slots = {"mid.0/0": [NONE, "Conv1D"], "mid.0/1": [NONE, "Conv3D"]}
    two = nas.SearchSpace("two", slots, space.operators, space.backbone, space.latent, space.text)
    assert two.architecture({"mid.0/1": "Conv3D"}).choices == {"mid.0/0": NONE, "mid.0/1": "Conv3D"}


def test_cost_only_space_knows_names_alone():
    space = nas.SearchSpace(name="mine", slots={"s0": ["a", "none", "b"], "s1": ["a", "c"]})
    assert space.workloads() == ["s0/a", "s0/b", "s1/a", "s1/c"]
    assert space.slots["s0"] == ("none", "a", "b")
    assert space.encode(space.architecture({"s0": "b", "s1": "c"})).tolist() == [2, 1]
    with pytest.raises(SpaceError, match="cost-only"):
        space.input_shape()


def test_a_space_is_of_the_class_that_its_arguments_ask_for(tmp_path):
    demo, names = nas.SearchSpace.load("demo"), nas.SearchSpace(name="mine", slots={"s": ["none", "a"]})
    assert type(demo) is BackboneSpace and type(names) is CostOnlySpace
    for space in (demo, names):
        for copy in (pickle.loads(pickle.dumps(space)), nas.SearchSpace.load(space.save(tmp_path / "copy.yaml"))):
            assert type(copy) is type(space) and copy.hash == space.hash
    assert dataclasses.replace(demo, batch=2).input_shape()[0] == 2
    with pytest.raises(SpaceError, match="'x': text_encoder: needs a 'backbone' beside it"):
        nas.SearchSpace("x", {"s": ["a"]}, text_encoder=demo.text_encoder)
    with pytest.raises(SpaceError, match="'x': a backbone needs 'latent' and 'text' beside it"):
        nas.SearchSpace("x", demo.slots, demo.operators, demo.backbone)


def test_sites_of_the_real_unet_count_its_skips():
    sites = Backbone((320, 640, 1280, 1280), 2, (0, 1, 2)).sites(Latent(4, 8, 64, 64))
    assert list(sites)[:2] == ["down.0.0", "down.0.1"] and len(sites) == 2 * 4 + 1 + 3 * 4
    assert (sites["up.0.0"].channels, sites["up.0.0"].height) == (1280, 8)
    # skips of SD v1.5: conv_in and 2 layers + downsampler at each level
    at_64, at_32, at_16, at_8 = 3 * 320 * 64**2, (320 + 2 * 640) * 32**2, (640 + 2 * 1280) * 16**2, 3 * 1280 * 8**2
    assert sites["mid.0"].skip_elements == at_64 + at_32 + at_16 + at_8
    assert sites["up.3.2"].skip_elements == 0


def reached_through_skips(backbone):
    """By walking the UNet: a value that carries the name of the last site it has passed."""
    skips, x, pairs = {}, "", []
    for layer in backbone.layers():
        taken = skips.pop(layer.skip, "") if layer.skip else None
        if taken:
            pairs.append(
                (taken, next(other.site for other in backbone.layers()[backbone.layers().index(layer) :] if other.site))
            )
        x = layer.site or x
        if layer.is_skip:
            skips[layer.name] = x
    return pairs


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mid", [True, False])
def test_links_follow_the_skip_connections(levels, layers, mid):
    operators = {"Conv1D": Operator("Conv1D")}
    for attention in ((), tuple(range(levels))):
        backbone = Backbone((32,) * levels, layers, attention, mid)
        latent, text = Latent(4, 4, 8, 8), nas.spaces.Text(4, 16)
        slots = {f"{site}/{i}": [NONE, "Conv1D"] for site in backbone.sites(latent) for i in range(2)}
        space = nas.SearchSpace("u", slots, operators, backbone, latent, text)
        expected = [
            (f"{a}/{i}", f"{b}/{j}") for a, b in reached_through_skips(backbone) for i in (0, 1) for j in (0, 1)
        ]
        assert list(space.links) == expected
        # every up block but the last takes something that has passed a site, once for each of its layers
        assert len(space.links) == 4 * (levels * (layers + 1) - 1)
    only = {slot: choices for slot, choices in slots.items() if slot.startswith("down.0.0/0") or slot.startswith("up")}
    linked = nas.SearchSpace("u", only, operators, backbone, latent, text).links
    assert linked and all(a == "down.0.0/0" and b in only for a, b in linked)


def test_links_of_the_demo():
    links = nas.SearchSpace.load("demo").links
    assert links == [
        ("down.1.0/0", "up.0.0/0"), ("down.0.0/0", "up.0.1/0"), ("down.0.0/0", "up.1.0/0"),
    ]  # fmt: skip


def test_a_cost_only_space_states_its_links(tmp_path):
    slots = {f"s{i}": ["none", "a"] for i in range(4)}
    plain, linked = (
        nas.SearchSpace(name="mine", slots=slots),
        nas.SearchSpace(name="mine", slots=slots, links=[("s0", "s3")]),
    )
    assert (plain.links, linked.links) == ((), (("s0", "s3"),))
    assert plain.hash == linked.hash  # architectures do not depend on links
    assert nas.SearchSpace.load(linked.save(tmp_path / "copy.yaml")).links == linked.links
    assert pickle.loads(pickle.dumps(linked)).links == linked.links
    for wrong in ([("s0", "s4")], [("s0", "s0")], [("s0",)], ["s0"], [1]):
        with pytest.raises(SpaceError, match="search space 'mine': links: "):
            nas.SearchSpace(name="mine", slots=slots, links=wrong)
    (tmp_path / "bad.yaml").write_text("name: x\nslots: {s0: [none, a], s1: [none, a]}\nlinks: [[s0, s2]]\n")
    with pytest.raises(SpaceError, match=r"bad\.yaml: search space 'x': links: unknown slot 's2'; known: s0, s1"):
        nas.SearchSpace.load(tmp_path / "bad.yaml")
    (tmp_path / "deep.yaml").write_text(DEEP + "links: [[down.0.0/0, up.1.0/0]]\n")
    with pytest.raises(SpaceError, match=r"deep\.yaml:14: links: the backbone's skip connections give them"):
        nas.SearchSpace.load(tmp_path / "deep.yaml")
    demo = nas.SearchSpace.load("demo")
    with pytest.raises(SpaceError, match="'demo': links: the backbone's skip connections"):
        nas.SearchSpace("demo", demo.slots, demo.operators, demo.backbone, demo.latent, demo.text, links=[])


def test_architecture_file_round_trip_and_foreign_space(tmp_path):
    demo, full = nas.SearchSpace.load("demo"), nas.SearchSpace.load("snapgen_v")
    arch = demo.random(3)
    loaded = nas.Architecture.load(arch.save(tmp_path / "a.json"))
    assert loaded == arch
    with pytest.raises(SpaceError, match="was made for search space 'demo'"):
        full.check(loaded)


BROKEN = [
    ("depth: 3", "depht: 3", r"deep.yaml:6: unknown key 'depht'; did you mean 'depth'"),
    ("heads: 4}\n  Conv1D_k5", "haeds: 4}\n  Conv1D_k5", r"deep.yaml:9: .*no 'haeds'; did you mean 'heads'"),
    ("kind: Conv1D,", "kind: Conv2D,", r"deep.yaml:10: .*unknown operator kind 'Conv2D'"),
    ("kernel: 5", "kernel: 4", r"deep.yaml:10: .*odd number"),
    ("mid.0:", "mid.9:", r"deep.yaml:13: sites: unknown site 'mid.9'"),
    ("[none, Conv1D_k5]", "[none, Conv1D_k7]", r"deep.yaml: .*unknown choice 'Conv1D_k7'; did you mean 'Conv1D_k5'"),
    ("[32, 64]", "[32, 66]", r"deep.yaml:5: .*66 is not divisible"),
    ("[32, 64]", "[32, x]", r"deep.yaml:5: backbone.channels\[1\]: expected int"),
    ("height: 8", "height: 7", r"7x8 must be divisible by 2"),
    ("depth: 3", "depth: three", r"deep.yaml:6: depth: expected int, found 'three'"),
    ("name: deep\n", "", r"missing key 'name'"),
    ("depth: 3", "depth: [3", r"deep.yaml:\d+: not valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_errors_name_file_line_and_fix(old, new, message, tmp_path):
    assert old in DEEP
    path = tmp_path / "deep.yaml"
    path.write_text(DEEP.replace(old, new, 1))
    with pytest.raises(SpaceError, match=message) as caught:
        nas.SearchSpace.load(path)
    assert "\n" not in str(caught.value)
