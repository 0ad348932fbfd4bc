"""Commands for a phone that is not attached to this machine: compile here, measure there, bring the numbers back."""

from __future__ import annotations

import argparse

from nas.cli.command import at_least_one, command, space


def _declare_pack(parser: argparse.ArgumentParser) -> None:
    space(parser)
    parser.add_argument("--runtime", required=True, metavar="R", help="litert (Android) or coreml (a Mac, an iPhone)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the bundle: a new folder")
    parser.add_argument("--target", default="iOS17", metavar="OS", help="of coreml: iOS17 or iOS18 (default: iOS17)")
    parser.add_argument(
        "--benchmark-model", metavar="FILE", help="of litert: the tool for the phone (default: NAS_BENCHMARK_MODEL)"
    )
    parser.add_argument("--pipeline", action="store_true", help="the text encoder and the decoder too")


@command(
    "pack",
    "compile a search space's workloads into a folder to be measured elsewhere",
    "nas pack --space demo --runtime litert --out bundle",
    _declare_pack,
)
def pack(args: argparse.Namespace) -> None:
    from nas.profiling.bundles import create
    from nas.spaces import SearchSpace

    space = SearchSpace.load(args.space)
    bundle = create(space, args.runtime, args.out, args.target, args.benchmark_model, args.pipeline)
    print(f"{args.out}: bundle {bundle.id}, {len(bundle.packages)} workloads for {args.runtime}")
    for workload, reason in bundle.manifest.infeasible.items():
        print(f"not compiled: {workload}: {reason}")
    script = "python measure.py" if args.runtime == "coreml" else "sh measure.sh"
    print(f"next: 'nas measure {args.out}' where the device is, or '{script}' in it where nas is not installed")


def _declare_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="DIR", help="the bundle; goes on where it stopped")
    parser.add_argument("--device", metavar="D", help="adb[:SERIAL], iphone[:NAME] or local")
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="of litert: CPU threads (default: 1)")
    parser.add_argument("--compute-unit", metavar="U", help="of coreml: all, cpu, cpu+gpu or cpu+ne (default: all)")


@command("measure", "measure a bundle on the device that is attached here", "nas measure bundle", _declare_measure)
def measure(args: argparse.Namespace) -> None:
    from nas.profiling import bundles

    given = {"threads": args.threads, "compute_unit": args.compute_unit}
    count = bundles.measure(args.bundle, args.device, **{k: v for k, v in given.items() if v is not None})
    print(f"{args.bundle}: {count} workloads measured; next: nas collect {args.bundle} --out table.csv")


def _declare_collect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="DIR", help="the bundle with its results")
    parser.add_argument("--out", required=True, metavar="T.csv", help="the lookup table")


@command(
    "collect",
    "make a lookup table of what was measured of a bundle",
    "nas collect bundle --out table.csv",
    _declare_collect,
)
def collect(args: argparse.Namespace) -> None:
    from nas.profiling import bundles

    table = bundles.collect(args.bundle, args.out)
    total = len(bundles.Bundle.load(args.bundle).workloads)
    infeasible = int((table.frame["status"] != "ok").sum())
    print(f"{args.out}: {len(table.frame)} of {total} workloads, {infeasible} infeasible")
