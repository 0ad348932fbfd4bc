"""Lookup tables side by side: a summary of one, the difference of two, the union of several, and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.costs.sources import join_sources
from nas.costs.table import COMPARABLE_KEYS, LookupTable
from nas.errors import TableError
from nas.files import read_text
from nas.spaces import SearchSpace

WIDE = 0.05
"""An interval wider than this share of the latency on either side is worth a word..."""
NEGLIGIBLE = 0.002
"""...unless it is below this share of the longest latency: nothing in a sum depends on it."""
DRIFTED = 0.3
"""A table of which more blocks than this were timed beside a slow reference was measured on a busy machine."""


def with_kinds(table: LookupTable) -> pd.DataFrame:
    """The rows with what their keys say: columns kind, shape and, from high to low, resolution (H times W) besides."""
    key = re.compile(r"(?P<kind>\w+)(?:\[[^]]*\])? (?P<shape>\d+(?:x\d+)+) ")
    parts = table.frame["workload"].str.extract(key)
    parts["kind"] = parts["kind"].fillna(table.frame["workload"])  # of a cost-only space: `slot/choice`
    sides = parts["shape"].str.extract(r"^\d+x\d+x\d+x(\d+)x(\d+)$").astype(float)
    parts["resolution"] = [f"{h:.0f}x{w:.0f}" if h == h else "" for h, w in sides.to_numpy()]
    order = sides.prod(axis=1, min_count=2).rename("order")
    rows = pd.concat([table.frame, parts, order], axis=1)
    return rows.sort_values(["order", "kind"], ascending=[False, True], kind="stable").drop(columns="order")


def pivot_by_operator(table: LookupTable, column: str = "latency_ms") -> pd.DataFrame:
    """Kinds down, resolutions across, from high to low; the mean where several rows share a cell."""
    rows = with_kinds(table)
    rows = rows[rows["resolution"] != ""]
    cells = rows.pivot_table(column, "kind", "resolution", sort=False)
    return cells[list(dict.fromkeys(rows["resolution"]))] if len(cells) else cells


def summarize(table: LookupTable) -> dict[str, Any]:
    """What a table holds, as plain values: rows, sources, infeasible, unknown_memory, latency_ms (range), meta and
    calibration."""
    frame, ok = table.frame, table.frame["status"] == "ok"
    latency_ms = frame.loc[ok, "latency_ms"]
    return {
        "rows": len(frame),
        "sources": frame["source"].value_counts().to_dict(),
        "infeasible": dict(zip(frame.loc[~ok, "workload"], frame.loc[~ok, "reason"])),
        "unknown_memory": int(frame.loc[ok, "memory_mb"].isna().sum()),
        "latency_ms": [float(latency_ms.min()), float(latency_ms.max())] if len(latency_ms) else [],
        "meta": table.meta,
        "calibration": table.calibration and vars(table.calibration),
    }


@dataclass(frozen=True)
class TableComparison:
    """Two tables compared.

    Attributes:
        rows: of workloads that both could run: workload, first_ms, second_ms, ratio (second to first); the farthest
            from 1 first.
        only_first, only_second: workloads of one table alone.
        feasibility: workloads that run in one table and not in the other.
        provenance: what was profiled otherwise: `{key: (first, second)}`.
        geometric_mean: of the ratios.
        rank_correlation: Spearman's, of the latencies; NaN below three rows.
    """

    rows: pd.DataFrame
    only_first: list[str]
    only_second: list[str]
    feasibility: list[str]
    provenance: dict[str, tuple[Any, Any]]
    geometric_mean: float
    rank_correlation: float


def compare_tables(first: LookupTable, second: LookupTable) -> TableComparison:
    """Compare two tables row by row. Nothing is refused: `provenance` says what makes the comparison an unequal one."""
    both = first.frame.merge(second.frame, on="workload", suffixes=("_first", "_second"))
    runs = (both["status_first"] == "ok"), (both["status_second"] == "ok")
    rows = both.loc[runs[0] & runs[1], ["workload", "latency_ms_first", "latency_ms_second"]]
    rows = rows.set_axis(["workload", "first_ms", "second_ms"], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows["ratio"] = rows["second_ms"] / rows["first_ms"]
        logs = np.log(rows["ratio"])
    rows = rows.loc[logs.abs().sort_values(ascending=False, kind="stable").index]
    finite = logs[np.isfinite(logs)]
    in_first, in_second = first.frame["workload"], second.frame["workload"]
    keys = [*COMPARABLE_KEYS, "protocol"]
    pairs = {key: (first.meta.get(key), second.meta.get(key)) for key in keys}
    return TableComparison(
        rows.reset_index(drop=True),
        in_first[~in_first.isin(in_second)].tolist(),
        in_second[~in_second.isin(in_first)].tolist(),
        both.loc[runs[0] != runs[1], "workload"].tolist(),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        float(np.exp(finite.mean())),
        float(rows["first_ms"].corr(rows["second_ms"], method="spearman")) if len(rows) > 2 else float("nan"),
    )


def merge_tables(tables: Sequence[LookupTable], prefer_first: bool = False) -> LookupTable:
    """The rows of all tables. A row that several have alike is kept once.

    Args:
        tables: measured alike.
        prefer_first: of rows that differ, keep the earliest table's.

    Raises:
        TableError: measured on different devices or in different ways, calibrated differently, or, without
            `prefer_first`, with rows that differ: the text names them.
    """
    first = tables[0]
    for other in tables[1:]:
        for key in COMPARABLE_KEYS:
            if first.meta.get(key) != other.meta.get(key):
                raise TableError(
                    f"{_name(other)}: was profiled with {key}={other.meta.get(key)!r}, {_name(first)} with "
                    f"{first.meta.get(key)!r}; such rows do not belong in one table"
                )
    every = pd.concat([table.frame for table in tables], ignore_index=True)
    kept = every.drop_duplicates().drop_duplicates("workload")
    twice = every.drop_duplicates()["workload"].value_counts()
    conflicts = [workload for workload, count in twice.items() if count > 1]
    if conflicts and not prefer_first:
        owners = [table for table in tables if conflicts[0] in set(table.frame["workload"])]
        shown = " and ".join(f"{t.rows()[conflicts[0]].latency_ms:.4g} ms in {_name(t)}" for t in owners)
        more = f", and {len(conflicts) - 1} more rows differ" if len(conflicts) > 1 else ""
        raise TableError(f"'{conflicts[0]}' has {shown}{more}; name the tables to be believed first and prefer them")
    calibrations = {table.calibration for table in tables if table.calibration is not None}
    if len(calibrations) > 1:
        raise TableError(f"{', '.join(map(_name, tables))}: calibrated differently; calibrate the merged table anew")
    return LookupTable(kept.reset_index(drop=True), _merged_meta(tables), next(iter(calibrations), None))


def _merged_meta(tables: Sequence[LookupTable]) -> dict[str, Any]:
    """What all tables have in common, and, under `merged`, what each has of its own."""
    first = tables[0].meta
    common = {k: v for k, v in first.items() if all(k in t.meta and t.meta[k] == v for t in tables[1:])}
    own = [{"table": _name(t), **{k: v for k, v in t.meta.items() if k not in common}} for t in tables]
    return {**common, "merged": own}


@dataclass(frozen=True)
class TableIssue:
    """Something about a table that its user should know; `is_error` when no cost can be trusted or computed before it is
    mended."""

    is_error: bool
    text: str


def check_table(path: str | Path, space: SearchSpace) -> list[TableIssue]:
    """What is wrong, or doubtful, with a table for a space; empty when it is sound.

    Raises:
        TableError, ConfigError: the file cannot be read as a table at all.
    """
    table = LookupTable.load(path)
    return [*_file(path, table), *_coverage(table, space), *_values(table), *_provenance(table, space)]


def _file(path: str | Path, table: LookupTable) -> list[TableIssue]:
    text = read_text(path, "lookup table")
    found = []
    if not text.endswith("\n"):
        torn = text.rpartition("\n")[2]
        found.append(
            TableIssue(False, f"the last line is torn and does not count: '{torn[:60]}'; profile again to add it")
        )
    if not table.meta:
        found.append(TableIssue(False, "no metadata beside it: nobody knows which device this is"))
    return found


def _coverage(table: LookupTable, space: SearchSpace) -> list[TableIssue]:
    from nas.costs.table import command_to_measure

    needed, extra = [str(w) for w in space.workloads()], {str(w) for w in space.pipeline_workloads()}
    there = set(table.frame["workload"])
    missing = [key for key in needed if key not in there]
    foreign = [key for key in table.frame["workload"] if key not in {*needed, *extra}]
    found = []
    if missing:
        command = command_to_measure(space, table)
        found.append(
            TableIssue(True, f"{len(missing)} of {len(needed)} workloads are missing: {_few(missing)}; {command}")
        )
    if extra - there:
        command = command_to_measure(space, table, pipeline=True)
        found.append(TableIssue(False, f"no generation time: {_few(sorted(extra - there))} missing; {command}"))
    if foreign:
        found.append(TableIssue(False, f"{len(foreign)} rows belong to no workload of '{space.name}': {_few(foreign)}"))
    return found


def _values(table: LookupTable) -> list[TableIssue]:
    frame, ok = table.frame, table.frame["status"] == "ok"
    zero, unknown = ok & (frame["latency_ms"] <= 0), ok & frame["memory_mb"].isna()
    longest = frame.loc[ok, "latency_ms"].max()
    half = frame["latency_ci_ms"]
    wide = ok & ~zero & (half > WIDE * frame["latency_ms"]) & (half > NEGLIGIBLE * longest)
    found = []
    if zero.any():
        fix = (
            "lost in noise; measure again on a quiet machine"
            if (frame["source"][zero] == "measured").all()
            else "too low"
        )
        found.append(TableIssue(True, f"{_rows(frame[zero])} latency 0: {fix}"))
    if unknown.any():
        found.append(TableIssue(False, f"{_rows(frame[unknown])} no memory: it can be neither predicted nor bounded"))
    if wide.any():
        share = (half / frame["latency_ms"])[wide]
        worst = f"{share.max():.0%} of '{frame['workload'][share.idxmax()]}'"
        found.append(TableIssue(False, f"{_rows(frame[wide])} an interval wider than +-{WIDE:.0%}, up to {worst}"))
    if (~ok).any():
        reasons = [
            f"{w} ({reason or 'no reason given'})" for w, reason in frame.loc[~ok, ["workload", "reason"]].values
        ]
        found.append(TableIssue(False, f"{len(reasons)} workloads cannot run on the device: {_few(reasons)}"))
    return found


def _provenance(table: LookupTable, space: SearchSpace) -> list[TableIssue]:
    sources, meta = table.frame["source"].value_counts(), table.meta
    found = []
    if len(sources) > 1 and "measured" in sources:
        counts = ", ".join(f"{count} {source}" for source, count in sources.items())
        found.append(TableIssue(True, f"mixes sources: {counts}; costs are refused unless estimates are allowed"))
    elif len(sources) and "measured" not in sources:
        found.append(TableIssue(False, f"nothing in it is measured: every row is {join_sources(sources.index)}"))
    if space.backbone is not None and meta.get("dtype") not in (None, space.dtype):
        found.append(TableIssue(True, f"was profiled in {meta['dtype']}, the space is in {space.dtype}"))
    repeated = max(part.get("repeated", 0) for part in (meta, *meta.get("continued", [])))
    if repeated > DRIFTED:
        found.append(
            TableIssue(False, f"{repeated:.0%} of its blocks were timed beside a slow reference: a busy machine")
        )
    return found


def _rows(frame: pd.DataFrame) -> str:
    """`3 rows have`, and which."""
    return f"{len(frame)} row{'s' if len(frame) > 1 else ''} ({_few(frame['workload'].tolist())}):"


def _few(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _name(table: LookupTable) -> str:
    return str(table.path or "a table")
