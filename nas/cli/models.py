"""The command that prunes a pretrained UNet."""

from __future__ import annotations

from pathlib import Path

import click

from nas.cli.command import PATH, Command, device_option, option, space_option


@click.command(
    cls=Command,
    help="prune Stable Diffusion's UNet to a search space's backbone",
    example="nas prune --checkpoint stable-diffusion-v1-5 --space snapgen_v --out pruned",
)
@option(
    "--checkpoint",
    required=True,
    metavar="DIR",
    type=PATH,
    help="a diffusers checkpoint's folder, or its name on the Hub",
)
@space_option
@option("--out", required=True, metavar="DIR", type=PATH, help="folder for unet/, report.txt and report.json")
@option("--importance", default="norm", metavar="I", help="norm or taylor")
@option("--data", metavar="DIR", type=PATH, help="data for taylor: a decoder stage's or 'nas prepare' folder")
@option("--table", metavar="T.csv", type=PATH, help="a lookup table with the backbone's latency")
@device_option
def prune(
    checkpoint: str, space: str, out: str, importance: str, data: str | None, table: str | None, device: str | None
) -> None:
    from nas.costs import LookupTable
    from nas.spaces import SearchSpace
    from nas.training.prune import PruningData, prune_checkpoint

    calibration = PruningData(Path(data)) if data else None
    lookup = LookupTable.load(table) if table else None
    report = prune_checkpoint(checkpoint, SearchSpace.load(space), out, importance, calibration, lookup, device)
    print(report.text())
    print(out)
