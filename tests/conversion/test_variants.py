"""Every variant of an operator computes the same as the reference, for any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import models
from nas.conversion.variants import apply_variants, as_variant, variants_of
from nas.errors import ConfigError
from nas.models.operators import Conv1D, Conv3D
from nas.spaces import Operator, SearchSpace, operator_kinds

CASES = [(kind, variant) for kind, spec in operator_kinds().items() for variant in spec.variants]


@pytest.mark.parametrize(("kind", "variant"), CASES)
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(low, high) for low, high in ((1, 2), (1, 12), (1, 5), (2, 6), (1, 6)))),
    kernel=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 2**31),
)
def test_variant_matches_reference_at_any_shape(kind, variant, shape, kernel, seed):
    torch.manual_seed(seed)
    reference = models.build_operator(Operator(kind, {"kernel": kernel}), shape[1], 1).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    other, x = as_variant(reference, kind, variant), torch.randn(shape)
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in reference.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(other(x), reference(x), rtol=1e-5, atol=1e-5 * (1 + float(reference(x).abs().max())))


def test_denoiser_of_variants_matches_the_reference_denoiser():
    space = SearchSpace.load("demo")
    arch = space.architecture({slot: ("Conv1D", "Conv3D")[i % 2] for i, slot in enumerate(space.slots)})
    torch.manual_seed(0)
    denoiser = models.build(space, arch).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    inputs = torch.randn(space.input_shape()), torch.tensor([500.0]), torch.randn(space.context_shape())
    with torch.inference_mode():
        expected = denoiser(*inputs)
        variants = {str(space.workload(slot, choice)): "folded" for slot, choice in arch.items}
        output = apply_variants(denoiser, variants)(*inputs)
    assert not any(isinstance(m, (Conv1D, Conv3D)) for m in denoiser.modules())
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_unknown_variant_suggests_a_known_one():
    conv = models.build_operator(Operator("Conv1D"), 8, 1)
    with pytest.raises(ConfigError, match="did you mean 'folded'"):
        as_variant(conv, "Conv1D", "foldet")
    assert as_variant(conv, "Conv1D", "") is conv and variants_of("SelfAttention1D") == ("reference",)
