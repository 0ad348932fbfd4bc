"""Compares training steps with weights in torch's channels-last memory format with those in the default one.

    python benchmarks/channels_last.py --out docs/benchmarks/channels_last.json          # on a GPU: --device cuda

One architecture of each space, the same weights and inputs, forward, backward and AdamW; the two take turns, so that drift
of the machine affects both. On the CPU the time is the processor time of one thread. The ratio is that of the medians; below
1, channels-last is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nas.files import write_json
from nas.models import build
from nas.spaces import SearchSpace

FORMATS = {"default": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["demo", "mid"])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 1], help="clips in a step, for each space")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=3, help="of the random architecture")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {"torch": torch.__version__, "device": args.device, "precision": args.precision}
    print("| space | clips | default, ms | channels last, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for name, batch in zip(args.spaces, args.batches, strict=True):
        space = SearchSpace.load(name)
        steps = {kind: training_step(space, batch, FORMATS[kind], args) for kind in FORMATS}
        default_ms, last_ms = (statistics.median(times_ms) for times_ms in in_turn(steps, args.rounds, args.device))
        result[name] = {"clips": batch, "default_ms": default_ms, "channels_last_ms": last_ms}
        print(f"| {name} | {batch} | {default_ms:.1f} | {last_ms:.1f} | {last_ms / default_ms:.3f} |", flush=True)
    if args.out:
        write_json(args.out, result)


def training_step(
    space: SearchSpace, batch: int, memory_format: torch.memory_format, args: argparse.Namespace
) -> Callable[[], None]:
    """A function that runs one step of a new denoiser, the same for each format."""
    torch.manual_seed(0)
    denoiser = build(space, space.random(args.seed)).to(args.device, memory_format=memory_format)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, fused=True)
    latents = torch.randn(batch, *space.input_shape()[1:], device=args.device)
    context = torch.randn(batch, *space.context_shape()[1:], device=args.device)
    times = torch.rand(batch, device=args.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = denoiser(latents, times, context).square().mean()
        loss.backward()
        optimizer.step()

    return step


def in_turn(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> list[list[float]]:
    """Milliseconds of each step in each round; the first three rounds do not count."""
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if device == "cuda" else (time.thread_time, lambda: None)
    times_ms: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 3):
        for kind, step in steps.items():
            start = clock()
            step()
            wait()
            if number >= 3:
                times_ms[kind].append(1e3 * (clock() - start))
    return list(times_ms.values())


if __name__ == "__main__":
    main()
