"""Commands that measure: operators into lookup tables, and what this machine can do."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nas.cli.command import as_json, at_least_one, command, space


def _declare_profile(parser: argparse.ArgumentParser) -> None:
    space(parser)
    parser.add_argument("--runtime", default="eager", metavar="R", help="what compiles and runs them (default: eager)")
    parser.add_argument("--device", default="local", metavar="D", help="where it runs (default: this machine)")
    parser.add_argument("--out", required=True, metavar="T.csv", help="the lookup table; goes on where it stopped")
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="CPU threads of each workload (default: 1)")
    parser.add_argument("--compute-unit", metavar="U", help="of coreml: all, cpu, cpu+gpu or cpu+ne (default: all)")
    parser.add_argument("--target", metavar="OS", help="of coreml: iOS17 or iOS18 (default: iOS17)")
    parser.add_argument(
        "--pipeline", action="store_true", help="the text encoder and the decoder too, for the time of a whole clip"
    )


@command(
    "profile",
    "measure a search space's workloads into a lookup table, or estimate them (--runtime roofline)",
    "nas profile --space demo --runtime eager --out table.csv",
    _declare_profile,
)
def profile(args: argparse.Namespace) -> None:
    from nas.profiling import profile as measure
    from nas.spaces import SearchSpace

    given = {"threads": args.threads, "compute_unit": args.compute_unit, "target": args.target}
    options = {name: value for name, value in given.items() if value is not None}
    table = measure(
        SearchSpace.load(args.space), args.runtime, args.device, args.out, pipeline=args.pipeline, **options
    )
    infeasible = int((table.frame["status"] != "ok").sum())
    print(f"{args.out}: {len(table.frame)} workloads, {infeasible} infeasible, {_sources(table.frame['source'])}")


def _sources(column: Any) -> str:
    return ", ".join(f"{count} {source}" for source, count in column.value_counts().items())


def _declare_calibrate(parser: argparse.ArgumentParser) -> None:
    space(parser)
    parser.add_argument(
        "--table", required=True, metavar="T.csv", help="the lookup table; the correction goes beside it"
    )
    parser.add_argument(
        "--models", type=at_least_one, default=8, metavar="N", help="whole models to measure (default: 8)"
    )


@command(
    "calibrate",
    "measure a few whole models and fit the cost model's correction",
    "nas calibrate --space demo --table table.csv",
    _declare_calibrate,
)
def calibrate(args: argparse.Namespace) -> None:
    from nas.costs import LookupTable
    from nas.locks import output_lock
    from nas.profiling import calibrate as fit
    from nas.spaces import SearchSpace

    with output_lock(args.table):
        found = fit(SearchSpace.load(args.space), LookupTable.load(args.table), count=args.models)
    print(found.models.to_string(index=False, float_format="{:.3f}".format))
    scale, offset_ms = found.calibration.scale, found.calibration.offset_ms
    print(f"\nlatency = {scale:.4f} x sum + {offset_ms:.4f} ms, kept beside {args.table}")
    print(f"mean error {found.error_before:.2%} before, {found.error_after:.2%} after on models left out of the fit")


@command("doctor", "what works on this machine, and how to get what is missing", "nas doctor", as_json)
def doctor(args: argparse.Namespace) -> None:
    from nas.profiling.doctor import examine

    checks = examine()
    if args.json:
        print(json.dumps([vars(check) for check in checks], indent=2))
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok     ' if check.works else 'missing'} {check.name:<{width}} {check.detail}")
