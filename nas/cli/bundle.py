"""Commands for a phone that is not attached to this machine: compile here, measure there, collect the results here."""

from __future__ import annotations

import click

from nas.cli.command import COUNT, PATH, Command, Group, given_options, option, page_options, space_option


@click.group(
    cls=Group,
    help="profile a phone that is not attached to this machine",
    example="nas bundle create --space demo --runtime litert --out bundle",
)
def bundle() -> None:
    pass


@bundle.command(
    cls=Command,
    help="compile a search space's workloads into a folder to be measured elsewhere",
    example="nas bundle create --space demo --runtime litert --out bundle",
)
@space_option
@option("--runtime", required=True, metavar="R", help="litert (Android), coreml (a Mac, an iPhone) or web (a browser)")
@option("--out", required=True, metavar="DIR", type=PATH, help="the bundle: a new folder")
@option("--target", default="iOS17", metavar="OS", help="coreml: iOS17 or iOS18")
@option(
    "--benchmark-model",
    metavar="FILE",
    type=PATH,
    help="litert: the phone's benchmark tool  [default: NAS_BENCHMARK_MODEL]",
)
@option("--pipeline", is_flag=True, help="also the text encoder and the decoder")
def create(space: str, runtime: str, out: str, target: str, benchmark_model: str | None, pipeline: bool) -> None:
    from nas.profiling import bundles
    from nas.spaces import SearchSpace

    result = bundles.create(SearchSpace.load(space), runtime, out, target, benchmark_model, pipeline)
    print(f"{out}: bundle {result.id}, {len(result.packages)} workloads for {runtime}")
    for workload, reason in result.manifest.infeasible.items():
        print(f"not compiled: {workload}: {reason}")
    if runtime == "web":
        print(f"next: put {out} on a web server, open its page on the phone, and download the results into {out}")
        return
    script = "python measure.py" if runtime == "coreml" else "sh measure.sh"
    print(f"next: 'nas bundle measure {out}' where the device is, or '{script}' in it where nas is not installed")


@bundle.command(
    cls=Command,
    resumable=True,
    help="measure a bundle on a device that is attached here",
    example="nas bundle measure bundle",
)
@click.argument("folder", metavar="BUNDLE", type=PATH)
@option("--device", metavar="D", help="adb[:SERIAL], iphone[:NAME] or local; web: the phone's name")
@option("--threads", type=COUNT, metavar="N", help="litert and web: CPU threads  [default: 1]")
@option("--compute-unit", metavar="U", help="coreml: all, cpu, cpu+gpu or cpu+ne  [default: all]")
@page_options
def measure(
    folder: str,
    device: str | None,
    threads: int | None,
    compute_unit: str | None,
    port: int | None,
    https: bool,
    browser: str | None,
) -> None:
    from nas.profiling import bundles

    options = given_options(threads=threads, compute_unit=compute_unit, port=port, https=https, browser=browser)
    count = bundles.measure(folder, device, **options)
    print(f"{folder}: {count} workloads measured; next: nas bundle collect {folder} --out table.csv")


@bundle.command(
    cls=Command,
    help="make a lookup table of a bundle's results",
    example="nas bundle collect bundle --out table.csv",
)
@click.argument("folder", metavar="BUNDLE", type=PATH)
@option("--out", required=True, metavar="T.csv", type=PATH, help="the lookup table")
def collect(folder: str, out: str) -> None:
    from nas.profiling import bundles

    table = bundles.collect(folder, out)
    total = len(bundles.Bundle.load(folder).workloads)
    infeasible = int((table.frame["status"] != "ok").sum())
    print(f"{out}: {len(table.frame)} of {total} workloads, {infeasible} infeasible")
