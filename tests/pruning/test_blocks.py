import pytest
import torch

import nas
from nas.errors import ConfigError
from nas.models import UNet
from nas.pruning.blocks import prune, remove_blocks
from nas.pruning.report import report
from nas.spaces import Backbone, Latent, Text

FULL = Backbone((16, 32, 48), 2, (0, 1), mid=True, heads=4, norm_groups=8)


def run(unet):
    torch.manual_seed(1)
    with torch.no_grad():
        return unet(torch.randn(2, 4, 8, 8), torch.tensor([5.0, 700.0]), torch.randn(2, 5, 12))


def test_removing_nothing_is_exact():
    unet = UNet(FULL, 4, 12)
    same, removed = remove_blocks(unet, FULL)
    assert removed.modules == () and removed.params_before == removed.params_after
    assert torch.equal(run(unet), run(same))


@pytest.mark.parametrize(
    "target, params_m",
    [
        (Backbone((320, 640, 1280, 1280), 1, (0, 1, 2), mid=True, heads=8), 579.4),  # BK-SDM Base
        (Backbone((320, 640, 1280, 1280), 1, (0, 1, 2), mid=False, heads=8), 482.3),  # BK-SDM Small
        (Backbone((320, 640, 1280), 1, (0, 1, 2), mid=False, heads=8), 323.4),  # BK-SDM Tiny
    ],
)
def test_stable_diffusion_becomes_bk_sdm(target, params_m):
    with torch.device("meta"):
        unet = UNet(Backbone((320, 640, 1280, 1280), 2, (0, 1, 2), mid=True, heads=8), 4, 768)
        _, removed = remove_blocks(unet, target)
    assert removed.params_before == 859_520_964
    assert removed.params_after / 1e6 == pytest.approx(params_m, abs=0.1)
    gone = {"down_blocks.0.resnets.1", "up_blocks.1.resnets.1", "up_blocks.1.attentions.1"}
    assert gone | ({"up_blocks.0.upsamplers.0"} if len(target.channels) == 3 else set()) <= set(removed.modules)
    assert ("mid_block.resnets.0" in removed.modules) == (not target.mid)


def test_what_stays_are_the_first_layers_and_of_up_blocks_the_last():
    unet = UNet(FULL, 4, 12)
    target = Backbone((16, 32, 48), 1, (1,), mid=False, heads=4, norm_groups=8)
    pruned, removed = remove_blocks(unet, target)
    old, new = unet.state_dict(), pruned.state_dict()
    assert torch.equal(new["down_blocks.1.resnets.0.conv1.weight"], old["down_blocks.1.resnets.0.conv1.weight"])
    assert torch.equal(new["up_blocks.1.resnets.0.conv1.weight"], old["up_blocks.1.resnets.0.conv1.weight"])
    for part in ("resnets.{}.conv1.weight", "attentions.{}.proj_in.weight"):
        assert torch.equal(new["up_blocks.1." + part.format(1)], old["up_blocks.1." + part.format(2)])
    assert not any(key.startswith("down_blocks.0.attentions") for key in new)
    assert run(pruned).isfinite().all() and removed.params_after == sum(p.numel() for p in pruned.parameters())


def test_layers_that_do_nothing_can_go_exactly():
    """A resnet and a transformer whose last layers are zero are the identity: removing them changes nothing."""
    one_level = Backbone((16,), 2, (0,), mid=True, heads=4, norm_groups=8)
    unet = UNet(one_level, 4, 12)
    silent = [unet.mid_block.resnets[0].conv2, unet.mid_block.resnets[1].conv2, unet.mid_block.attentions[0].proj_out]
    for layer in silent:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    pruned, _ = remove_blocks(unet, Backbone((16,), 2, (0,), mid=False, heads=4, norm_groups=8))
    torch.testing.assert_close(run(unet), run(pruned))


def test_a_target_that_is_no_part_is_refused():
    unet = UNet(FULL, 4, 12)
    with pytest.raises(ConfigError, match=r"backbone.channels: block removal keeps \(16, 32, 48\)"):
        remove_blocks(unet, Backbone((16, 32, 64), 2, (0, 1), mid=True, heads=4, norm_groups=8))
    with pytest.raises(ConfigError, match="layers_per_block: 3 of 2"):
        remove_blocks(unet, Backbone((16, 32, 48), 3, (0, 1), mid=True, heads=4, norm_groups=8))
    with pytest.raises(ConfigError, match="attention or a mid block"):
        remove_blocks(unet, Backbone((16, 32, 48), 1, (2,), mid=True, heads=4, norm_groups=8))


def test_the_report_adds_up_and_counts_what_stable_diffusion_is_known_to_take():
    small = nas.SearchSpace.load("snapgen_v")
    with torch.device("meta"):
        unet = UNet(Backbone((320, 640, 1280, 1280), 2, (0, 1, 2), mid=True, heads=8), 4, 768)
    found = report(unet, *prune(unet, small.backbone), small.latent, small.text)
    assert found.total("params_before") == 859_520_964
    assert found.total("macs_before") / 1e9 == pytest.approx(401.6, abs=0.1)  # as counted on diffusers' own UNet
    assert found.total("macs_after") / 1e9 == pytest.approx(68.0, abs=0.1)
    frame = found.frame().set_index("block")
    assert frame.loc["down.1", ["channels_before", "channels_after"]].tolist() == [640, 320]
    assert list(frame.index) == ["ends", "down.0", "down.1", "down.2", "down.3", "mid", "up.3", "up.2", "up.1", "up.0"]
    text = found.text()
    assert "859.5M > 328.2M" in text and "down_blocks.0.attentions.1" in text


def test_the_multiply_adds_of_a_block_are_those_of_its_convolutions():
    """One level without attention: every multiply-add can be counted by hand."""
    config, latent, text = Backbone((16,), 1, (), mid=False, heads=4, norm_groups=8), Latent(4, 1, 8, 8), Text(5, 12)
    unet = UNet(config, 4, 12)
    found = report(unet, unet, remove_blocks(unet, config)[1], latent, text).frame().set_index("block")
    places, time = 64, 16 * 64
    conv, shortcut = 9 * 16 * 16 * places, 16 * 32 * places
    assert found.loc["down.0", "macs_before"] == 2 * conv + time
    assert found.loc["up.0", "macs_before"] == 2 * (3 * conv + shortcut + time)  # 32 channels into the first of each
    assert found.loc["ends", "macs_before"] == 2 * 9 * 4 * 16 * places + 16 * 64 + 64 * 64


def test_blocks_that_went_count_nothing_afterwards():
    unet = UNet(FULL, 4, 12)
    target = Backbone((16, 32, 48), 1, (1,), mid=False, heads=4, norm_groups=8)
    frame = report(unet, *remove_blocks(unet, target), Latent(4, 1, 8, 8), Text(5, 12)).frame().set_index("block")
    assert frame.loc["mid", ["channels_after", "params_after", "macs_after"]].tolist() == [0, 0, 0]
    assert frame.loc["mid", "params_before"] > 0 and frame["macs_after"].sum() < frame["macs_before"].sum()
