from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.errors import BudgetError, SpaceError
from nas.models import Supernet, UNet, build, fair_round, sample_path
from nas.spaces import Backbone, Latent, Operator, SearchSpace, Text

ONE_OF_EACH = {
    "down.0.0/0": "SelfAttention1D",
    "down.1.0/0": "CrossAttention3D",
    "down.1.0/1": "Conv1D",
    "mid.0/0": "SelfAttention3D",
    "up.0.0/0": "CrossAttention1D",
    "up.1.1/0": "Conv3D",
}


def test_without_temporal_layers_it_is_the_spatial_model_frame_by_frame(space, inputs):
    denoiser = build(space, space.architecture({}))
    unet = UNet(space.backbone, 4, 12)
    unet.load_state_dict(denoiser.state_dict())  # the names are the same, nothing more and nothing less
    x, timestep, text = inputs()
    with torch.no_grad():
        frames = torch.stack([unet(x[:, :, t], timestep, text) for t in range(3)], dim=2)
        torch.testing.assert_close(denoiser(x, timestep, text), frames, rtol=1e-5, atol=1e-5)


def test_untrained_temporal_layers_change_nothing(space, inputs):
    denoiser = build(space, space.architecture(ONE_OF_EACH))
    plain = build(space, space.architecture({}))
    plain.load_state_dict(denoiser.state_dict(), strict=False)
    with torch.no_grad():
        x = inputs()
        assert torch.equal(denoiser(*x), plain(*x))


def test_images_skip_trained_temporal_layers(space, inputs, randomize):
    denoiser = build(space, space.architecture(ONE_OF_EACH))
    randomize(denoiser.temporal)
    plain = build(space, space.architecture({}))
    plain.load_state_dict(denoiser.state_dict(), strict=False)
    with torch.no_grad():
        image, clip = inputs(1), inputs(3)
        assert torch.equal(denoiser(*image), plain(*image))
        assert not torch.allclose(denoiser(*clip), plain(*clip))


def test_slots_of_a_site_run_in_order(space, inputs, randomize):
    first, second = (
        build(space, space.architecture({"mid.0/0": a, "mid.0/1": b}))
        for a, b in (("Conv1D", "SelfAttention1D"), ("SelfAttention1D", "Conv1D"))
    )
    randomize(first)
    state = first.state_dict()
    swap = {"mid_0_0": "mid_0_1", "mid_0_1": "mid_0_0"}
    second.load_state_dict(
        {".".join(swap.get(part, part) for part in key.split(".")): value for key, value in state.items()}
    )
    x = inputs()
    with torch.no_grad():
        assert not torch.allclose(first(*x), second(*x))
        video = torch.randn(1, 32, 3, 4, 4)
        expected = first.temporal["mid_0_1"](first.temporal["mid_0_0"](video, x[2][:1]), x[2][:1])
        order = [type(layer).__name__ for layer in first.layers()["mid.0"]]
        assert order == ["Conv1D", "SelfAttention1D"]
        got = video
        for layer in first.layers()["mid.0"]:
            got = layer(got, x[2][:1])
        assert torch.equal(got, expected)


def test_clips_may_be_longer_than_the_space_says(space, inputs):
    x, timestep, text = inputs(11)
    with torch.no_grad():
        y = build(space, space.architecture(ONE_OF_EACH))(x, timestep, text)
    assert y.shape == x.shape and y.isfinite().all()


def test_exports(space, inputs, randomize):
    denoiser = randomize(build(space, space.architecture(ONE_OF_EACH)), 0.1).eval()
    x = inputs()
    program = torch.export.export(denoiser, x)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*x), denoiser(*x), rtol=1e-5, atol=1e-5)
    names = {str(node.target) for node in program.run_decompositions({}).graph.nodes}
    assert "aten.alias.default" not in names  # Core ML's converter knows no alias: no slice of a whole, no view of self


def test_what_belongs_to_another_space_is_refused(space):
    with pytest.raises(SpaceError, match="cost-only"):
        cost_only = nas.SearchSpace(name="mine", slots={"s0": ["none", "a"]})
        build(cost_only, cost_only.architecture({}))
    with pytest.raises(SpaceError, match="made for search space 'demo'"):
        build(space, nas.SearchSpace.load("demo").random(seed=0))


# -- supernet ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supernet(space):
    torch.manual_seed(1)
    supernet = Supernet(space)
    with torch.no_grad():
        for parameter in supernet.temporal_parameters():
            parameter.normal_(0, 0.2)
    return supernet


@pytest.mark.parametrize("seed", range(10))
def test_an_extracted_path_gives_bitwise_the_supernets_output(space, supernet, inputs, seed):
    arch, x = space.random(seed), inputs(1 + seed % 4)
    with torch.no_grad():
        assert torch.equal(supernet.extract(arch)(*x), supernet(*x, arch))


def test_an_extracted_denoiser_shares_no_memory(space, supernet):
    denoiser = supernet.extract(space.architecture(ONE_OF_EACH))
    ours = {p.data_ptr() for p in supernet.parameters()}
    assert not ours & {p.data_ptr() for p in denoiser.parameters()}
    assert set(denoiser.state_dict()) == set(build(space, space.architecture(ONE_OF_EACH)).state_dict())


def test_only_the_active_path_gets_gradients(space, supernet, inputs):
    arch = space.architecture(ONE_OF_EACH)
    supernet.zero_grad(set_to_none=True)
    supernet(*inputs(), arch).square().mean().backward()
    active = set(supernet.temporal_parameters(arch))
    for parameter in supernet.temporal_parameters():
        assert (parameter.grad is not None) == (parameter in active)
    supernet.zero_grad(set_to_none=True)


def test_spatial_and_temporal_parameters_are_all_parameters(supernet):
    spatial, temporal = set(supernet.spatial_parameters()), set(supernet.temporal_parameters())
    assert spatial.isdisjoint(temporal) and spatial | temporal == set(supernet.parameters())


# -- paths ---------------------------------------------------------------------------------------------------------


def at_most(layers):
    return lambda arch: sum(choice != "none" for choice in arch.choices.values()) <= layers


def test_a_fair_round_takes_every_choice_of_every_slot_once():
    space = nas.SearchSpace.load("demo")  # one slot a site, so nothing moves into canonical form
    rng = np.random.default_rng(0)
    for _ in range(3):
        paths = fair_round(space, rng)
        for slot, choices in space.slots.items():
            assert sorted(path.choices[slot] for path in paths) == sorted(choices)
    assert fair_round(space, rng) != fair_round(space, rng)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(0, 14))
def test_budget_aware_paths_fit(space, seed, layers):
    rng = np.random.default_rng(seed)
    fits = at_most(layers)
    assert fits(sample_path(space, rng, fits))
    assert all(map(fits, fair_round(space, rng, fits)))


def test_paths_are_uniform_where_most_fit():
    space = nas.SearchSpace(name="two", slots={"a": ["none", "x"], "b": ["none", "x"]})
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(3000):
        path = sample_path(space, rng, at_most(1))
        counts[path] = counts.get(path, 0) + 1
    assert len(counts) == 3 and all(900 < count < 1100 for count in counts.values())


def test_an_impossible_budget_is_one_line(space):
    with pytest.raises(BudgetError, match="not even one without temporal layers"):
        sample_path(space, np.random.default_rng(0), lambda arch: False)


def test_text_that_joins_the_timestep_embedding_is_standardised_by_the_data():
    demo = SearchSpace.load("demo")
    backbone = replace(demo.backbone, attention_levels=(), mid=False, text_tokens=demo.text.tokens)
    space = SearchSpace("pooled", {"down.0.0/0": ["none"]}, {}, backbone, demo.latent, demo.text)
    denoiser = build(space, space.architecture({})).eval()
    common = 50 * torch.randn(1, *space.context_shape()[1:])  # what all captions share
    captions = common + 0.1 * torch.randn(12, *space.context_shape()[1:])
    denoiser.text_embedding.fit(captions)
    read = denoiser.read_text(captions)
    assert read.mean(0).abs().max() < 1e-3 and abs(read.std() - 1) < 0.05
    x, t = torch.randn(1, 4, 2, 8, 8), torch.tensor([500.0])
    outputs = [denoiser(x, t, caption[None]) for caption in captions[:2]]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3  # with no attention at all, the text is heard
    again = build(space, space.architecture({})).eval()
    again.load_state_dict(denoiser.state_dict())  # mean and spread travel with the weights
    assert torch.equal(again(x, t, captions[:1]), outputs[0])


def test_text_tokens_must_be_those_of_the_text():
    demo = SearchSpace.load("demo")
    with pytest.raises(SpaceError, match=r"text_tokens must be 0 or text\.tokens=16, not 7"):
        replace(demo, backbone=replace(demo.backbone, text_tokens=7))


def test_torch_compile_has_no_graph_break():
    """Backbone with skips, a downsampler, an upsampler and temporal layers; `test_operators` compiles each operator."""
    backbone = Backbone((8, 16), 1, (), mid=False, heads=2, norm_groups=4)
    slots = {"down.0.0/0": ("none", "Conv1D"), "up.1.0/0": ("none", "Conv1D")}
    operators = {"Conv1D": Operator("Conv1D")}
    space = SearchSpace("compiled", slots, operators, backbone, Latent(4, 2, 4, 4), Text(3, 6))
    denoiser = build(space, space.architecture(dict.fromkeys(slots, "Conv1D"))).eval()
    example = torch.randn(1, 4, 2, 4, 4), torch.tensor([17.0]), torch.randn(1, 3, 6)
    with torch.no_grad():
        compiled = torch.compile(denoiser, backend="eager", fullgraph=True)(*example)
        torch.testing.assert_close(compiled, denoiser(*example), rtol=0, atol=0)
