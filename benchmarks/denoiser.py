"""Our denoiser against diffusers' `UNetMotionModel`, eager on this machine, in one run.

    python benchmarks/denoiser.py --space mid --threads 2 --rounds 15

Same spatial configuration and weights (checked: with the temporal parts at zero both give the same output), same
shapes, and one temporal transformer layer at the same sites: `SelfAttention1D` in one slot of each against diffusers'
motion module with one self-attention (by default it has two; the second is removed, in its favour). What diffusers'
module has more are two projections around the layer: both counts of parameters are printed. The two are timed in
turn, so that drift hits both; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time

import torch

from nas.models import build
from nas.spaces import Operator, SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mid")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", help="write the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    space = SearchSpace.load(args.space)
    ours, theirs = ours_with_self_attention(space).eval(), motion_model(space).eval()
    copied = copy_spatial_weights(ours, theirs)
    x, text = torch.randn(space.input_shape()), torch.randn(space.context_shape())
    timestep = torch.full((len(x),), 500.0)
    repeated = text.repeat_interleave(x.shape[2], dim=0)  # UNetMotionModel wants the text once per frame
    runs = {
        "nas": lambda: ours(x, timestep, text),
        "UNetMotionModel": lambda: theirs(x, timestep, encoder_hidden_states=repeated, return_dict=False)[0],
    }
    with torch.inference_mode():
        check(ours, theirs, runs)
        times_ms = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times_ms[name].append((time.perf_counter() - start) * 1e3)
    median_ms = {name: statistics.median(times) for name, times in times_ms.items()}
    result = {
        "space": space.name,
        "shape": space.input_shape(),
        "threads": args.threads,
        "rounds": args.rounds,
        "spatial_tensors_shared": copied,
        "params_m": {"nas": count(ours), "UNetMotionModel": count(theirs)},
        "median_ms": {name: round(ms, 2) for name, ms in median_ms.items()},
        "ratio": round(median_ms["nas"] / median_ms["UNetMotionModel"], 3),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result, file, indent=2)


def ours_with_self_attention(space: SearchSpace) -> torch.nn.Module:
    """`SelfAttention1D` in the first slot of every site."""
    heads = Operator("SelfAttention1D", (("heads", space.backbone.heads),))
    slots = {f"{site}/0": ("none", "temporal") for site in space.sites}
    space = dataclasses.replace(space, slots=slots, operators={"temporal": heads})
    return build(space, space.architecture(dict.fromkeys(slots, "temporal")))


def motion_model(space: SearchSpace) -> torch.nn.Module:
    """diffusers' model of the same spatial configuration, its motion modules with one self-attention each."""
    from diffusers import UNetMotionModel

    config, latent = space.backbone, space.latent
    levels, cross = range(len(config.channels)), config.attention_levels
    model = UNetMotionModel(
        in_channels=latent.channels,
        out_channels=latent.channels,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple("CrossAttnDownBlockMotion" if i in cross else "DownBlockMotion" for i in levels),
        up_block_types=tuple("CrossAttnUpBlockMotion" if i in cross else "UpBlockMotion" for i in reversed(levels)),
        cross_attention_dim=space.text.dim,
        num_attention_heads=config.heads,
        motion_num_attention_heads=config.heads,
        norm_num_groups=config.norm_groups,
        use_motion_mid_block=True,
    )
    for module in model.modules():
        if type(module).__name__ == "AnimateDiffTransformer3D":
            for block in module.transformer_blocks:
                block.attn2 = block.norm2 = None  # its forward skips what is not there: one attention, as in ours
    return model


def copy_spatial_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> int:
    """Give diffusers' model our spatial weights; the number of tensors that fit by name and shape."""
    spatial = {k: v for k, v in ours.state_dict().items() if not k.startswith("temporal.")}
    target = theirs.state_dict()
    assert all(k in target and target[k].shape == v.shape for k, v in spatial.items()), "not the same spatial model"
    theirs.load_state_dict(spatial, strict=False)
    return len(spatial)


def check(ours: torch.nn.Module, theirs: torch.nn.Module, runs: dict) -> None:
    """With both temporal parts still at zero the two models must agree: they are the same spatial model."""
    for module in theirs.modules():
        if type(module).__name__ == "AnimateDiffTransformer3D":
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    torch.testing.assert_close(runs["nas"](), runs["UNetMotionModel"](), rtol=1e-4, atol=1e-4)


def count(model: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)


if __name__ == "__main__":
    main()
