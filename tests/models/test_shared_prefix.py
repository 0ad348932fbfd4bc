"""Many paths of a supernet at once: the same numbers as one by one, and what they begin with is run once."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.diffusion.losses import validation_loss, validation_losses
from nas.diffusion.predictions import Objective
from nas.models import Supernet
from nas.search.samplers.evolution import MOVES, mutate


@pytest.fixture(scope="module")
def supernet(space):
    torch.manual_seed(0)
    model = Supernet(space).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialized outputs would make all paths equal
            parameter.normal_(0, 0.1)
    return model


def relatives(space, rng, count):
    """Random architectures, and others that differ from them in few slots; some are equal."""
    codes = [space.encode(space.random(rng)) for _ in range(2)]
    while len(codes) < count:
        codes.append(mutate(space, codes[rng.integers(len(codes))], str(rng.choice(MOVES)), rng))
    return [space.decode(row) for row in codes]


@torch.no_grad()
@pytest.mark.parametrize("frames", [3, 1])
def test_outputs_are_those_of_single_paths_bit_for_bit(space, supernet, inputs, frames):
    archs, x = relatives(space, np.random.default_rng(0), 7), inputs(frames)
    found = {}
    for members, output in supernet.forward_many(*x, archs):
        found |= dict.fromkeys(members, output)
    assert sorted(found) == list(range(7))
    assert all(torch.equal(found[i], supernet(*x, arch)) for i, arch in enumerate(archs))
    assert frames == 1 or not torch.equal(found[0], found[1])


@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_every_layer_is_run_once_for_the_paths_that_agree_up_to_it(space, supernet, seed):
    """Counted: a spatial layer of block k runs once for each different prefix of choices before it."""
    archs = relatives(space, np.random.default_rng(seed), 5)
    counts, hooks = Counter(), []
    names = [layer.name for layer in supernet.topology]
    for name in names:
        module = supernet.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda *_, name=name: counts.update([name])))
    with torch.no_grad():
        x = torch.randn(1, 4, 2, 8, 8), torch.tensor([17.0]), torch.randn(1, 5, 12)
        results = list(supernet.forward_many(*x, archs))
    for hook in hooks:
        hook.remove()
    prefixes, sites = {(): archs}, []
    for layer in supernet.topology:
        assert counts[layer.name] == len(prefixes), layer.name
        if layer.site:
            sites.append(layer.site)
            keys = {
                tuple(choice for slot, choice in arch.items if space.site_name(slot) in sites): arch for arch in archs
            }
            prefixes = keys
    assert len(results) == len(set(archs))


@pytest.mark.parametrize("objective", [Objective(), Objective("epsilon", min_snr=5.0), Objective("v")])
def test_losses_are_those_of_single_architectures(space, supernet, objective):
    archs = relatives(space, np.random.default_rng(1), 5)
    latents, contexts = torch.randn(5, 4, 3, 8, 8), torch.randn(5, 5, 12)
    supernet.objective = objective
    try:
        for seed in (0, 1):
            together = validation_losses(supernet, latents, contexts, archs, batch=3, seed=seed)
            alone = [validation_loss(supernet, latents, contexts, arch, batch=3, seed=seed) for arch in archs]
            assert together == alone and len(set(alone)) > 1
        assert validation_losses(supernet, latents, contexts, []) == []
    finally:
        del supernet.objective
