"""Rank correlation of supernet scores with stand-alone training.

    python benchmarks/ranking.py [--job configs/digits.yaml] [--run runs/digits/checkpoints] [--random 5] [--steps 300]

With the trained supernet of a demo run it scores one architecture per operator (the same in every slot), the empty one
and a few random ones, trains each of them stand-alone from the image backbone, and compares the two rankings by held-out
validation loss at fixed noise and timesteps. Prints a Markdown table. An interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from scipy.stats import kendalltau, spearmanr

import nas
from nas.config import build
from nas.diffusion.predictions import Objective
from nas.runs.job_config import load_job_config
from nas.training import FinetuneConfig, Inputs, SupernetEvaluator, retrain


def architectures(space: nas.SearchSpace, random: int) -> dict[str, nas.Architecture]:
    same = {"none": space.architecture({})}
    same |= {f"{name} everywhere": space.architecture(dict.fromkeys(space.slots, name)) for name in space.operators}
    return same | {f"random {seed}": space.random(seed) for seed in range(random)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/digits/checkpoints"), help="folder with decoder, distill and supernet"
    )
    parser.add_argument("--job", default="configs/digits.yaml", help="the run's config, for its space and objective")
    parser.add_argument("--random", type=int, default=5, help="how many random architectures")
    parser.add_argument("--steps", type=int, default=300, help="stand-alone training steps per architecture")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--clips", type=int, default=256, help="held-out clips of a validation loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    job = load_job_config(args.job)
    space, objective = nas.SearchSpace.load(job.space), build(Objective, job.objective, args.job, "objective")
    decoder = args.run / "decoder"
    evaluator = SupernetEvaluator(Inputs(space, decoder, args.run / "supernet", objective=objective), args.clips)
    config = FinetuneConfig(steps=args.steps, batch=args.batch, image_share=0.0, validation=args.clips)
    rows = []
    for number, (name, arch) in enumerate(architectures(space, args.random).items()):
        alone = retrain(args.out / str(number), Inputs(space, decoder, args.run / "distill", arch, objective), config)
        rows.append((name, -evaluator(arch), alone))
        print(*rows[-1], flush=True)
    print_table(rows, args, space)


def print_table(rows: list[tuple[str, float, float]], args: argparse.Namespace, space: nas.SearchSpace) -> None:
    shared, alone = [row[1] for row in rows], [row[2] for row in rows]
    inside = [i for i, row in enumerate(rows) if row[0] != "none"]
    tau = kendalltau(shared, alone).statistic
    tau_inside = kendalltau([shared[i] for i in inside], [alone[i] for i in inside]).statistic
    print(f"\nSpace `{space.name}` ({space.hash}), {len(rows)} architectures, {args.steps} steps of {args.batch} clips "
          f"each on its own, validation on {args.clips} held-out clips.\n")  # fmt: skip
    print(
        "| architecture | supernet loss | stand-alone loss | rank in supernet | rank alone |\n| --- | --- | --- | --- | --- |"
    )
    for name, a, b in sorted(rows, key=lambda row: row[2]):
        print(f"| {name} | {a:.4f} | {b:.4f} | {sorted(shared).index(a) + 1} | {sorted(alone).index(b) + 1} |")
    print(f"\nKendall tau {tau:.2f} (without the empty architecture {tau_inside:.2f}), "
          f"Spearman rho {spearmanr(shared, alone).statistic:.2f}. "
          f"{os.cpu_count()} cores, torch {torch.__version__}, {args.threads} thread(s).")  # fmt: skip


if __name__ == "__main__":
    main()
