"""Commands that export a trained model, and that prepare this machine for models in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nas.cli.command import PATH, SPACE, TEXT, Command, Group, RepeatableOption, load_architecture, option
from nas.errors import ConfigError, suggestion


@click.command(
    cls=Command,
    help="write a trained denoiser, or an untrained architecture, for a device or a training cluster",
    example="nas export --checkpoint runs/demo/checkpoints/adversarial --format coreml --out export",
)
@option("--checkpoint", metavar="DIR", type=PATH, help="a finished stage's folder")
@option("--architecture", metavar="A.json", type=PATH, help="instead of --checkpoint: random weights, to try a device")
@option("--space", metavar="S", type=SPACE, help="with --architecture: its search space")
@option("--seed", type=int, metavar="N", help="with --architecture: of the weights  [default: 0]")
@option("--format", "format_name", required=True, metavar="F", help="coreml, litert, web or recipe")
@option("--out", required=True, metavar="DIR", type=PATH, help="folder for the exported models and export.json")
@option("--table", metavar="T.csv", type=PATH, help="a lookup table, for the predicted latency in the manifest")
@option(
    "--precision", type=click.Choice(["float32", "float16", "int8"]), help="litert, web: weights  [default: float32]"
)
@option("--target", metavar="OS", help="coreml: iOS17 or iOS18  [default: iOS17]")
@option("--bits", type=click.Choice(["6", "8"]), help="coreml: palettize the weights to this many bits")
@option("--chunk", is_flag=True, help="coreml: split a denoiser of more than 1 GB in two packages, for iOS")
@option("--compare", is_flag=True, help="coreml: also run each package with Core ML (needs a Mac)")
@option(
    "--example", "examples", cls=RepeatableOption, type=TEXT, metavar="P...", help="web: prompts that the page offers"
)
@option("--no-check", is_flag=True, help="coreml, litert, web: skip the numerical comparison with torch")
def export(
    checkpoint: str | None,
    architecture: str | None,
    space: str | None,
    seed: int | None,
    format_name: str,
    out: str,
    table: str | None,
    **given: Any,
) -> None:
    from nas.export import FORMATS, export_random

    if format_name not in FORMATS:
        raise ConfigError(f"--format: unknown format '{format_name}'{suggestion(format_name, FORMATS)}")
    if (checkpoint is None) == (architecture is None):
        raise ConfigError("give --checkpoint DIR, or --architecture A.json and --space S for random weights")
    if architecture is None and not (space is None and seed is None):
        raise ConfigError(
            f"{'--seed' if space is None else '--space'} belongs to --architecture; a checkpoint has its own"
        )
    options = _format_options(format_name, **given)
    if table:
        from nas.costs import LookupTable

        options["table"] = LookupTable.load(table)
    if checkpoint is not None:
        paths = FORMATS[format_name](Path(checkpoint), Path(out), **options)
    else:
        if space is None:
            raise ConfigError("--architecture needs --space S, the search space that it was searched in")
        from nas.spaces import SearchSpace

        arch = load_architecture(architecture, space)
        paths = export_random(format_name, SearchSpace.load(space), arch, Path(out), seed or 0, **options)
    for path in paths:
        print(path)
    _print_summary(out, format_name)
    if format_name == "web":
        print(f"next: nas serve {out}")


FORMATS_OF = {
    "target": ("coreml",),
    "bits": ("coreml",),
    "chunk": ("coreml",),
    "compare": ("coreml",),
    "no_check": ("coreml", "litert", "web"),
    "precision": ("litert", "web"),
    "examples": ("web",),
}
"""The formats that each option belongs to."""


def _format_options(format_name: str, **given: Any) -> dict[str, Any]:
    """The options of the format's function, without those that are not given."""
    options = {name: value for name, value in given.items() if value not in (None, False, ())}
    for name in options:
        if format_name not in FORMATS_OF[name]:
            flag = "--example" if name == "examples" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} belongs to --format {' or '.join(FORMATS_OF[name])}, not '{format_name}'")
    if "bits" in options:
        options["bits"] = int(options["bits"])
    if options.pop("no_check", False):
        options["check"] = False
    return options


def _print_summary(out: str, format_name: str) -> None:
    """The errors of reduced precision, warnings, and whether the weights are random."""
    from nas.exported import manifest

    entry = manifest.read(out, format_name)
    for part, figures in entry.checks.items():
        for precision in ("float16", "int8"):
            if format_name != "coreml" and f"error_{precision}" in figures:
                error = figures[f"error_{precision}"]
                print(
                    f"{part}: {precision} weights, relative error {error:.2g} from torch (float32 {figures['error_float32']:.2g})"
                )
    for warning in entry.app.warnings if entry.app else ():
        print(f"warning: {warning}")
    if entry.random_weights:
        print("The weights are random, nothing was trained: clips are noise, latency and memory are as after training.")


@click.command(
    cls=Command,
    help="show an exported web page to phones in the local network",
    example="nas serve export",
)
@click.argument("folder", metavar="EXPORT_DIR", type=PATH)
@option("--port", type=click.IntRange(0, 65535), default=8000, metavar="N", help="0 for a free one")
@option("--https", is_flag=True, help="allow threads and the GPU on a phone; its browser warns of the certificate once")
def serve(folder: str, port: int, https: bool) -> None:
    from nas.exported.serving import ExportServer
    from nas.local_server import qr_code

    server = ExportServer(folder, port, https)
    phone = server.network_url
    if phone:
        print(f"{qr_code(phone)}\n\non a phone in the same network: {phone}")
    print(f"on this machine:                {server.url}")
    if not https:
        print("a phone runs the model on one thread; with --https it may use threads and its GPU")
    print("press Ctrl-C to stop", flush=True)
    server.serve_forever()


@click.group(cls=Group, help="the JavaScript libraries of models in a browser", example="nas web install")
def web() -> None:
    pass


@web.command(
    cls=Command,
    help="install LiteRT.js and a tokenizer with npm, once; afterwards no network is needed",
    example="nas web install",
)
def install() -> None:
    from nas import web_libraries

    print(web_libraries.install())
