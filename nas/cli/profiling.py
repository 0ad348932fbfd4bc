"""Commands that measure workloads into lookup tables, and that check this machine."""

from __future__ import annotations

import click

from nas.cli.command import (
    COUNT,
    PATH,
    Command,
    given_options,
    json_option,
    option,
    page_options,
    pipeline_option,
    print_json,
    runtime_options,
    space_option,
)
from nas.errors import ConfigError


@click.command(
    cls=Command,
    resumable=True,
    help="measure a search space's workloads into a lookup table, or estimate them (--runtime roofline)",
    example="nas profile --space demo --runtime eager --out table.csv",
    also=("nas profile --space demo --runtime web --out phone.csv     # then open the address on the phone",),
)
@space_option
@runtime_options
@option("--out", required=True, metavar="T.csv", type=PATH, help="the lookup table; an unfinished one is resumed")
@pipeline_option
def profile(space: str, runtime: str, device: str, out: str, pipeline: bool, **options: object) -> None:
    from nas.profiling import profile as fill_table
    from nas.spaces import SearchSpace

    table = fill_table(SearchSpace.load(space), runtime, device, out, pipeline=pipeline, **given_options(**options))
    infeasible = int((table.frame["status"] != "ok").sum())
    sources = ", ".join(f"{count} {source}" for source, count in table.frame["source"].value_counts().items())
    print(f"{out}: {len(table.frame)} workloads, {infeasible} infeasible, {sources}")


@click.command(
    cls=Command,
    resumable=True,
    help="make a new device's lookup table from other devices' tables and a few measurements",
    example="nas transfer --from known.csv --space demo --runtime litert --measure 10 --out new.csv",
    also=("nas transfer --from known.csv --space demo --runtime litert --measure 12 --out new.csv    # two more",),
)
@option(
    "--from",
    "sources",
    required=True,
    multiple=True,
    metavar="T.csv",
    type=PATH,
    help="another device's table; repeatable",
)
@space_option
@runtime_options
@option("--measure", type=COUNT, default=10, metavar="N", help="workloads measured in the end; those in --out are kept")
@option("--out", required=True, metavar="T.csv", type=PATH, help="the new device's table; an unfinished one is resumed")
@pipeline_option
def transfer(
    sources: tuple[str, ...],
    space: str,
    runtime: str,
    device: str,
    measure: int,
    out: str,
    pipeline: bool,
    **options: object,
) -> None:
    from nas.profiling import transfer as carry_over
    from nas.spaces import SearchSpace

    settings = given_options(**options)
    report = carry_over(SearchSpace.load(space), sources, runtime, device, out, measure, pipeline=pipeline, **settings)
    frame = report.table.frame
    counts = ", ".join(f"{count} {source}" for source, count in frame["source"].value_counts().items())
    infeasible = int((frame["status"] != "ok").sum())
    print(f"{out}: {len(frame)} workloads, {infeasible} infeasible, {counts}")
    if report.left_out_error == report.left_out_error:
        print(f"mean error of a measured row, predicted from the others: {report.left_out_error:.1%}")
    if report.half_interval == report.half_interval:
        print(f"a transferred row is in 90% of cases within +-{report.half_interval:.1%} (median)")


@click.command(
    cls=Command,
    help="measure a few whole models, or a clip, and fit the cost model's correction",
    example="nas calibrate --space demo --table table.csv",
    also=(
        "nas calibrate --space demo --table phone.csv --clip export --runner build/nas-clip --device adb "
        "--library libLiteRt.so",
    ),
)
@space_option
@option(
    "--table", required=True, metavar="T.csv", type=PATH, help="the lookup table; the correction is written beside it"
)
@option("--models", type=COUNT, metavar="N", help="whole models to measure  [default: 8]")
@page_options
@option("--clip", metavar="DIR", type=PATH, help="the LiteRT export folder whose clip is timed")
@option("--runner", metavar="FILE", type=PATH, help="with --clip: apps/cpp's nas-clip, built for the device")
@option("--device", metavar="D", help="with --runner: local, adb or adb:SERIAL  [default: local]")
@option("--library", metavar="FILE", type=PATH, help="with --runner: LiteRT's library for the device")
@option("--timing", metavar="T.json", type=PATH, help="with --clip: what nas-clip --timing wrote, instead of --runner")
@option("--write", is_flag=True, help="with --clip: also store the correction beside the table")
def calibrate(
    space: str,
    table: str,
    models: int | None,
    port: int | None,
    https: bool,
    browser: str | None,
    clip: str | None,
    runner: str | None,
    device: str | None,
    library: str | None,
    timing: str | None,
    write: bool,
) -> None:
    from nas.costs import LookupTable
    from nas.locks import output_lock
    from nas.profiling import calibrate as fit
    from nas.spaces import SearchSpace

    if clip is not None:
        if models is not None:
            raise ConfigError("--models: with --clip no models are measured; omit one of the two")
        _compare_clip(space, table, clip, runner, device or "local", library, timing, write)
        return
    given = {"--runner": runner, "--device": device, "--library": library, "--timing": timing, "--write": write}
    if extra := [name for name, value in given.items() if value]:
        raise ConfigError(f"{extra[0]}: is for --clip; add --clip EXPORT_DIR")
    with output_lock(table):
        result = fit(
            SearchSpace.load(space),
            LookupTable.load(table),
            count=models or 8,
            **given_options(port=port, https=https, browser=browser),
        )
    print(result.models.to_string(index=False, float_format="{:.3f}".format))
    scale, offset_ms = result.calibration.scale, result.calibration.offset_ms
    print(f"\nlatency = {scale:.4f} x sum + {offset_ms:.4f} ms, written beside {table}")
    print(f"mean error {result.error_before:.2%} before, {result.error_after:.2%} after on models left out of the fit")


def _compare_clip(
    space: str,
    table: str,
    clip: str,
    runner: str | None,
    device: str,
    library: str | None,
    timing: str | None,
    write: bool,
) -> None:
    from nas.costs import LookupTable
    from nas.export import clip_timing
    from nas.spaces import SearchSpace

    if (runner is None) == (timing is None):
        raise ConfigError("--clip: give either --runner, the program that makes clips, or --timing, what it wrote")
    lookup = LookupTable.load(table)
    if timing is not None:
        found = clip_timing.read_timing(timing)
    else:
        found = clip_timing.time_clip(clip, str(runner), device, lookup.meta.get("threads") or 1, library)
    report = clip_timing.compare_clip(SearchSpace.load(space), lookup, clip, found)
    formats = {"predicted_ms": "{:.4g}".format, "measured_ms": "{:.4g}".format, "error": "{:+.1%}".format}
    print(report.parts.to_string(index=False, formatters=formats, na_rep="unknown"))
    if report.parts["predicted_ms"].isna().any():
        print("unknown: the table has no rows of these parts; add them with nas profile --pipeline")
    scale, offset_ms = report.calibration.scale, report.calibration.offset_ms
    print(f"\npeak memory of the runner: {report.peak_memory_mb:.1f} MB")
    if write:
        clip_timing.write_calibration(lookup, report)
    where = f"written beside {table}" if write else "add --write to store it"
    print(f"the denoiser's time is that of {scale:.4f} x sum + {offset_ms:.4f} ms; {where}")


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
