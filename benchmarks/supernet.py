"""Throughput of a supernet training step relative to a plain denoiser of the same path.

    python benchmarks/supernet.py [--space demo] [--batch 8] [--paths 6] [--rounds 10]

Each path is trained inside the supernet and as a separate denoiser, with the same batch and learner (gradient, clipping,
AdamW, EMA), so that the difference is the cost of the other paths. The two alternate within each round, so that drift
affects both; the ratio is that of the sums of the paths' median step times. It should be at least 0.9.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from nas.data.batches import Batch
from nas.diffusion.losses import batch_loss
from nas.diffusion.schedules import logit_normal
from nas.diffusion.seeding import generator
from nas.models import Supernet, fair_round
from nas.spaces import SearchSpace
from nas.training.learner import Learner
from nas.training.optimization import Optimization

CONFIG = Optimization(lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--paths", type=int, default=6, help="number of paths, from a fair round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="CPU time instead of wall time, for a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    space = SearchSpace.load(args.space)
    batch = random_batch(space, args.batch)
    model = Supernet(space)
    paths = fair_round(space, np.random.default_rng(0))[: args.paths]
    plain = [Learner(model.extract(path), CONFIG, 1000) for path in paths]
    supernet = Learner(model, CONFIG, 1000)
    times_ms: dict[str, list[list[float]]] = {kind: [[] for _ in paths] for kind in ("supernet", "plain")}
    clock = time.process_time if args.cpu_time else time.perf_counter
    for number in range(args.rounds + 1):
        for i, path in enumerate(paths):
            inside, alone = step_ms(clock, supernet, batch, number, path), step_ms(clock, plain[i], batch, number)
            if number:  # the first round allocates the moments
                times_ms["supernet"][i].append(inside)
                times_ms["plain"][i].append(alone)
    print(report(space, paths, supernet, plain, times_ms, args))


def random_batch(space: SearchSpace, size: int) -> Batch:
    """Noise instead of latents and text, on which the cost of a step does not depend."""
    stream = generator(0)
    latents, noise = (torch.randn(size, *space.input_shape()[1:], generator=stream) for _ in range(2))
    context = torch.randn(size, *space.context_shape()[1:], generator=stream)
    return Batch(latents, context, noise, logit_normal(size, stream))


def step_ms(clock: Callable[[], float], learner: Learner, batch: Batch, number: int, *path: object) -> float:
    started = clock()
    learner.train_step(lambda part: batch_loss(learner.model, part, *path), batch, number)
    return (clock() - started) * 1e3


def report(space: SearchSpace, paths: list, supernet: Learner, plain: list, times_ms: dict, args) -> str:
    medians = {kind: [statistics.median(times) for times in rows] for kind, rows in times_ms.items()}
    lines = [
        f"Space `{space.name}`, batch {args.batch}, {args.rounds} rounds, {args.threads} thread(s) of {os.cpu_count()} "
        f"cores, torch {torch.__version__}, {'CPU' if args.cpu_time else 'wall'} time, load {os.getloadavg()[0]:.1f}.",
        "",
        "| path | parameters (M) of the supernet | of the path | supernet step (ms) | plain step (ms) | throughput |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for i, path in enumerate(paths):
        a, b = medians["supernet"][i], medians["plain"][i]
        layers = ", ".join(choice for _, choice in path.items)
        lines.append(f"| {layers} | {millions(supernet)} | {millions(plain[i])} | {a:.1f} | {b:.1f} | {b / a:.3f} |")
    ratio = sum(medians["plain"]) / sum(medians["supernet"])
    return "\n".join([*lines, "", f"Throughput of the supernet step over the plain one: **{ratio:.3f}** (bar 0.9)."])


def millions(learner: Learner) -> str:
    return f"{sum(p.numel() for p in learner.parameters) / 1e6:.2f}"


if __name__ == "__main__":
    main()
