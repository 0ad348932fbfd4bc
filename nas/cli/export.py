"""Exporting what was trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from nas.cli.command import command
from nas.errors import ConfigError


def _declare_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a finished stage's folder")
    parser.add_argument("--format", required=True, metavar="F", help="coreml, litert or recipe")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets the models and export.json")
    parser.add_argument("--table", metavar="T.csv", help="a lookup table, for the predicted latency in the manifest")
    parser.add_argument("--target", help="coreml: iOS17 or iOS18 (default: iOS17)")
    parser.add_argument("--bits", type=int, choices=(6, 8), help="coreml: palettise the weights")
    parser.add_argument("--compare", action="store_true", help="coreml: also run each package by Core ML (needs a Mac)")
    parser.add_argument(
        "--no-check", action="store_true", help="coreml: leave out the comparison of numbers with torch"
    )


@command(
    "export",
    "write a trained denoiser for a device or a training cluster",
    "nas export --checkpoint runs/demo/checkpoints/adversarial --format coreml --out export",
    _declare_export,
)
def export(args: argparse.Namespace) -> None:
    from nas.export import FORMATS

    if args.format not in FORMATS:
        from nas.errors import suggestion

        raise ConfigError(f"--format: nothing called '{args.format}'{suggestion(args.format, FORMATS)}")
    options = {name: getattr(args, name) for name in ("table", "target", "bits") if getattr(args, name) is not None}
    if args.compare:
        options["compare"] = True
    if args.no_check:
        options["check"] = False
    if args.format != "coreml" and {"target", "bits", "compare", "check"} & set(options):
        raise ConfigError(
            f"--target, --bits, --compare and --no-check are of the format coreml, not of '{args.format}'"
        )
    if args.table:
        from nas.costs import LookupTable

        options["table"] = LookupTable.load(args.table)
    for path in FORMATS[args.format](Path(args.checkpoint), Path(args.out), **options):
        print(path)
