"""The command that encodes a data set for the training stages."""

from __future__ import annotations

import click

from nas.cli.command import COUNT, PATH, Command, device_option, option, space_option


@click.command(
    cls=Command,
    resumable=True,
    help="encode a data set as latents and text embeddings, once for all stages",
    example="nas prepare --data clips --space snapgen_v --decoder vae --out run/decoder --buckets",
)
@option(
    "--data",
    required=True,
    metavar="DIR",
    type=PATH,
    help="clips and images with metadata.csv or .jsonl, or .tar shards; or scenes, or a YAML file of scenes",
)
@space_option
@option(
    "--decoder",
    required=True,
    metavar="DIR",
    type=PATH,
    help="a decoder stage's folder, a checkpoint (nas or diffusers), or a Hub name",
)
@option(
    "--out",
    required=True,
    metavar="CACHE",
    type=PATH,
    help="output folder, used in place of a decoder stage's; resumes",
)
@option("--fps", type=float, help="frames per second of the clips  [default: the search space's]")
@option("--buckets", is_flag=True, help="group clips by aspect ratio and length instead of one size for all")
@option("--videos", type=COUNT, metavar="N", help="use at most N clips")
@option("--images", type=COUNT, metavar="N", help="use at most N images")
@option("--held-out", type=COUNT, default=256, metavar="N", help="clips kept for validation losses")
@option(
    "--workers",
    type=int,
    default=1,
    metavar="N",
    help="share the encoding over N Ray workers, one GPU each if available",
)
@device_option
def prepare(
    data: str,
    space: str,
    decoder: str,
    out: str,
    fps: float | None,
    buckets: bool,
    videos: int | None,
    images: int | None,
    held_out: int,
    workers: int,
    device: str | None,
) -> None:
    from nas import distributed
    from nas.data.skipped import SKIPPED
    from nas.spaces import SearchSpace
    from nas.training.stages.prepare import PrepareConfig
    from nas.training.stages.prepare import prepare as prepare_data

    config = PrepareConfig(data, decoder, fps, buckets, videos, images, held_out)
    result = prepare_data(out, config, SearchSpace.load(space), device, workers)
    if distributed.launched_rank() > 0:
        return
    counts = result.metrics
    print(f"{result.folder}: {counts['videos']} clips, {counts['images']} images, {counts['held_out']} held-out clips")
    if counts["skipped"]:
        print(f"skipped files: {counts['skipped']}; {result.folder / SKIPPED} lists them")
