"""Channel pruning, against widened models whose narrow original is known and against masks in the wide model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import nas
from nas.errors import ConfigError
from nas.models import UNet
from nas.pruning.blocks import prune
from nas.pruning.channel_groups import group_sizes, weight_axes
from nas.pruning.channels import choose, norm_scores, prune_channels, taylor_scores
from nas.spaces import Backbone

CONTEXT = 6


@st.composite
def backbones(draw):
    levels = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([2, 4]))
    return Backbone(
        channels=tuple(4 * groups * draw(st.integers(1, 3)) // 2 for _ in range(levels)),
        layers_per_block=draw(st.integers(1, 2)),
        attention_levels=tuple(level for level in range(levels) if draw(st.booleans())),
        mid=draw(st.booleans()),
        heads=draw(st.sampled_from([1, 2])),
        norm_groups=groups,
        text_tokens=draw(st.sampled_from([0, 3])),
    )


def random_unet(config, seed=0):
    torch.manual_seed(seed)
    unet = UNet(config, 3, CONTEXT)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(0, 0.3)
    return unet


def run(unet, timestep=(5.0, 700.0)):
    torch.manual_seed(1)
    with torch.no_grad():
        return unet(torch.randn(2, 3, 8, 8), torch.tensor(timestep), torch.randn(2, 3, CONTEXT))


@given(backbones())
@settings(max_examples=12, deadline=None)
def test_axes_of_every_weight_have_the_sizes_of_their_channel_groups(config):
    with torch.device("meta"):
        state = UNet(config, 3, CONTEXT).state_dict()
    axes = weight_axes(config)
    sizes = group_sizes(axes, state)
    for name, value in state.items():
        for dim, axis in enumerate(axes.get(name, ())):
            assert axis is None or value.shape[dim] == sum(sizes[group] for group in axis), name
    free = {name for name in state if name not in axes}
    assert free <= {"text_embedding.mean", "text_embedding.spread"}


@given(backbones(), st.integers(0, 3))
@settings(max_examples=5, deadline=None)
def test_pruning_to_the_same_width_is_exact(config, seed):
    unet = random_unet(config, seed)
    pruned = prune_channels(unet, config)
    assert all(torch.equal(value, pruned.state_dict()[name]) for name, value in unet.state_dict().items())
    assert torch.equal(run(unet), run(pruned))


# -- a wide model that computes what a narrow one does ------------------------------------------------------------------


def widened(narrow):
    """A UNet of twice the width with the same output: every channel has a twin behind it that nobody reads.

    Twins lie in the groups of their originals and have their values, so that no norm's statistics change. Hidden
    channels of feed-forwards and channels of heads are not read twice either; added ones of a head are zero.
    """
    config = narrow.config
    wide_config = Backbone(
        tuple(2 * width for width in config.channels),
        config.layers_per_block,
        config.attention_levels,
        config.mid,
        config.heads,
        config.norm_groups,
        config.text_tokens,
    )
    wide, axes = UNet(wide_config, 3, CONTEXT), weight_axes(config)
    state = {}
    for name, value in narrow.state_dict().items():
        of_weight = axes.get(name, ())
        if len(of_weight) > 0 and of_weight[0] is not None:
            value = value.repeat_interleave(2, dim=0)
        if len(of_weight) > 1 and of_weight[1] is not None:
            value = torch.stack([value, torch.zeros_like(value)], dim=2).flatten(1, 2)  # twins are not read
        if name.endswith(".to_q.weight"):
            value = value * 2**0.5  # a wider head divides its logits by more
        if name.endswith((".to_k.weight", ".to_q.weight")):
            value[1::2] = 0
        if name == "time_embedding.linear_1.weight":  # every second of twice as many sinusoids has an old frequency
            value = torch.stack([value, torch.zeros_like(value)], dim=2).flatten(1, 2)
        state[name] = value
    wide.load_state_dict(state)
    return wide


@given(backbones(), st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_pruning_channels_that_nothing_reads_changes_nothing(config, seed):
    narrow = random_unet(config, seed)
    wide = widened(narrow)
    expected = run(narrow)
    scale = expected.abs().max()
    torch.testing.assert_close(run(wide) / scale, expected / scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(run(prune_channels(wide, config)) / scale, expected / scale, rtol=0, atol=2e-3)


def test_whole_groups_of_zeros_go_without_a_trace():
    """Half as many groups of the same size: the groups that stay keep their statistics, bit for bit."""
    config = Backbone((32,), 2, (), mid=False, heads=1, norm_groups=8)
    unet = random_unet(config)
    zero = torch.arange(32) >= 16
    axes = weight_axes(config)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            for dim, axis in enumerate(axes[name]):
                if axis is not None and "time_embedding" not in axis[0]:
                    value.index_fill_(dim, zero.repeat(len(axis)).nonzero().flatten(), 0)
    # (32,) has a time embedding of 128, (16,) of 64: silence the half of it that goes
    with torch.no_grad():
        unet.time_embedding["linear_1"].weight.zero_()
        for layer in unet.time_embedding.values():
            layer.bias[64:] = 0
        unet.time_embedding["linear_2"].weight[64:] = 0
        unet.time_embedding["linear_2"].weight[:, 64:] = 0
        for module in unet.modules():
            if hasattr(module, "time_emb_proj"):
                module.time_emb_proj.weight[:, 64:] = 0
    pruned = prune_channels(unet, Backbone((16,), 2, (), mid=False, heads=1, norm_groups=4))
    torch.testing.assert_close(run(pruned), run(unet), rtol=1e-6, atol=1e-6)


# -- a brute-force computation: the wide model with masks -----------------------------------------------------------------


def masked_run(wide, pruned, keep):
    """What the pruned model should compute, by the wide model's own code with everything that goes held at zero.

    Each norm is replaced by one that gathers the channels that stay and normalizes these as the pruned model does; attention
    by a loop over heads.
    """
    axes = weight_axes(wide.config)
    sizes = group_sizes(axes, wide.state_dict())
    target = pruned.config
    state = {name: value.clone() for name, value in wide.state_dict().items()}

    def stay(axis):
        mask, start = torch.zeros(sum(sizes[s] for s in axis), dtype=torch.bool), 0
        for group in axis:
            mask[keep[group] + start] = True
            start += sizes[group]
        return mask

    for name, value in state.items():
        for dim, axis in enumerate(axes.get(name, ())):
            if axis is not None:
                value.index_fill_(dim, (~stay(axis)).nonzero().flatten(), 0)
    masked = UNet(wide.config, 3, CONTEXT)
    masked.load_state_dict(state)

    def group_norm(module, kept):
        def forward(x):
            small = F.group_norm(x[:, kept], target.norm_groups, module.weight[kept], module.bias[kept], module.eps)
            out = torch.zeros_like(x)
            out[:, kept] = small
            return out

        return forward

    def layer_norm(module, kept):
        def forward(x):
            out = torch.zeros_like(x)
            small = F.layer_norm(x[..., kept], (int(kept.sum()),), module.weight[kept], module.bias[kept])
            out[..., kept] = small
            return out

        return forward

    def attention(module):
        def forward(tokens, context=None):
            context = tokens if context is None else context
            query, key, value = module.to_q(tokens), module.to_k(context), module.to_v(context)
            dim = query.shape[-1] // wide.config.heads
            out = torch.zeros_like(query)
            for head in range(wide.config.heads):
                part = slice(head * dim, (head + 1) * dim)
                logits = query[..., part] @ key[..., part].transpose(-1, -2) / dim**0.5
                out[..., part] = logits.softmax(-1) @ value[..., part]
            return module.to_out(out)

        return forward

    for name, module in masked.named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = group_norm(module, stay(axes[f"{name}.weight"][0]))
        elif isinstance(module, torch.nn.LayerNorm):
            module.forward = layer_norm(module, stay(axes[f"{name}.weight"][0]))
        elif hasattr(module, "to_q"):
            module.forward = attention(module)
    return run(masked)


def kept_channels(wide, pruned):
    """Which channels a pruned model kept, found from the values of its weights alone: biases are all different."""
    keep = {}
    axes = weight_axes(wide.config)
    old, new = wide.state_dict(), pruned.state_dict()
    for name, of_weight in axes.items():
        if name not in old or name not in new or of_weight[0] is None or len(of_weight[0]) > 1:
            continue
        group, key = of_weight[0][0], old[name]
        if key.dim() == 1:
            found = (new[name][:, None] == key[None]).nonzero()[:, 1]
            assert len(found) == len(new[name]), name
            assert group not in keep or torch.equal(keep[group], found), f"{name} disagrees about {group}"
            keep[group] = found
    return keep


@pytest.mark.parametrize(
    "config, target",
    [
        (Backbone((16, 24), 1, (1,), True, 2, 4), Backbone((8, 16), 1, (1,), True, 2, 4)),
        (Backbone((16, 24, 24), 2, (0, 2), True, 4, 4), Backbone((8, 16, 12), 2, (0, 2), True, 2, 4)),
        (Backbone((24, 24), 1, (0,), False, 2, 8), Backbone((16, 16), 1, (0,), False, 2, 4)),
        (Backbone((16, 24), 1, (0, 1), True, 2, 4, 3), Backbone((16, 20), 1, (0, 1), True, 2, 4, 3)),
    ],
    ids=["narrower", "fewer heads, new shortcut", "fewer groups", "one level"],
)
def test_a_pruned_model_computes_what_the_wide_one_does_with_removed_channels_at_zero(config, target):
    wide = random_unet(config)
    with torch.no_grad():  # sinusoids are fitted, not pruned: leave them out
        wide.time_embedding["linear_1"].weight.zero_()
    pruned = prune_channels(wide, target)
    keep = kept_channels(wide, pruned)
    axes = weight_axes(config)
    sizes = group_sizes(axes, pruned.state_dict())
    scores = norm_scores(wide)
    for group, group_scores in scores.items():  # groups without a bias: attention inside
        if group not in keep:
            parts = config.heads if group.endswith(("qk", "v")) else 1
            of_parts = None
            if group.endswith(("qk", "v")):
                base = group.rpartition(".")[0]
                of_parts = sum(scores[f"{base}.{part}"].reshape(parts, -1).sum(1) for part in ("qk", "v"))
                keep[group] = choose(group_scores, sizes[group], parts, target.heads, of_parts)
            else:
                keep[group] = choose(group_scores, sizes[group])
    expected = masked_run(wide, pruned, keep)
    torch.testing.assert_close(run(pruned), expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


# -- importance ---------------------------------------------------------------------------------------------------------


def test_taylor_importance_is_the_slope_of_the_loss_towards_zero():
    config = Backbone((8, 16), 1, (1,), mid=True, heads=2, norm_groups=4)
    unet = random_unet(config).double()
    torch.manual_seed(2)
    x, text, noise = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 8, 8), (2, 3, CONTEXT), (2, 3, 8, 8))
    )

    def loss(model):
        return F.mse_loss(model(x, torch.tensor([5.0, 700.0]), text), noise)

    scores = taylor_scores(unet, loss)
    makers = {
        "down_blocks.1.resnets.0.inner": ("down_blocks.1.resnets.0.conv1", "down_blocks.1.resnets.0.time_emb_proj"),
        "up_blocks.0.resnets.0": ("up_blocks.0.resnets.0.conv2", "up_blocks.0.resnets.0.conv_shortcut"),
    }
    makers["up_blocks.0.resnets.0"] += ("up_blocks.0.attentions.0.proj_out",)
    for group, modules in makers.items():
        for channel in (0, 5):
            weights = [p for name in modules for p in unet.get_submodule(name).parameters()]
            before, losses = [p.detach().clone() for p in weights], []
            for step in (-1e-5, 1e-5):
                with torch.no_grad():
                    for p, old in zip(weights, before):
                        p.copy_(old)
                        p[channel] *= 1 + step
                    losses.append(loss(unet).item())
            with torch.no_grad():
                for p, old in zip(weights, before):
                    p.copy_(old)
            slope = (losses[1] - losses[0]) / 2e-5
            assert scores[group][channel].item() == pytest.approx(abs(slope), rel=1e-4, abs=1e-9)


def test_a_channel_that_is_not_written_or_not_read_has_no_importance():
    config = Backbone((8, 16), 1, (1,), mid=True, heads=2, norm_groups=4)
    unet = random_unet(config)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    with torch.no_grad():
        block.ff.net[2].weight[:, 7] = 0
        block.attn1.to_k.weight[3] = 0
        unet.up_blocks[0].upsamplers[0].conv.weight[4] = 0
        unet.up_blocks[0].upsamplers[0].conv.bias[4] = 0
    scores, name = norm_scores(unet), "mid_block.attentions.0.transformer_blocks.0"
    for group, channel in ((f"{name}.ff", 7), (f"{name}.attn1.qk", 3), ("up_blocks.0.upsamplers.0", 4)):
        assert (scores[group] == 0).nonzero().flatten().tolist() == [channel]


# -- at full size, and what cannot be -------------------------------------------------------------------------------------

SD15 = Backbone((320, 640, 1280, 1280), 2, (0, 1, 2), mid=True, heads=8)


def test_stable_diffusion_becomes_the_snapgen_v_backbone():
    target = nas.SearchSpace.load("snapgen_v").backbone
    with torch.device("meta"):
        unet, wanted = UNet(SD15, 4, 768), UNet(target, 4, 768)
    pruned, removed = prune(unet, target)
    shapes = {name: value.shape for name, value in pruned.state_dict().items()}
    assert shapes == {name: value.shape for name, value in wanted.state_dict().items()}
    assert removed.params_before == 859_520_964 and removed.params_after == sum(p.numel() for p in wanted.parameters())


@pytest.mark.parametrize(
    "target, message",
    [
        (Backbone((16, 32), 1, (1,), True, 4, 4), "level 1 has 24 channels, fewer than the target's 32"),
        (
            Backbone((16, 24), 1, (1,), True, 2, 4),
            "level 1 has 4 heads of 6 channels, not enough for the target's 2 of 12",
        ),
        (Backbone((16, 16), 1, (1,), True, 4, 4), "levels 0 and 1 of the target are both 16 wide"),
        (Backbone((16, 24), 1, (1,), False, 4, 4), "mid: channel pruning keeps True, the target says False"),
    ],
)
def test_a_target_that_is_not_narrower_is_refused(target, message):
    with pytest.raises(ConfigError, match=message):
        prune_channels(UNet(Backbone((16, 24), 1, (1,), True, 4, 4), 3, CONTEXT), target)
