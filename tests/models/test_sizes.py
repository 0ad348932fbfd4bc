"""The shipped full-size spaces have the sizes they claim; nothing is allocated."""

import time

import pytest
import torch

import nas
from nas.models import build

LAYERS_06B = {"/0": ("SelfAttention1D", "SelfAttention3D"), "/1": ("CrossAttention1D", "CrossAttention3D")}


def parameters_m(space, choices):
    with torch.device("meta"):
        model = build(space, space.architecture(choices))
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize("name, expected_m", [("snapgen_v", 327), ("sd15_full", 859.5), ("mid", 38)])
def test_backbones(name, expected_m):
    assert parameters_m(nas.SearchSpace.load(name), {}) == pytest.approx(expected_m, rel=0.01)


def test_attention_in_every_slot_brings_snapgen_v_to_its_goal():
    """1D at high resolution, 3D at 16x16 and below: 0.6B parameters, built in well under ten seconds of processor."""
    space = nas.SearchSpace.load("snapgen_v")
    start = time.process_time()
    choices = {slot: LAYERS_06B[slot[-2:]][space.sites[slot[:-2]].height <= 16] for slot in space.slots}
    assert parameters_m(space, choices) == pytest.approx(600, rel=0.02)
    assert time.process_time() - start < 10
