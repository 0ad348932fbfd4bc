"""Accuracy of interpolated rows: rows of a measured table are hidden and interpolated from the others.

Each operator of the table is left out in turn and predicted by

- nas: `nas.costs.interpolate`, a roofline model shared by all operators, times a factor per kind;
- roofline per kind: the same terms, fitted to the rows of each kind separately;
- flops: latency proportional to the flops, with one factor per kind.

The coverage of the interval is estimated on random sets of hidden rows.

    python benchmarks/interpolation.py SPACE=TABLE.csv [SPACE=TABLE.csv ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import nnls

from nas.costs import LookupTable, Row
from nas.costs.interpolate import interpolate_missing
from nas.costs.workload_counts import count_ops
from nas.errors import TableError
from nas.spaces import Operator, SearchSpace, Workload

DRAWS, HIDDEN = 300, 2


def main(arguments: list[str]) -> None:
    print("| table | rows | nas: mean, worst error | roofline per kind | flops | half interval | coverage |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for argument in arguments:
        name, _, path = argument.partition("=")
        space, table = SearchSpace.load(name), LookupTable.load(path)
        rows = table.rows()
        ops = [w for w in space.workloads() if isinstance(w.part, Operator) and rows[str(w)].status == "ok"]
        errors = {"nas": [], "kind": [], "flops": []}
        for hidden in ops:
            truth, same = rows[str(hidden)].latency_ms, [w for w in ops if w.kind == hidden.kind and w != hidden]
            measured = np.array([rows[str(w)].latency_ms for w in same])
            guesses = {
                "nas": fill(space, table, [hidden])[str(hidden)].latency_ms,
                "kind": per_kind(same, measured, hidden),
                "flops": count_ops(hidden).flops
                * np.exp(np.mean(np.log(measured / [count_ops(w).flops for w in same]))),
            }
            for method, guess in guesses.items():
                errors[method].append(abs(guess / truth - 1))
        inside, widths = zip(*covered(space, table, ops))
        shown = [f"{np.mean(e):.1%}, {np.max(e):.0%}" for e in errors.values()]
        meta = f"{name}, {table.provenance.runtime or ''}"
        print(f"| {meta} | {len(ops)} | {' | '.join(shown)} | {np.median(widths):.0%} | {np.mean(inside):.1%} |")


def covered(space: SearchSpace, table: LookupTable, ops: list[Workload]) -> Iterator[tuple[bool, float]]:
    """For random sets of hidden rows: whether the interval covers the true latency, and its relative half width."""
    rng, rows = np.random.default_rng(0), table.rows()
    for _ in range(DRAWS):
        hidden = [ops[i] for i in rng.choice(len(ops), HIDDEN, replace=False)]
        try:
            rows_again = fill(space, table, hidden)
        except TableError:  # every row of a kind was hidden
            continue
        for workload in hidden:
            row = rows_again[str(workload)]
            yield (
                abs(row.latency_ms - rows[str(workload)].latency_ms) <= row.latency_ci_ms,
                row.latency_ci_ms / row.latency_ms,
            )


def fill(space: SearchSpace, table: LookupTable, hidden: list[Workload]) -> dict[str, Row]:
    """The rows of the table after the hidden ones were removed and interpolated."""
    keep = ~table.frame["workload"].isin(map(str, hidden))
    return interpolate_missing(space, replace(table, frame=table.frame[keep])).rows()


def per_kind(same: list[Workload], measured: np.ndarray, hidden: Workload) -> float:
    """The latency predicted by a roofline model of one kind."""
    x = np.array([terms(w) for w in same]) / measured[:, None]
    scale = np.where(x.max(0) > 0, x.max(0), 1.0)
    return float(terms(hidden) @ (nnls(x / scale, np.ones(len(same)))[0] / scale))


def terms(workload: Workload) -> np.ndarray:
    """The terms of the roofline model: flops outside and inside attention, memory traffic, kernels."""
    counts = count_ops(workload)
    dense = counts.flops - counts.attention_flops
    return np.array([dense, counts.attention_flops, counts.memory_traffic, counts.kernels], float)


if __name__ == "__main__":
    main(sys.argv[1:])
