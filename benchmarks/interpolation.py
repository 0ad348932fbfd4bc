"""How far interpolated rows are from measured ones: rows of a real table are hidden and interpolated from the rest.

Each operator of the table is left out in turn, and predicted by

- nas: `nas.costs.interpolate`, a roofline shared by all operators times a factor per kind;
- roofline per kind: the same terms, fitted to the rows of one kind alone;
- arithmetic: latency in proportion to the kind's floating-point operations.

The coverage of the interval is counted over random sets of hidden rows.

    python benchmarks/interpolation.py SPACE=TABLE.csv [SPACE=TABLE.csv ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import nnls

from nas.costs import LookupTable
from nas.costs.interpolate import interpolate_missing
from nas.costs.workload_counts import count_ops
from nas.errors import TableError
from nas.spaces import Operator, SearchSpace, Workload

DRAWS, HIDDEN = 300, 2


def main(arguments: list[str]) -> None:
    print("| table | rows | nas: mean, worst error | roofline per kind | arithmetic | half interval | coverage |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for argument in arguments:
        name, _, path = argument.partition("=")
        space, table = SearchSpace.load(name), LookupTable.load(path)
        rows = table.rows()
        ops = [w for w in space.workloads() if isinstance(w.part, Operator) and rows[str(w)].status == "ok"]
        errors = {"nas": [], "kind": [], "arithmetic": []}
        for hidden in ops:
            truth, same = rows[str(hidden)].latency_ms, [w for w in ops if w.kind == hidden.kind and w != hidden]
            measured = np.array([rows[str(w)].latency_ms for w in same])
            guesses = {
                "nas": fill(space, table, [hidden])[str(hidden)].latency_ms,
                "kind": per_kind(same, measured, hidden),
                "arithmetic": count_ops(hidden).flops
                * np.exp(np.mean(np.log(measured / [count_ops(w).flops for w in same]))),
            }
            for method, guess in guesses.items():
                errors[method].append(abs(guess / truth - 1))
        inside, widths = zip(*covered(space, table, ops))
        shown = [f"{np.mean(e):.1%}, {np.max(e):.0%}" for e in errors.values()]
        meta = f"{name}, {table.provenance.runtime or ''}"
        print(f"| {meta} | {len(ops)} | {' | '.join(shown)} | {np.median(widths):.0%} | {np.mean(inside):.1%} |")


def covered(space: SearchSpace, table: LookupTable, ops: list[Workload]) -> Iterator[tuple[bool, float]]:
    """Of rows hidden at random: whether the interval holds the truth, and half its width as a share of the latency."""
    rng, rows = np.random.default_rng(0), table.rows()
    for _ in range(DRAWS):
        hidden = [ops[i] for i in rng.choice(len(ops), HIDDEN, replace=False)]
        try:
            found = fill(space, table, hidden)
        except TableError:  # every row of a kind was hidden
            continue
        for workload in hidden:
            row = found[str(workload)]
            yield (
                abs(row.latency_ms - rows[str(workload)].latency_ms) <= row.latency_ci_ms,
                row.latency_ci_ms / row.latency_ms,
            )


def fill(space: SearchSpace, table: LookupTable, hidden: list[Workload]):
    keep = ~table.frame["workload"].isin(map(str, hidden))
    return interpolate_missing(space, replace(table, frame=table.frame[keep])).rows()


def per_kind(same: list[Workload], measured: np.ndarray, hidden: Workload) -> float:
    x = np.array([terms(w) for w in same]) / measured[:, None]
    scale = np.where(x.max(0) > 0, x.max(0), 1.0)
    return float(terms(hidden) @ (nnls(x / scale, np.ones(len(same)))[0] / scale))


def terms(workload: Workload) -> np.ndarray:
    counted = count_ops(workload)
    return np.array([counted.flops - counted.attention, counted.attention, counted.moved, counted.kernels], float)


if __name__ == "__main__":
    main(sys.argv[1:])
