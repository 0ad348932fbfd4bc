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
    print_json,
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
@option(
    "--runtime", default="eager", metavar="R", help="what runs the workloads: eager, litert, coreml, web or roofline"
)
@option("--device", default="local", metavar="D", help="where they run; local is this machine. web: the phone's name")
@option("--out", required=True, metavar="T.csv", type=PATH, help="the lookup table; an unfinished one is resumed")
@option("--threads", type=COUNT, metavar="N", help="CPU threads of each workload  [default: 1]")
@option("--precision", metavar="P", help="litert: weights in float32, float16 or int8  [default: float32]")
@option("--compute-unit", metavar="U", help="coreml: all, cpu, cpu+gpu or cpu+ne  [default: all]")
@option("--target", metavar="OS", help="coreml: iOS17 or iOS18  [default: iOS17]")
@page_options
@option("--pipeline", is_flag=True, help="also the text encoder and the decoder, for the generation time of a clip")
def profile(
    space: str,
    runtime: str,
    device: str,
    out: str,
    threads: int | None,
    precision: str | None,
    compute_unit: str | None,
    target: str | None,
    port: int | None,
    https: bool,
    browser: str | None,
    pipeline: bool,
) -> None:
    from nas.profiling import profile as fill_table
    from nas.spaces import SearchSpace

    settings = {"threads": threads, "precision": precision, "compute_unit": compute_unit, "target": target}
    options = given_options(**settings, port=port, https=https, browser=browser)
    table = fill_table(SearchSpace.load(space), runtime, device, out, pipeline=pipeline, **options)
    infeasible = int((table.frame["status"] != "ok").sum())
    sources = ", ".join(f"{count} {source}" for source, count in table.frame["source"].value_counts().items())
    print(f"{out}: {len(table.frame)} workloads, {infeasible} infeasible, {sources}")


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
