"""The time of a whole clip: what the cost model predicts against what a trained pipeline takes.

    nas profile --space demo --out table.csv --pipeline
    python benchmarks/generation.py --table table.csv --checkpoint runs/demo/checkpoints/adversarial --steps 4
    python benchmarks/generation.py --table table.csv --checkpoint runs/demo/checkpoints/finetune --steps 25

Every clip has a caption that was not encoded before, so that the text encoder runs for each. The first clips, which
load the text encoder and fill the caches, do not count.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from nas.costs import CostModel, LookupTable
from nas.pipeline import Pipeline
from nas.profiling.host import clock_of

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="measured with --pipeline by the eager runtime")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's")
    parser.add_argument("--clips", type=int, default=30)
    args = parser.parse_args()
    table, pipeline = LookupTable.load(args.table), Pipeline.from_pretrained(args.checkpoint)
    torch.set_num_threads(table.provenance.threads)
    guidance = pipeline.checkpoint.info.guidance if args.guidance is None else args.guidance
    cost = CostModel(pipeline.checkpoint.space, table)
    generation = cost.generation(args.steps, guidance != 1)
    latency_ms = cost.predict(pipeline.checkpoint.architecture).latency_ms
    predicted = generation.seconds(latency_ms)
    name, clock = clock_of(table.provenance.threads)
    seconds = []
    for i in range(WARM_UP + args.clips):
        start = clock(), time.perf_counter()
        pipeline(f"the digit three moves left, take {i}", steps=args.steps, guidance=guidance)
        seconds.append((clock() - start[0], time.perf_counter() - start[1]))
    measured, wall = np.median(seconds[WARM_UP:], axis=0)
    low, high = np.percentile([own for own, _ in seconds[WARM_UP:]], [10, 90])
    print(generation.parts(latency_ms, "measured").to_string(index=False, float_format="{:.4f}".format))
    print(
        f"{args.steps} steps, guidance {guidance:g}: predicted {predicted:.4f} s, measured {measured:.4f} s by {name} "
        f"({low:.4f} to {high:.4f} in 80% of {args.clips} clips), {wall:.4f} s on the wall: {predicted / measured - 1:+.1%}"
    )


if __name__ == "__main__":
    main()
