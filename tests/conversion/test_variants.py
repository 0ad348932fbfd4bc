"""Every form of an operator computes what the reference computes, at any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import models
from nas.conversion.variants import FORMS, forms_of, in_form, in_forms
from nas.errors import ConfigError
from nas.spaces import Operator, SearchSpace

CASES = [(kind, form) for kind, forms in FORMS.items() for form in forms]


@pytest.mark.parametrize(("kind", "form"), CASES)
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(low, high) for low, high in ((1, 2), (1, 12), (1, 5), (2, 6), (1, 6)))),
    kernel=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 2**31),
)
def test_a_form_equals_the_reference_at_any_shape(kind, form, shape, kernel, seed):
    torch.manual_seed(seed)
    reference = models.build_operator(Operator(kind, {"kernel": kernel}), shape[1], 1).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    other, x = in_form(reference, form), torch.randn(shape)
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in reference.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(other(x), reference(x), rtol=1e-5, atol=1e-5 * (1 + float(reference(x).abs().max())))


def test_a_whole_denoiser_in_forms_is_the_same_denoiser():
    space = SearchSpace.load("demo")
    arch = space.architecture({slot: ("Conv1D", "Conv3D")[i % 2] for i, slot in enumerate(space.slots)})
    torch.manual_seed(0)
    denoiser = models.build(space, arch).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    inputs = torch.randn(space.input_shape()), torch.tensor([500.0]), torch.randn(space.context_shape())
    with torch.inference_mode():
        wanted = denoiser(*inputs)
        forms = {str(space.workload(slot, choice)): "folded" for slot, choice in arch.items}
        found = in_forms(denoiser, forms)(*inputs)
    assert not any(isinstance(m, (models.OPERATORS["Conv1D"], models.OPERATORS["Conv3D"])) for m in denoiser.modules())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_an_unknown_form_names_the_known_ones():
    conv = models.build_operator(Operator("Conv1D"), 8, 1)
    with pytest.raises(ConfigError, match="did you mean 'folded'"):
        in_form(conv, "foldet")
    assert in_form(conv, "") is conv and forms_of("SelfAttention1D") == ("reference",)
