"""Commands that measure workloads into lookup tables, and that check this machine."""

from __future__ import annotations

import click

from nas.cli.command import COUNT, PATH, Command, json_option, option, print_json, space_option


@click.command(
    cls=Command,
    resumable=True,
    help="measure a search space's workloads into a lookup table, or estimate them (--runtime roofline)",
    example="nas profile --space demo --runtime eager --out table.csv",
)
@space_option
@option("--runtime", default="eager", metavar="R", help="what compiles and runs the workloads")
@option("--device", default="local", metavar="D", help="where they run; local is this machine")
@option("--out", required=True, metavar="T.csv", type=PATH, help="the lookup table; an unfinished one is resumed")
@option("--threads", type=COUNT, metavar="N", help="CPU threads of each workload  [default: 1]")
@option("--compute-unit", metavar="U", help="coreml: all, cpu, cpu+gpu or cpu+ne  [default: all]")
@option("--target", metavar="OS", help="coreml: iOS17 or iOS18  [default: iOS17]")
@option("--pipeline", is_flag=True, help="also the text encoder and the decoder, for the generation time of a clip")
def profile(
    space: str,
    runtime: str,
    device: str,
    out: str,
    threads: int | None,
    compute_unit: str | None,
    target: str | None,
    pipeline: bool,
) -> None:
    from nas.profiling import profile as fill_table
    from nas.spaces import SearchSpace

    given = {"threads": threads, "compute_unit": compute_unit, "target": target}
    options = {name: value for name, value in given.items() if value is not None}
    table = fill_table(SearchSpace.load(space), runtime, device, out, pipeline=pipeline, **options)
    infeasible = int((table.frame["status"] != "ok").sum())
    sources = ", ".join(f"{count} {source}" for source, count in table.frame["source"].value_counts().items())
    print(f"{out}: {len(table.frame)} workloads, {infeasible} infeasible, {sources}")


@click.command(
    cls=Command,
    help="measure a few whole models and fit the cost model's correction",
    example="nas calibrate --space demo --table table.csv",
)
@space_option
@option(
    "--table", required=True, metavar="T.csv", type=PATH, help="the lookup table; the correction is written beside it"
)
@option("--models", type=COUNT, default=8, metavar="N", help="whole models to measure")
def calibrate(space: str, table: str, models: int) -> None:
    from nas.costs import LookupTable
    from nas.locks import output_lock
    from nas.profiling import calibrate as fit
    from nas.spaces import SearchSpace

    with output_lock(table):
        result = fit(SearchSpace.load(space), LookupTable.load(table), count=models)
    print(result.models.to_string(index=False, float_format="{:.3f}".format))
    scale, offset_ms = result.calibration.scale, result.calibration.offset_ms
    print(f"\nlatency = {scale:.4f} x sum + {offset_ms:.4f} ms, written beside {table}")
    print(f"mean error {result.error_before:.2%} before, {result.error_after:.2%} after on models left out of the fit")


@click.command(
    cls=Command, help="check what works on this machine, and how to get what is missing", example="nas doctor"
)
@json_option
def doctor(as_json: bool) -> None:
    from nas.profiling.doctor import examine

    checks = examine()
    if as_json:
        print_json(checks)
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok     ' if check.works else 'missing'} {check.name:<{width}} {check.detail}")
