"""Commands that show, compare, merge and check lookup tables."""

from __future__ import annotations

import json

import click

from nas.cli.command import PATH, Command, Group, json_option, option, print_json, space_option
from nas.errors import ConfigError


@click.group(
    cls=Group, help="show, compare, merge or check lookup tables", example="nas table check table.csv --space demo"
)
def table() -> None:
    pass


@table.command(
    cls=Command,
    help="show a table's rows and where its numbers come from",
    example="nas table show table.csv",
)
@click.argument("path", metavar="T.csv", type=PATH)
@json_option
def show(path: str, as_json: bool) -> None:
    from nas.costs import LookupTable, compare

    lookup = LookupTable.load(path)
    found = compare.summarize(lookup)
    if as_json:
        print_json({**found, "workloads": lookup.frame.to_dict("records")})
        return
    counts = ", ".join(f"{count} {source}" for source, count in found["sources"].items())
    print(f"{path}: {found['rows']} workloads, {counts}, {len(found['infeasible'])} infeasible")
    for column, title in (("latency_ms", "latency / ms"), ("memory_mb", "activation memory / MB")):
        cells = compare.pivot_by_operator(lookup, column)
        if len(cells):
            print(
                f"\n{title}\n{cells.rename_axis(None).rename_axis(None, axis=1).to_string(float_format='{:.4g}'.format)}"
            )
    others = compare.with_kinds(lookup).query("resolution == ''")
    for row in others.itertuples():
        print(f"\n{row.workload}: {row.latency_ms:.4g} ms, {row.memory_mb:.4g} MB")
    for workload, reason in found["infeasible"].items():
        print(f"\ninfeasible: {workload}: {reason}")
    for row in lookup.frame.query("status == 'ok' and source == 'transferred'").itertuples():
        print(f"\ntransferred: {row.workload}: {row.latency_ms:.4g} ms, +-{row.latency_ci_ms:.2g} ms in 90% of cases")
    for row in lookup.frame.query("status == 'ok' and reason != ''").itertuples():
        print(f"\n{row.workload}: {row.reason}")
    if found["unknown_memory"]:
        print(f"\n{found['unknown_memory']} rows without memory")
    print()
    for key, value in {**found["meta"], "calibration": found["calibration"]}.items():
        print(f"{key:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")


@table.command(
    cls=Command,
    help="compare two tables row by row: ratios, ranks, differences of provenance",
    example="nas table diff before.csv after.csv",
)
@click.argument("first", metavar="A.csv", type=PATH)
@click.argument("second", metavar="B.csv", type=PATH)
@json_option
def diff(first: str, second: str, as_json: bool) -> None:
    from nas.costs import LookupTable, compare

    found = compare.compare_tables(LookupTable.load(first), LookupTable.load(second))
    if as_json:
        print_json({**vars(found), "rows": found.rows.to_dict("records")})
        return
    for key, values in found.provenance.items():
        print(f"profiled differently: {key}: {_difference(*values)}")
    print(f"{len(found.rows)} workloads in both, sorted by how much they differ (second / first):\n")
    print(found.rows.head(20).to_string(index=False, float_format="{:.4g}".format))
    if len(found.rows) > 20:
        print(f"... and {len(found.rows) - 20} that differ less")
    print(f"\ngeometric mean of the ratios {found.geometric_mean:.4g}, rank correlation {found.rank_correlation:.4f}")
    for title, workloads in (
        (f"only in {first}", found.only_first),
        (f"only in {second}", found.only_second),
        ("runs in one and not in the other", found.feasibility),
        ("transferred from other devices, not compared", found.transferred),
    ):
        for workload in workloads:
            print(f"{title}: {workload}")


def _difference(first: object, second: object) -> str:
    """Two values of provenance that differ; of mappings, the keys that do."""
    if isinstance(first, dict) and isinstance(second, dict):
        return ", ".join(key for key in {**first, **second} if first.get(key) != second.get(key))
    return f"{first} | {second}"


@table.command(
    cls=Command,
    help="merge tables that were profiled in the same way",
    example="nas table merge a.csv b.csv --out both.csv",
)
@click.argument("tables", metavar="T.csv...", nargs=-1, required=True, type=PATH)
@option("--out", required=True, metavar="T.csv", type=PATH, help="the merged table")
@option("--prefer-first", is_flag=True, help="where rows differ, keep the one of the earliest table")
def merge(tables: tuple[str, ...], out: str, prefer_first: bool) -> None:
    from pathlib import Path

    from nas.costs import LookupTable, compare

    target = Path(out)
    if target.exists() and target.resolve() not in {Path(path).resolve() for path in tables}:
        raise ConfigError(f"{out}: already exists; name it among the tables to merge, or give another --out")
    merged = compare.merge_tables([LookupTable.load(path) for path in tables], prefer_first)
    merged.save(target)
    print(f"{out}: {len(merged.frame)} workloads of {len(tables)} tables")


@table.command(
    cls=Command,
    help="check whether a table can be trusted for a space; exit status 1 or 2 if not",
    example="nas table check table.csv --space demo",
)
@click.argument("path", metavar="T.csv", type=PATH)
@space_option
def check(path: str, space: str) -> int:
    from nas.costs import compare
    from nas.spaces import SearchSpace

    found = compare.check_table(path, SearchSpace.load(space))
    for finding in found:
        print(f"{'error  ' if finding.is_error else 'warning'} {path}: {finding.text}")
    if not found:
        print(f"{path}: sound, and complete for '{space}'")
    return 2 if any(finding.is_error for finding in found) else bool(found)
