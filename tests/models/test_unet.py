"""Parity with diffusers, whose state-dict names the backbone bears."""

import weakref

import pytest
import torch

import nas
from nas.models import UNet
from nas.spaces import Backbone

SD15 = Backbone((320, 640, 1280, 1280), 2, (0, 1, 2), mid=True, heads=8)
CONFIGS = [
    Backbone((64, 96), 1, (0, 1), mid=True, heads=4),
    Backbone((32, 64, 96), 2, (1,), mid=False, heads=8),
    Backbone((32, 64, 64, 96), 2, (0, 1, 2), mid=True, heads=8),
    Backbone((40, 48, 80), 1, (2,), mid=True, heads=8, norm_groups=8),
    Backbone((32,), 3, (), mid=False, heads=8),
]


def diffusers_unet(config, latent_channels, context_dim):
    from diffusers import UNet2DConditionModel

    levels = range(len(config.channels))
    cross = config.attention_levels
    return UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=["CrossAttnDownBlock2D" if i in cross else "DownBlock2D" for i in levels],
        up_block_types=["CrossAttnUpBlock2D" if i in cross else "UpBlock2D" for i in reversed(levels)],
        mid_block_type="UNetMidBlock2DCrossAttn" if config.mid else None,
        attention_head_dim=config.heads,
        cross_attention_dim=context_dim,
        norm_num_groups=config.norm_groups,
    )


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_same_weights_same_output_as_diffusers(config):
    reference, unet = diffusers_unet(config, 4, 48), UNet(config, 4, 48)
    unet.load_state_dict(reference.state_dict())
    x, text = torch.randn(2, 4, 16, 24), torch.randn(2, 7, 48)
    for timestep in (torch.tensor([3, 977]), torch.tensor(41), torch.tensor([0.25, 731.5])):
        with torch.no_grad():
            expected = reference(x, timestep, text).sample
            torch.testing.assert_close(unet(x, timestep, text), expected, rtol=1e-5, atol=1e-5)


def test_stable_diffusion_has_the_same_names_and_shapes():
    with torch.device("meta"):
        ours, theirs = UNet(SD15, 4, 768), diffusers_unet(SD15, 4, 768)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == 859_520_964


@pytest.mark.slow
def test_stable_diffusion_at_full_size_equals_diffusers():
    with torch.device("meta"):
        unet, reference = UNet(SD15, 4, 768), diffusers_unet(SD15, 4, 768)
    numbers, state = torch.randn(1 << 20), {}  # drawing 860 million would take most of the time
    for name, value in reference.state_dict().items():
        scale = value[0].numel() ** -0.5 if value.ndim > 1 else 1.0
        state[name] = (scale * numbers).repeat(-(-value.numel() // len(numbers)))[: value.numel()].view(value.shape)
    unet.load_state_dict(state, assign=True)  # shares the memory: 3.4 GB once
    reference.load_state_dict(state, assign=True)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 768)
    with torch.no_grad():
        expected = reference(x, torch.tensor([500]), text).sample
        torch.testing.assert_close(unet(x, torch.tensor([500]), text), expected, rtol=1e-5, atol=1e-5)


def test_sites_are_reported_with_the_shapes_the_search_space_says():
    space = nas.SearchSpace.load("demo")
    unet, seen = UNet(space.backbone, 4, 384), {}

    def after_site(site, features):
        seen[site] = tuple(features.shape)
        return features

    with torch.no_grad():
        unet.denoise(torch.randn(3, 4, 8, 8), torch.tensor(1.0), torch.randn(3, 16, 384), after_site)
    assert list(seen.items()) == [(s.name, (3, s.channels, s.height, s.width)) for s in space.sites.values()]


def test_what_an_up_layer_has_read_is_freed():
    """When an up layer has run, neither what came in nor the skip that was joined to it is alive any more."""
    unet, alive = UNet(Backbone((16, 32), 1, (1,), mid=True, heads=4, norm_groups=8), 4, 12), {}
    expected = {  # of conv_in and of the downsampler there are skips too, which no site sees
        "up.0.0": {"down.0.0"},
        "up.0.1": {"down.0.0"},
        "up.1.0": set(),
        "up.1.1": set(),
    }

    def after_site(site, features):
        if site in expected:
            assert {name for name, reference in alive.items() if reference() is not None} == expected[site], site
        features = features * 1  # a tensor that the UNet alone holds
        alive[site] = weakref.ref(features)
        return features

    with torch.no_grad():
        unet.denoise(torch.randn(1, 4, 8, 8), torch.tensor(1.0), torch.randn(1, 5, 12), after_site)


def test_frames_of_a_clip_share_its_text_and_timestep():
    unet = UNet(CONFIGS[0], 4, 48)
    frames, text, timestep = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 7, 48), torch.tensor([10.0, 900.0])
    with torch.no_grad():
        together = unet.denoise(frames.flatten(0, 1), timestep, text, lambda site, features: features)
        alone = torch.cat([unet(frames[b], timestep[b], text[b].expand(3, -1, -1)) for b in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
