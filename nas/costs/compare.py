"""Summarize, compare, merge and check lookup tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.costs.provenance import COMPARABLE_KEYS, Provenance, meta_path
from nas.costs.sources import join_sources
from nas.costs.table import LookupTable
from nas.errors import TableError
from nas.files import read_text
from nas.spaces import SearchSpace

WIDE = 0.05
"""An interval is reported if its half width exceeds this share of the latency..."""
NEGLIGIBLE = 0.002
"""...and this share of the longest latency, below which it does not affect sums."""
MAX_REPEATED = 0.3
"""A larger share of repeated blocks means that the machine was busy."""


def with_kinds(table: LookupTable) -> pd.DataFrame:
    """The rows with columns kind, shape and resolution (HxW) from their keys, sorted by decreasing resolution."""
    key = re.compile(r"(?P<kind>\w+)(?:\[[^]]*\])? (?P<shape>\d+(?:x\d+)+) ")
    parts = table.frame["workload"].str.extract(key)
    parts["kind"] = parts["kind"].fillna(table.frame["workload"])  # of a cost-only space: `slot/choice`
    sides = parts["shape"].str.extract(r"^\d+x\d+x\d+x(\d+)x(\d+)$").astype(float)
    parts["resolution"] = [f"{h:.0f}x{w:.0f}" if h == h else "" for h, w in sides.to_numpy()]
    order = sides.prod(axis=1, min_count=2).rename("order")
    rows = pd.concat([table.frame, parts, order], axis=1)
    return rows.sort_values(["order", "kind"], ascending=[False, True], kind="stable").drop(columns="order")


def pivot_by_operator(table: LookupTable, column: str = "latency_ms") -> pd.DataFrame:
    """A matrix of operator kinds and decreasing resolutions; rows that share a cell are averaged."""
    rows = with_kinds(table)
    rows = rows[rows["resolution"] != ""]
    cells = rows.pivot_table(column, "kind", "resolution", sort=False)
    return cells[list(dict.fromkeys(rows["resolution"]))] if len(cells) else cells


def summarize(table: LookupTable) -> dict[str, Any]:
    """A table's rows (number), sources, infeasible, unknown_memory, latency_ms (range), meta and calibration."""
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
    """The comparison of two tables.

    Attributes:
        rows: of workloads that are feasible in both and transferred in neither: workload, first_ms, second_ms, ratio (second
            to first); sorted by decreasing distance of the ratio from 1.
        only_first, only_second: workloads of one table only.
        feasibility: workloads that are feasible in one table and infeasible in the other.
        transferred: workloads in both tables that are transferred in one. They are not compared: such a row is a prediction
            from other tables, perhaps from the very one it would be compared with.
        provenance: entries that differ: `{key: (first, second)}`.
        geometric_mean: of the ratios.
        rank_correlation: Spearman's, of the latencies; NaN below three rows.
    """

    rows: pd.DataFrame
    only_first: list[str]
    only_second: list[str]
    feasibility: list[str]
    transferred: list[str]
    provenance: dict[str, tuple[Any, Any]]
    geometric_mean: float
    rank_correlation: float


def compare_tables(first: LookupTable, second: LookupTable) -> TableComparison:
    """Compare two tables row by row, also if their devices or settings differ; `provenance` lists the differences."""
    every = first.frame.merge(second.frame, on="workload", suffixes=("_first", "_second"))
    transferred = (every["source_first"] == "transferred") | (every["source_second"] == "transferred")
    both = every[~transferred]
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
        every.loc[transferred, "workload"].tolist(),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        float(np.exp(finite.mean())),
        float(rows["first_ms"].corr(rows["second_ms"], method="spearman")) if len(rows) > 2 else float("nan"),
    )


def merge_tables(tables: Sequence[LookupTable], prefer_first: bool = False) -> LookupTable:
    """A table with the rows of all tables; equal rows are kept once, and measured rows instead of transferred ones.

    Args:
        tables: measured on the same device with the same settings.
        prefer_first: if a workload has different rows, keep that of the first table.

    Raises:
        TableError: the tables differ in device, settings or calibration, or, without `prefer_first`, have different rows
            for a workload (the message names it).
    """
    first = tables[0]
    for other in tables[1:]:
        if differs := first.provenance.difference(other.provenance):
            key, expected, value = differs
            raise TableError(
                f"{_name(other)}: was profiled with {key}={value!r}, {_name(first)} with {expected!r}; "
                "such rows do not belong in one table"
            )
    every = pd.concat([table.frame for table in tables], ignore_index=True)
    transferred = every["source"] == "transferred"
    every = every[~transferred | ~every["workload"].isin(every.loc[~transferred, "workload"])]
    kept = every.drop_duplicates().drop_duplicates("workload")
    twice = every.drop_duplicates()["workload"].value_counts()
    conflicts = [workload for workload, count in twice.items() if count > 1]
    if conflicts and not prefer_first:
        owners = [table for table in tables if conflicts[0] in set(table.frame["workload"])]
        values = " and ".join(f"{t.rows()[conflicts[0]].latency_ms:.4g} ms in {_name(t)}" for t in owners)
        more = f", and {len(conflicts) - 1} more rows differ" if len(conflicts) > 1 else ""
        raise TableError(f"'{conflicts[0]}' has {values}{more}; list the table to keep first, and give --prefer-first")
    calibrations = {table.calibration for table in tables if table.calibration is not None}
    if len(calibrations) > 1:
        raise TableError(f"{', '.join(map(_name, tables))}: calibrated differently; calibrate the merged table again")
    return LookupTable(kept.reset_index(drop=True), _merged_provenance(tables), next(iter(calibrations), None))


def _merged_provenance(tables: Sequence[LookupTable]) -> Provenance:
    """The entries that all tables have in common, and, under `merged`, the other entries of each table."""
    metas = [table.meta for table in tables]
    common = {k: v for k, v in metas[0].items() if all(k in meta and meta[k] == v for meta in metas[1:])}
    own = [
        {"table": _name(table), **{k: v for k, v in meta.items() if k not in common}}
        for table, meta in zip(tables, metas)
    ]
    return Provenance.from_dict({**common, "merged": own})


@dataclass(frozen=True)
class TableIssue:
    """A problem of a table; `is_error` if costs cannot be computed, or would be wrong, until it is fixed."""

    is_error: bool
    text: str


def check_table(path: str | Path, space: SearchSpace) -> list[TableIssue]:
    """The problems of a table for a space; empty if it is complete and consistent.

    Raises:
        TableError, ConfigError: the file cannot be read as a table.
    """
    table = LookupTable.load(path)
    where = table.path or Path(path)
    return [*_file(where, table), *_coverage(table, space), *_values(table), *_provenance(table, space)]


def _file(path: Path, table: LookupTable) -> list[TableIssue]:
    text = read_text(path, "lookup table")
    issues: list[TableIssue] = []
    if not text.endswith("\n"):
        last = text.rpartition("\n")[2]
        issues.append(
            TableIssue(False, f"the last line is incomplete and is ignored: '{last[:60]}'; profile again to add it")
        )
    if not table.meta:
        issues.append(TableIssue(False, f"{meta_path(path).name} is missing: the device is unknown"))
    return issues


def _coverage(table: LookupTable, space: SearchSpace) -> list[TableIssue]:
    from nas.costs.table import command_to_measure

    needed, extra = [str(w) for w in space.workloads()], {str(w) for w in space.pipeline_workloads()}
    present = set(table.frame["workload"])
    missing = [key for key in needed if key not in present]
    foreign = [key for key in table.frame["workload"] if key not in {*needed, *extra}]
    issues: list[TableIssue] = []
    if missing:
        command = command_to_measure(space, table)
        issues.append(
            TableIssue(True, f"{len(missing)} of {len(needed)} workloads are missing: {_few(missing)}; {command}")
        )
    if extra - present:
        command = command_to_measure(space, table, pipeline=True)
        issues.append(TableIssue(False, f"no generation time: {_few(sorted(extra - present))} missing; {command}"))
    if foreign:
        issues.append(
            TableIssue(False, f"{len(foreign)} rows belong to no workload of '{space.name}': {_few(foreign)}")
        )
    return issues


def _values(table: LookupTable) -> list[TableIssue]:
    frame, ok = table.frame, table.frame["status"] == "ok"
    zero, unknown = ok & (frame["latency_ms"] <= 0), ok & frame["memory_mb"].isna()
    longest = frame.loc[ok, "latency_ms"].max()
    half = frame["latency_ci_ms"]
    transferred = ok & (frame["source"] == "transferred")
    once = ok & (frame["source"] == "measured") & (frame["count"] == 1)
    wide = ok & ~transferred & ~zero & (half > WIDE * frame["latency_ms"]) & (half > NEGLIGIBLE * longest)
    issues: list[TableIssue] = []
    if zero.any():
        fix = (
            "below the noise; measure again on an idle machine"
            if (frame["source"][zero] == "measured").all()
            else "too low"
        )
        issues.append(TableIssue(True, f"{_rows(frame[zero])} latency 0: {fix}"))
    if unknown.any():
        issues.append(
            TableIssue(False, f"{_rows(frame[unknown])} no memory, so peak memory can be neither predicted nor bounded")
        )
    if wide.any():
        share = (half / frame["latency_ms"])[wide]
        worst = f"{share.max():.0%} of '{frame['workload'][share.idxmax()]}'"
        issues.append(TableIssue(False, f"{_rows(frame[wide])} an interval wider than +-{WIDE:.0%}, up to {worst}"))
    if transferred.any():
        share = (half / frame["latency_ms"])[transferred]
        issues.append(
            TableIssue(
                False,
                f"{_rows(frame[transferred])} a latency transferred from other devices, in 90% of cases within "
                f"+-{share.median():.0%} (median; at most {share.max():.0%}); nas transfer with a larger --measure, or nas "
                "profile, measures them",
            )
        )
    if once.any():
        issues.append(
            TableIssue(False, f"{_rows(frame[once])} one sample and no interval: {_few(frame['workload'][once])}")
        )
    if (~ok).any():
        reasons = [
            f"{w} ({reason or 'no reason given'})" for w, reason in frame.loc[~ok, ["workload", "reason"]].values
        ]
        issues.append(TableIssue(False, f"{len(reasons)} workloads cannot run on the device: {_few(reasons)}"))
    return issues


def _provenance(table: LookupTable, space: SearchSpace) -> list[TableIssue]:
    sources, provenance = table.frame["source"].value_counts(), table.provenance
    issues: list[TableIssue] = []
    if len(set(sources.index) - {"transferred"}) > 1 and "measured" in sources:
        counts = ", ".join(f"{count} {source}" for source, count in sources.items())
        issues.append(TableIssue(True, f"mixes sources: {counts}; costs are only computed with --estimates"))
    elif len(sources) and "measured" not in sources:
        issues.append(TableIssue(False, f"no row is measured; all are {join_sources(sources.index)}"))
    if space.backbone is not None and provenance.dtype not in (None, space.dtype):
        issues.append(TableIssue(True, f"was profiled in {provenance.dtype}, but the space is in {space.dtype}"))
    shares = [provenance.repeated, *(visit.get("repeated") for visit in provenance.continued)]
    repeated = max(share or 0.0 for share in shares)
    if repeated > MAX_REPEATED:
        issues.append(TableIssue(False, f"{repeated:.0%} of the timed blocks had to be repeated: the machine was busy"))
    return issues


def _rows(frame: pd.DataFrame) -> str:
    """`3 rows have`, and which."""
    return f"{len(frame)} row{'s' if len(frame) > 1 else ''} ({_few(frame['workload'].tolist())}):"


def _few(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _name(table: LookupTable) -> str:
    return str(table.path or "a table")
