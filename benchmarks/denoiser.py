"""Compares the denoiser with diffusers' `UNetMotionModel` in eager mode on this machine.

    python benchmarks/denoiser.py --space mid --threads 1 2 --rounds 15 --out docs/benchmarks/denoiser.md

Same spatial configuration and weights (checked: with the temporal parts at zero both give the same output), same
shapes, and one temporal transformer layer at the same sites: `SelfAttention1D` in one slot of each against diffusers'
motion module with one self-attention (by default it has two; the second is removed, in its favor). diffusers'
module also has two projections around the layer: both numbers of parameters are printed. The models are timed in
turn, so that drift affects both. Ratios are those of medians, of wall-clock time and of CPU time, which is more stable
on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch

from nas.models import build
from nas.spaces import Operator, SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mid")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="a markdown file; default: only print")
    args = parser.parse_args()
    space = SearchSpace.load(args.space)
    text = page(space, args.rounds, [measure(space, threads, args.rounds) for threads in args.threads])
    print(text)
    if args.out:
        args.out.write_text(text)


def measure(space: SearchSpace, threads: int, rounds: int) -> dict:
    """Median milliseconds of both models on both clocks, and their parameters."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, theirs = ours_with_self_attention(space).eval(), motion_model(space).eval()
    copy_spatial_weights(ours, theirs)
    x, text = torch.randn(space.input_shape()), torch.randn(space.context_shape())
    timestep = torch.full((len(x),), 500.0)
    repeated = text.repeat_interleave(x.shape[2], dim=0)  # UNetMotionModel expects the text once per frame
    runs = {
        "nas": lambda: ours(x, timestep, text),
        "diffusers": lambda: theirs(x, timestep, encoder_hidden_states=repeated, return_dict=False)[0],
    }
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    times_ms = {(clock, name): [] for clock in clocks for name in runs}
    with torch.inference_mode():
        check(theirs, runs)
        for _ in range(rounds):
            for name, run in runs.items():
                start = {clock: now() for clock, now in clocks.items()}
                run()
                for clock, now in clocks.items():
                    times_ms[clock, name].append((now() - start[clock]) * 1e3)
    median_ms = {key: statistics.median(times) for key, times in times_ms.items()}
    return {"threads": threads, "params": (count(ours), count(theirs)), "median_ms": median_ms}


def page(space: SearchSpace, rounds: int, results: list[dict]) -> str:
    rows = []
    for result in results:
        for clock, says in (("wall", "on the clock"), ("cpu", "computing")):
            ours, theirs = (result["median_ms"][clock, name] for name in ("nas", "diffusers"))
            rows.append(f"| {result['threads']} | {says} | {ours:.0f} ms | {theirs:.0f} ms | {ours / theirs:.3f} |")
    ours, theirs = results[0]["params"]
    return f"""# The denoiser against diffusers' UNetMotionModel

`python benchmarks/denoiser.py --space {space.name}` on {platform.machine()} with torch {torch.__version__} and diffusers
{version("diffusers")}: one denoising step at {"x".join(map(str, space.input_shape()))}, the same spatial weights (outputs compared), one temporal self-attention at
the same sites of both ({ours:.1f}M parameters here, {theirs:.1f}M there), {rounds} rounds in turn, medians. Time computing is that of the
process's threads: it leaves out what other programs took on a machine that was not otherwise idle.

| threads | time | nas | UNetMotionModel | ratio |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


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
                block.attn2 = block.norm2 = None  # its forward skips None: one attention, as in ours
    return model


def copy_spatial_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Copy all spatial weights to diffusers' model."""
    spatial = {k: v for k, v in ours.state_dict().items() if not k.startswith("temporal.")}
    target = theirs.state_dict()
    assert all(k in target and target[k].shape == v.shape for k, v in spatial.items()), "not the same spatial model"
    theirs.load_state_dict(spatial, strict=False)


def check(theirs: torch.nn.Module, runs: dict) -> None:
    """With zero temporal parts both models must agree, since their spatial parts are the same."""
    for module in theirs.modules():
        if type(module).__name__ == "AnimateDiffTransformer3D":
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    torch.testing.assert_close(runs["nas"](), runs["diffusers"](), rtol=1e-4, atol=1e-4)


def count(model: torch.nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


if __name__ == "__main__":
    main()
