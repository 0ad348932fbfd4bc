"""Commands that export a trained model, and that prepare this machine for models in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nas.cli.command import PATH, TEXT, Command, Group, RepeatableOption, option
from nas.errors import ConfigError, suggestion


@click.command(
    cls=Command,
    help="write a trained denoiser for a device or a training cluster",
    example="nas export --checkpoint runs/demo/checkpoints/adversarial --format coreml --out export",
)
@option("--checkpoint", required=True, metavar="DIR", type=PATH, help="a finished stage's folder")
@option("--format", "format_name", required=True, metavar="F", help="coreml, litert, web or recipe")
@option("--out", required=True, metavar="DIR", type=PATH, help="folder for the exported models and export.json")
@option("--table", metavar="T.csv", type=PATH, help="a lookup table, for the predicted latency in the manifest")
@option("--target", metavar="OS", help="coreml: iOS17 or iOS18  [default: iOS17]")
@option("--bits", type=click.Choice(["6", "8"]), help="coreml: palettize the weights to this many bits")
@option("--compare", is_flag=True, help="coreml: also run each package with Core ML (needs a Mac)")
@option(
    "--example", "examples", cls=RepeatableOption, type=TEXT, metavar="P...", help="web: prompts that the page offers"
)
@option("--no-check", is_flag=True, help="coreml: skip the numerical comparison with torch")
def export(
    checkpoint: str,
    format_name: str,
    out: str,
    table: str | None,
    target: str | None,
    bits: str | None,
    compare: bool,
    no_check: bool,
    examples: tuple[str, ...],
) -> None:
    from nas.export import FORMATS

    if format_name not in FORMATS:
        raise ConfigError(f"--format: unknown format '{format_name}'{suggestion(format_name, FORMATS)}")
    for_coreml = {
        "target": target,
        "bits": bits and int(bits),
        "compare": True if compare else None,
        "check": False if no_check else None,
    }
    options: dict[str, Any] = {name: value for name, value in for_coreml.items() if value is not None}
    if options and format_name != "coreml":
        raise ConfigError(f"--target, --bits, --compare and --no-check belong to --format coreml, not '{format_name}'")
    if examples:
        if format_name != "web":
            raise ConfigError(f"--example belongs to --format web, not '{format_name}'")
        options["examples"] = examples
    if table:
        from nas.costs import LookupTable

        options["table"] = LookupTable.load(table)
    for path in FORMATS[format_name](Path(checkpoint), Path(out), **options):
        print(path)
    if format_name == "web":
        print(f"next: nas serve {out}")


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
