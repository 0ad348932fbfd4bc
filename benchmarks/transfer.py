"""Accuracy of `nas transfer`: rows of a measured table are hidden, and predicted from another device's table.

    python benchmarks/transfer.py SPACE=A.csv,B.csv[,...] [SPACE=...] --out docs/benchmarks/transfer.json

Every ordered pair of the tables of a space is a transfer from the first to the second. "Measuring" a workload is looking it up
in the second table, so the benchmark takes seconds. For each number of measured rows:

- designed: the rows that `nas transfer` chooses, and its model;
- random: its model on random rows, mean of 10 draws; with the backbone always among them in "random + backbone";
- rescaled: the first table times the geometric mean of the ratios of the designed rows;
- roofline: operation counts fitted to the designed rows, as `nas cost --interpolate` does.

Measured rows keep their measured value in all of them. Predictions of whole architectures by these tables are compared with
predictions by the whole second table, on random architectures that run. Coverage is that of the 90% intervals on rows that
were not measured, in the designed tables and in those of the random draws.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from interpolation import terms
from scipy.optimize import nnls
from scipy.stats import spearmanr

from nas.costs import CostModel, LookupTable, Row
from nas.costs.row import COLUMNS
from nas.costs.transfer import MIN_ROWS, Transfer
from nas.spaces import Operator, SearchSpace

COUNTS, DRAWS, ARCHITECTURES = (5, 8, 10, 12, 16), 10, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="SPACE=A.csv,B.csv")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for argument in args.tables:
        name, _, paths = argument.partition("=")
        space = SearchSpace.load(name)
        for source, target in itertools.permutations(map(LookupTable.load, paths.split(",")), 2):
            if "measured" in set(target.frame["source"]):  # an estimate is a source, and no device to measure on
                results += compare(space, source, target)
    report(pd.DataFrame(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1).replace("NaN", "null") + "\n")


def compare(space: SearchSpace, source: LookupTable, target: LookupTable) -> list[dict]:
    """The results of each method and number of measured rows of one pair."""
    problem, codes = Transfer(space, [source]), runnable(space, target)
    truth = CostModel(space, target).predict_many(codes)
    rows, pair = target.rows(), f"{space.name}: {label(source)} -> {label(target)}"
    keys = [str(workload) for workload in space.workloads()]
    results = []
    for count in [count for count in COUNTS if count < len(keys)]:
        chosen = designed(problem, rows, count, target.provenance.runtime)
        if sum(rows[key].status == "ok" for key in chosen) < MIN_ROWS:
            continue

        def judged(method: str, table: LookupTable, count: int = count) -> dict:
            found = {"pair": pair, "measured": count, "method": method, "rows": len(keys)}
            return {**found, **quality(space, table, codes, truth), **intervals(table, rows)}

        results.append({**judged("designed", problem.fill(only(target, chosen)).table), "chosen": chosen})
        results.append(judged("rescaled", completed(space, source, target, chosen, rescaled)))
        results.append(judged("roofline", completed(space, source, target, chosen, roofline)))
        rng = np.random.default_rng(0)
        for method, always in (("random", []), ("random + backbone", keys[:1])):
            drawn = []
            while len(drawn) < DRAWS:
                others = [key for key in keys if key not in always]
                subset = [*always, *rng.choice(others, count - len(always), replace=False)]
                if sum(rows[key].status == "ok" for key in subset) >= MIN_ROWS:
                    drawn.append(judged(method, problem.fill(only(target, subset)).table))
            frame = pd.DataFrame(drawn)
            numbers = frame.select_dtypes("number")
            results.append({**drawn[0], **numbers.mean().to_dict(), "worst": float(numbers["mean_error"].max())})
    return results


def designed(problem: Transfer, rows: dict[str, Row], count: int, runtime: str) -> list[str]:
    """The rows that `nas transfer` measures."""
    measured: dict[str, Row] = {}
    while picked := problem.plan_round(measured, count, runtime):
        measured |= {str(workload): rows[str(workload)] for workload in picked}
    return list(measured)


def runnable(space: SearchSpace, table: LookupTable) -> np.ndarray:
    """Codes of random architectures of the choices that run."""
    rows, rng = table.rows(), np.random.default_rng(1)
    columns = []
    for slot, choices in space.slots.items():
        runs = [
            c
            for c, choice in enumerate(choices)
            if (w := space.workload(slot, choice)) is None or rows[str(w)].status == "ok"
        ]
        columns.append(rng.choice(runs, ARCHITECTURES))
    return np.stack(columns, axis=1)


def only(table: LookupTable, keys: list[str]) -> LookupTable:
    return replace(
        table, frame=table.frame[table.frame["workload"].isin(keys)].reset_index(drop=True), calibration=None
    )


def completed(
    space: SearchSpace, source: LookupTable, target: LookupTable, chosen: list[str], method: Callable
) -> LookupTable:
    """The target's chosen rows, and those of `method` for the others."""
    known, others = target.rows(), source.rows()
    fitted = [key for key in chosen if known[key].status == "ok" and others[key].status == "ok"]
    new = method(space, {key: known[key] for key in fitted}, others)
    rows = [
        known[key]
        if key in chosen
        else replace(others[key], latency_ms=new[key] if others[key].status == "ok" else np.inf)
        for key in map(str, space.workloads())
    ]
    return LookupTable(pd.DataFrame(map(vars, rows), columns=list(COLUMNS)), target.provenance)


def rescaled(space: SearchSpace, known: dict[str, Row], source: dict[str, Row]) -> dict[str, float]:
    """The source's latencies times one factor."""
    factor = np.exp(np.mean([np.log(row.latency_ms / source[key].latency_ms) for key, row in known.items()]))
    return {key: row.latency_ms * factor for key, row in source.items()}


def roofline(space: SearchSpace, known: dict[str, Row], source: dict[str, Row]) -> dict[str, float]:
    """Latencies from operation counts, with a factor for each kind that was measured."""
    workloads = {str(w): w for w in space.workloads() if isinstance(w.part, Operator)}
    fitted = [key for key in known if key in workloads]
    x, y = np.array([terms(workloads[key]) for key in fitted]), np.array([known[key].latency_ms for key in fitted])
    scale = np.maximum((x / y[:, None]).max(0), 1e-30)
    coefficients = nnls(x / y[:, None] / scale, np.ones(len(y)))[0] / scale
    left = {}
    for key, one, latency_ms in zip(fitted, x, y):
        left.setdefault(workloads[key].kind, []).append(np.log(latency_ms / (one @ coefficients)))
    every = {
        key: float(terms(w) @ coefficients * np.exp(np.mean(left.get(w.kind, [0.0])))) for key, w in workloads.items()
    }
    return {**rescaled(space, known, source), **every}


def quality(space: SearchSpace, table: LookupTable, codes: np.ndarray, truth: pd.DataFrame) -> dict[str, float]:
    """Errors of the costs of architectures; of those that run by `table`, the share of which is `runs`."""
    found = CostModel(space, table, estimates=True).predict_many(codes)
    runs = np.isfinite(found["latency_ms"])
    if runs.sum() < 10:
        return {"mean_error": np.nan, "spearman": np.nan, "memory_error": np.nan, "runs": float(runs.mean())}
    error = found["latency_ms"][runs] / truth["latency_ms"][runs] - 1
    memory = found["memory_mb"][runs] / truth["memory_mb"][runs] - 1
    return {
        "mean_error": float(error.abs().mean()),
        "spearman": float(spearmanr(found["latency_ms"][runs], truth["latency_ms"][runs]).statistic),
        "memory_error": float(memory.abs().mean()),
        "runs": float(runs.mean()),
    }


def intervals(table: LookupTable, truth: dict[str, Row]) -> dict[str, float]:
    """Of transferred rows: how many run on both sides, how many are covered, their mean error, and wrong feasibility."""
    new = [row for row in table.rows().values() if row.source == "transferred"]
    both = [(row, truth[row.workload]) for row in new if row.status == truth[row.workload].status == "ok"]
    inside = [abs(row.latency_ms - true.latency_ms) <= row.latency_ci_ms for row, true in both]
    errors = [abs(row.latency_ms / true.latency_ms - 1) for row, true in both if true.latency_ms > 0]
    return {
        "held_out": len(both),
        "covered": int(np.sum(inside)),
        "row_error": float(np.mean(errors)) if errors else np.nan,
        "half_interval": float(np.median([row.latency_ci_ms / row.latency_ms for row, _ in both])) if both else np.nan,
        "wrongly_feasible": sum(row.status == "ok" != truth[row.workload].status for row in new),
        "wrongly_infeasible": sum(row.status != "ok" == truth[row.workload].status for row in new),
    }


def label(table: LookupTable) -> str:
    """`eager.2_threads` of `snapgen_v.eager.2_threads.csv`, `litert` of `litert.csv`."""
    return table.path.stem.removeprefix(f"{table.provenance.space}.")


def report(results: pd.DataFrame) -> None:
    """Print a table of each pair, and the coverage of all."""
    for pair, of_pair in results.groupby("pair", sort=False):
        print(f"\n{pair}: mean error / Spearman of architectures by measured rows of {int(of_pair['rows'].iloc[0])}\n")
        methods = of_pair["method"].unique()
        print("| measured | " + " | ".join(methods) + " | covered | half interval |")
        print("| --- " * (len(methods) + 3) + "|")
        for count, group in of_pair.groupby("measured"):
            by = group.set_index("method")
            cells = [f"{by['mean_error'][m]:.1%} / {by['spearman'][m]:.3f}" for m in methods]
            designed = by.loc["designed"]
            cells += [f"{designed['covered']:.0f} of {designed['held_out']:.0f}", f"{designed['half_interval']:.0%}"]
            print(f"| {int(count)} | " + " | ".join(cells) + " |")
    print("\n| tables | coverage |\n| --- | --- |")
    for method in ("designed", "random", "random + backbone"):
        of_method = results[results["method"] == method]
        print(f"| {method} | {of_method['covered'].sum() / of_method['held_out'].sum():.1%} |")


if __name__ == "__main__":
    main()
