"""How well does a lookup table predict whole models? One run compares three tables on architectures none has seen.

    python benchmarks/prediction.py --space demo --runtime eager --count 40
    python benchmarks/prediction.py --space mid --runtime litert --count 40

(a) this library's profiler, and the same after `nas calibrate` on 8 other architectures;
(b) a naive table: each workload alone, one after the other, by `torch.utils.benchmark`'s blocked_autorange (eager), or
    the median of a second of runs of its own graph (litert);
(c) latency proportional to FLOPs, the one factor fitted on the judged architectures themselves, in its favour.

Memory is judged too: predicted peak against measured. Prints a table and writes it as JSON with `--out`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.utils.benchmark import Timer

from nas.costs import Calibration, CostModel, LookupTable, Row
from nas.costs.work import work
from nas.profiling import calibrate, measure_architectures, profile
from nas.profiling.eager_child import build_module, make_inputs
from nas.profiling.host import clock_of
from nas.profiling.litert import LitertRuntime
from nas.spaces import Architecture, SearchSpace

AT_ONCE = 8
"""Whole models that are in memory together, and timed in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--runtime", default="eager", choices=("eager", "litert"))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--calibrate", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", help="keep the table here, or use the one that is there")
    parser.add_argument("--out", help="write the result as JSON")
    args = parser.parse_args()
    space = SearchSpace.load(args.space)
    archs = [space.random(i) for i in range(1000 * args.seed, 1000 * args.seed + args.count)]
    with tempfile.TemporaryDirectory() as folder:
        out = args.table or Path(folder) / "table.csv"
        table = profile(space, args.runtime, out=out, threads=args.threads)
    table = replace(table, path=None, calibration=None)
    naive = {"eager": naive_eager, "litert": naive_litert}[args.runtime](space, table, args.threads)
    fitted = calibrate(space, table, args.calibrate, seed=10**6, threads=args.threads).calibration
    rows = []
    for i in range(0, len(archs), AT_ONCE):
        group = archs[i : i + AT_ONCE]
        rows += measure_architectures(space, group, args.runtime, threads=args.threads, progress=True, table=table)
        result = compare(space, table, naive, fitted, archs[: len(rows)], rows)  # so far: a stopped run says something
        report(result)
        if args.out:
            Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


def compare(
    space: SearchSpace,
    table: LookupTable,
    naive: LookupTable,
    fitted: Calibration,
    archs: list[Architecture],
    rows: list[Row],
) -> dict:
    """Each way of predicting against what was measured, and the numbers of every model."""
    plain = CostModel(space, replace(table, calibration=None))
    truth = np.array([row.latency_ms for row in rows])
    own = np.array([plain.predict(arch).latency_ms for arch in archs])
    flops = np.array([architecture_flops(space, arch) for arch in archs])
    predictions = {
        "this profiler": own,
        "this profiler, calibrated": fitted.scale * own + fitted.offset_ms,
        "naive table": np.array([CostModel(space, naive).predict(arch).latency_ms for arch in archs]),
        "proportional to FLOPs": flops * np.median(truth / flops),
    }
    memory = np.array([row.memory_mb + row.weights_mb for row in rows])
    guessed_mb = np.array([plain.predict(arch).memory_mb for arch in archs])
    return {
        "space": space.name,
        "runtime": table.meta["runtime"],
        "architectures": len(archs),
        "range_ms": [float(truth.min()), float(truth.max())],
        "interval_ms": float(np.nanmedian([row.latency_ci_ms for row in rows])),
        "latency": {name: quality(guess, truth) for name, guess in predictions.items()},
        "memory": {**quality(guessed_mb, memory), "lowest": float((guessed_mb / memory - 1).min())},
        "models": {"measured_ms": truth.tolist(), **{name: guess.tolist() for name, guess in predictions.items()}},
        "table": table.meta,
    }


def naive_eager(space: SearchSpace, table: LookupTable, threads: int) -> LookupTable:
    """The same rows with latencies as `torch.utils.benchmark` finds them in this process."""
    frame = table.frame.set_index("workload")
    with torch.inference_mode():
        for workload in space.workloads():
            module, inputs = build_module(workload).eval(), make_inputs(workload, torch.device("cpu"))
            names = {"module": module, "inputs": inputs}
            timer = Timer("module(*inputs)", timer=clock_of(threads)[1], globals=names, num_threads=threads)
            frame.loc[str(workload), "latency_ms"] = timer.blocked_autorange(min_run_time=1.0).median * 1e3
    return LookupTable.from_frame(frame.reset_index())


def naive_litert(space: SearchSpace, table: LookupTable, threads: int) -> LookupTable:
    """The same rows with the latency of each operator's own graph."""
    frame = table.frame.set_index("workload")
    with LitertRuntime(threads=threads) as runtime:
        for workload in space.workloads():
            session = runtime.open_alone(workload)
            run_ms = np.median(session.block(3))
            frame.loc[str(workload), "latency_ms"] = np.median(session.block(max(3, int(1000 / run_ms))))
            session.close()
    return LookupTable.from_frame(frame.reset_index())


def architecture_flops(space: SearchSpace, arch: Architecture) -> float:
    workloads = [space.workload(slot, choice) for slot, choice in arch.items]
    parts = [space.backbone_workload(), *(workload for workload in workloads if workload)]
    return float(sum(work(workload).flops for workload in parts))


def quality(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    error = guess / truth - 1
    return {
        "mean_error": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "worst_error": float(np.abs(error).max()),
        "spearman": float(spearmanr(guess, truth).statistic),
    }


def report(result: dict) -> None:
    low, high = result["range_ms"]
    print(f"{result['space']}, {result['runtime']}: {result['architectures']} architectures, {low:.4g}..{high:.4g} ms")
    print(f"{'latency':28s} mean error    bias   worst  Spearman")
    for name, q in {**result["latency"], "(peak memory)": result["memory"]}.items():
        numbers = f"{q['mean_error']:9.2%} {q['bias']:8.2%} {q['worst_error']:7.2%} {q['spearman']:9.3f}"
        print(f"{name:28s} {numbers}")


if __name__ == "__main__":
    main()
