"""Zero-cost proxies on real, untrained models."""

import nas
from nas.search.evaluators.proxies import GradNorm


def test_grad_norm_tells_architectures_apart_and_repeats():
    space = nas.SearchSpace.load("demo")
    slots = list(space.slots)
    nothing, one = space.architecture({}), space.architecture({slots[0]: "Conv1D"})
    two = space.architecture({slots[0]: "Conv1D", slots[1]: "SelfAttention3D"})
    proxy = GradNorm(space)
    assert proxy(nothing) == 0.0
    assert 0.0 < proxy(one) < proxy(two)
    assert proxy(one) == proxy(one)
