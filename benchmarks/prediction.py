"""Prediction error of lookup tables on whole models: compare three tables on architectures that none has seen.

    python benchmarks/prediction.py --space demo --runtime eager --folder demo.eager
    python benchmarks/prediction.py --space mid --runtime litert --folder mid.litert
    python benchmarks/prediction.py --space demo --runtime web --folder demo.web       # in a Chromium on this machine

(a) this library's profiler, without and with `nas calibrate` on 8 other architectures;
(b) a naive table: each workload alone, one after the other, by `torch.utils.benchmark`'s blocked_autorange (eager), or
    the median of a second of runs of its own graph (litert), or of three blocks of it (web);
(c) latency proportional to FLOPs, with the factor fitted on the test architectures themselves, which favors it.

Each architecture is measured whole in six passes (web: two), in new processes each time. The mean of the passes is the ground truth;
the error of one pass against the mean of the others is the noise of a pass. Predicted peak memory is compared with
measured peak memory, too.

Measurements are kept in the folder, and the benchmark resumes when it is run again. It prints the result after every group
of models, and writes it to `result.json`.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.utils.benchmark import Timer

from nas.costs import Calibration, CostModel, LookupTable, TableWriter
from nas.costs.workload_counts import count_ops
from nas.profiling import calibrate, measure_architectures, profile
from nas.profiling.host import clock_of
from nas.profiling.protocol import Protocol
from nas.profiling.runtimes.base import WholeModel
from nas.profiling.runtimes.litert import LitertRuntime
from nas.profiling.web.runtime import WebRuntime
from nas.profiling.workers.eager import build_module, make_inputs
from nas.spaces import Architecture, SearchSpace

AT_ONCE = 40
"""Whole models that are in memory together, and timed in turn. In groups of 8, one after the other, the machine's drift
from minute to minute (3%) fell on some models and not on others, and spoilt their ranks."""
PASSES = {"eager": 6, "litert": 6, "web": 2}
"""A process may be 3% slower or faster than another for as long as it lives, half as much as the models differ; the ground
truth must be more accurate than that. In a browser each block has a process's memory of its own, so fewer suffice."""
COUNTS = {"eager": 40, "litert": 40, "web": 24}
"""Architectures by default."""
ONE_PASS = {
    "eager": Protocol(min_samples=8, cap_s=2.0),
    "litert": Protocol(min_samples=8, cap_s=2.0),
    "web": Protocol(min_samples=15, min_blocks=3, cap_s=0.5),
}
"""Few runs: processes differ by more than the runs in one process. In a browser each block takes three to nine seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--runtime", default="eager", choices=tuple(PASSES))
    parser.add_argument("--count", type=int, help="default: 40, for web 24")
    parser.add_argument("--calibrate", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--browser", default="chromium", help="web: the program")
    parser.add_argument("--folder", type=Path, required=True, help="output folder of the table and the measured models")
    args = parser.parse_args()
    space = SearchSpace.load(args.space)
    count = args.count or COUNTS[args.runtime]
    archs = [space.random(i) for i in range(1000 * args.seed, 1000 * args.seed + count)]
    browser = {"browser": args.browser} if args.runtime == "web" else {}
    table = profile(space, args.runtime, out=args.folder / "table.csv", threads=args.threads, **browser)
    if table.calibration is None:
        calibrate(space, table, args.calibrate, seed=10**6, **browser)
    naive_path = args.folder / "naive.csv"
    if not naive_path.exists():
        makers = {"eager": naive_eager, "litert": naive_litert, "web": functools.partial(naive_web, args.browser)}
        naive = makers[args.runtime](space, table, args.threads)
        naive.save(naive_path)
    naive = LookupTable.load(naive_path)
    writers = [TableWriter(args.folder / f"models-{i + 1}.csv", table.provenance) for i in range(PASSES[args.runtime])]
    options = {"threads": args.threads, "progress": True, "table": table, "protocol": ONE_PASS[args.runtime], **browser}
    for number, writer in enumerate(writers, 1):
        missing = [arch for arch in archs if str(WholeModel(space, arch)) not in writer.done]
        for i in range(0, len(missing), AT_ONCE):
            for row in measure_architectures(space, missing[i : i + AT_ONCE], args.runtime, **options):
                writer.append(row)
            report(compare(space, table, naive, archs, writers[:number]))
    result = compare(space, table, naive, archs, writers)
    report(result)
    (args.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def compare(
    space: SearchSpace, table: LookupTable, naive: LookupTable, archs: list[Architecture], writers: list[TableWriter]
) -> dict:
    """Errors of each prediction against the passes measured so far, and the values of every model."""
    passes = [LookupTable.load(writer.path).rows() for writer in writers]
    archs = [arch for arch in archs if all(str(WholeModel(space, arch)) in rows for rows in passes)]
    if not archs:
        return {}
    rows = [[rows[str(WholeModel(space, arch))] for arch in archs] for rows in passes]
    measured = np.array([[row.latency_ms for row in one] for one in rows])
    truth = measured.mean(axis=0)
    plain, corrected = CostModel(space, replace(table, calibration=None)), table.calibration or Calibration()
    own = np.array([plain.predict(arch).latency_ms for arch in archs])
    flops = np.array([architecture_flops(space, arch) for arch in archs])
    predictions = {
        "this profiler": own,
        "this profiler, calibrated": corrected.scale * own + corrected.offset_ms,
        "naive table": np.array([CostModel(space, naive).predict(arch).latency_ms for arch in archs]),
        "proportional to FLOPs": flops * np.median(truth / flops),
    }
    memory = np.array([row.memory_mb + row.weights_mb for row in rows[0]])
    guessed_mb = np.array([plain.predict(arch).memory_mb for arch in archs])
    latency = {name: quality(guess, truth) for name, guess in predictions.items()}
    if len(passes) > 1:
        latency["(one pass by the others)"] = between(measured)
    return {
        "space": space.name,
        "runtime": table.provenance.runtime,
        "architectures": len(archs),
        "range_ms": [float(truth.min()), float(truth.max())],
        "interval_ms": float(np.nanmedian([row.latency_ci_ms for one in rows for row in one])),
        "latency": latency,
        "memory": {**quality(guessed_mb, memory), "lowest": float((guessed_mb / memory - 1).min())},
        "models": {"measured_ms": measured.tolist(), **{name: guess.tolist() for name, guess in predictions.items()}},
        "table": table.meta,
    }


def naive_eager(space: SearchSpace, table: LookupTable, threads: int) -> LookupTable:
    """The same rows with latencies by `torch.utils.benchmark` in this process."""
    frame = table.frame.set_index("workload")
    with torch.inference_mode():
        for workload in space.workloads():
            module, inputs = build_module(workload).eval(), make_inputs(workload, torch.device("cpu"))
            names = {"module": module, "inputs": inputs}
            timer = Timer("module(*inputs)", timer=clock_of(threads)[1], globals=names, num_threads=threads)
            frame.loc[str(workload), "latency_ms"] = timer.blocked_autorange(min_run_time=1.0).median * 1e3
    return LookupTable.from_frame(frame.reset_index(), table.provenance)


def naive_litert(space: SearchSpace, table: LookupTable, threads: int) -> LookupTable:
    """The same rows with the latency of each operator's own graph."""
    frame = table.frame.set_index("workload")
    with LitertRuntime(threads=threads) as runtime:
        for workload in space.workloads():
            session = runtime.open_graph(workload)
            run_ms = np.median(session.block(3))
            frame.loc[str(workload), "latency_ms"] = np.median(session.block(max(3, int(1000 / run_ms))))
            session.close()
    return LookupTable.from_frame(frame.reset_index(), table.provenance)


def naive_web(browser: str, space: SearchSpace, table: LookupTable, threads: int) -> LookupTable:
    """The same rows with the latency of each operator's own graph."""
    frame = table.frame.set_index("workload")
    with WebRuntime(threads=threads, browser=browser) as runtime:
        for workload in space.workloads():
            session = runtime.open_graph(workload)
            frame.loc[str(workload), "latency_ms"] = np.median([np.median(session.block(5)) for _ in range(3)])
            session.close()
    return LookupTable.from_frame(frame.reset_index(), table.provenance)


def architecture_flops(space: SearchSpace, arch: Architecture) -> float:
    workloads = [space.workload(slot, choice) for slot, choice in arch.items]
    parts = [space.backbone_workload(), *(workload for workload in workloads if workload)]
    return float(sum(count_ops(workload).flops for workload in parts))


def quality(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    error = guess / truth - 1
    return {
        "mean_error": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "worst_error": float(np.abs(error).max()),
        "spearman": float(spearmanr(guess, truth).statistic),
    }


def between(measured: np.ndarray) -> dict[str, float]:
    """Mean error of predicting one pass by the mean of the others; `measured` is `(passes, models)` in ms."""
    each = [quality(np.delete(measured, i, axis=0).mean(axis=0), one) for i, one in enumerate(measured)]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def report(result: dict) -> None:
    if not result:
        return
    low, high = result["range_ms"]
    print(f"{result['space']}, {result['runtime']}: {result['architectures']} architectures, {low:.4g}..{high:.4g} ms")
    print(f"{'latency':28s} mean error    bias   worst  Spearman")
    for name, q in {**result["latency"], "(peak memory)": result["memory"]}.items():
        numbers = f"{q['mean_error']:9.2%} {q['bias']:8.2%} {q['worst_error']:7.2%} {q['spearman']:9.3f}"
        print(f"{name:28s} {numbers}", flush=True)


if __name__ == "__main__":
    main()
