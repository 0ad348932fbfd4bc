"""Commands that make models out of models."""

from __future__ import annotations

import argparse

from nas.cli.command import command, space


def _declare_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a diffusers checkpoint's folder, or its name on the Hub"
    )
    space(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="gets unet/, report.txt and report.json")
    parser.add_argument("--importance", default="norm", metavar="I", help="norm or taylor (default: norm)")
    parser.add_argument(
        "--data", metavar="DIR", help="what taylor judges on: a decoder stage's or 'nas prepare' folder"
    )
    parser.add_argument("--table", metavar="T.csv", help="a lookup table with the backbone's latency")


@command(
    "prune",
    "Stable Diffusion's UNet down to a search space's backbone",
    "nas prune --checkpoint stable-diffusion-v1-5 --space snapgen_v --out pruned",
    _declare_prune,
)
def prune(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nas.costs import LookupTable
    from nas.spaces import SearchSpace
    from nas.training.prune import PruningData, prune_checkpoint

    calibration = PruningData(Path(args.data)) if args.data else None
    table = LookupTable.load(args.table) if args.table else None
    found = prune_checkpoint(
        args.checkpoint, SearchSpace.load(args.space), args.out, args.importance, calibration, table
    )
    print(found.text())
    print(args.out)
