"""Commands on lookup tables: look at one, compare two, join several, check one."""

from __future__ import annotations

import argparse
import json

from nas.cli.command import add, as_json, command, print_json, space
from nas.errors import ConfigError


def _declare_table(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = add(actions, "show", "what a table holds, and where its numbers come from", "nas table show table.csv")
    show.add_argument("table", metavar="T.csv")
    diff = add(
        actions,
        "diff",
        "two tables row by row: ratios, ranks, what was profiled otherwise",
        "nas table diff before.csv after.csv",
    )
    diff.add_argument("first", metavar="A.csv")
    diff.add_argument("second", metavar="B.csv")
    for action in (show, diff):
        as_json(action)
    merge = add(
        actions,
        "merge",
        "the rows of several tables that were profiled alike, in one",
        "nas table merge a.csv b.csv --out both.csv",
    )
    merge.add_argument("tables", metavar="T.csv", nargs="+")
    merge.add_argument("--out", required=True, metavar="T.csv", help="the joined table")
    merge.add_argument("--prefer-first", action="store_true", help="of rows that differ keep the earliest table's")
    check = add(
        actions,
        "check",
        "whether a table can be trusted for a space; exit status 1 or 2 if not",
        "nas table check table.csv --space demo",
    )
    check.add_argument("table", metavar="T.csv")
    space(check)


@command(
    "table", "show, compare, merge or check lookup tables", "nas table check table.csv --space demo", _declare_table
)
def table(args: argparse.Namespace) -> int | None:
    return {"show": _show, "diff": _diff, "merge": _merge, "check": _check}[args.action](args)


def _show(args: argparse.Namespace) -> None:
    from nas.costs import LookupTable, compare

    table = LookupTable.load(args.table)
    found = compare.summarize(table)
    if args.json:
        print_json({**found, "workloads": table.frame.to_dict("records")})
        return
    counts = ", ".join(f"{count} {source}" for source, count in found["sources"].items())
    print(f"{args.table}: {found['rows']} workloads, {counts}, {len(found['infeasible'])} infeasible")
    for column, title in (("latency_ms", "latency / ms"), ("memory_mb", "activation memory / MB")):
        cells = compare.pivot_by_operator(table, column)
        if len(cells):
            print(
                f"\n{title}\n{cells.rename_axis(None).rename_axis(None, axis=1).to_string(float_format='{:.4g}'.format)}"
            )
    others = compare.with_kinds(table).query("resolution == ''")
    for row in others.itertuples():
        print(f"\n{row.workload}: {row.latency_ms:.4g} ms, {row.memory_mb:.4g} MB")
    for workload, reason in found["infeasible"].items():
        print(f"\ninfeasible: {workload}: {reason}")
    if found["unknown_memory"]:
        print(f"\n{found['unknown_memory']} rows without memory")
    print()
    for key, value in {**found["meta"], "calibration": found["calibration"]}.items():
        print(f"{key:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")


def _diff(args: argparse.Namespace) -> None:
    from nas.costs import LookupTable, compare

    found = compare.compare_tables(LookupTable.load(args.first), LookupTable.load(args.second))
    if args.json:
        print_json({**vars(found), "rows": found.rows.to_dict("records")})
        return
    for key, (first, second) in found.provenance.items():
        print(f"profiled otherwise: {key}: {_apart(first, second)}")
    print(f"{len(found.rows)} workloads in both, sorted by how much they differ (second / first):\n")
    print(found.rows.head(20).to_string(index=False, float_format="{:.4g}".format))
    if len(found.rows) > 20:
        print(f"... and {len(found.rows) - 20} that differ less")
    print(f"\ngeometric mean of the ratios {found.geometric_mean:.4g}, rank correlation {found.rank_correlation:.4f}")
    for title, workloads in (
        (f"only in {args.first}", found.only_first),
        (f"only in {args.second}", found.only_second),
        ("runs in one and not in the other", found.feasibility),
    ):
        for workload in workloads:
            print(f"{title}: {workload}")


def _apart(first: object, second: object) -> str:
    """Two values of provenance that differ; of mappings, the keys that do."""
    if isinstance(first, dict) and isinstance(second, dict):
        return ", ".join(key for key in {**first, **second} if first.get(key) != second.get(key))
    return f"{first} | {second}"


def _merge(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nas.costs import LookupTable, compare

    out = Path(args.out)
    if out.exists() and out.resolve() not in {Path(path).resolve() for path in args.tables}:
        raise ConfigError(f"{out}: is there already; name it among the tables to merge, or give another --out")
    merged = compare.merge_tables([LookupTable.load(path) for path in args.tables], args.prefer_first)
    merged.save(out)
    print(f"{out}: {len(merged.frame)} workloads of {len(args.tables)} tables")


def _check(args: argparse.Namespace) -> int:
    from nas.costs import compare
    from nas.spaces import SearchSpace

    found = compare.check_table(args.table, SearchSpace.load(args.space))
    for finding in found:
        print(f"{'error  ' if finding.is_error else 'warning'} {args.table}: {finding.text}")
    if not found:
        print(f"{args.table}: sound, and complete for '{args.space}'")
    return 2 if any(finding.is_error for finding in found) else bool(found)
