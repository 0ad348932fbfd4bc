"""The command that turns a data set into what the stages train on."""

from __future__ import annotations

import argparse

from nas.cli.command import at_least_one, command, space


def _declare_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="clips and images with metadata.csv or .jsonl, or .tar shards"
    )
    space(parser)
    parser.add_argument(
        "--decoder", required=True, metavar="DIR", help="a decoder stage's folder, or a checkpoint, diffusers' too"
    )
    parser.add_argument(
        "--out", required=True, metavar="CACHE", help="takes a decoder stage's place; goes on where it stopped"
    )
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second of the clips (default: 8)")
    parser.add_argument("--buckets", action="store_true", help="sizes by shape and length, not one for all")
    parser.add_argument("--videos", type=at_least_one, metavar="N", help="no more than so many clips")
    parser.add_argument("--images", type=at_least_one, metavar="N", help="no more than so many images")
    parser.add_argument("--held-out", type=at_least_one, default=256, metavar="N", help="clips for validation losses")


@command(
    "prepare",
    "latents and text embeddings of a data set, once for all stages",
    "nas prepare --data clips --space snapgen_v --decoder vae --out run/decoder --buckets",
    _declare_prepare,
)
def prepare(args: argparse.Namespace) -> None:
    from nas.data.skipped import SKIPPED
    from nas.spaces import SearchSpace
    from nas.training.stages.prepare import PrepareConfig, prepare

    config = PrepareConfig(args.data, args.decoder, args.fps, args.buckets, args.videos, args.images, args.held_out)
    done = prepare(args.out, config, SearchSpace.load(args.space))
    found = done.metrics
    print(f"{done.folder}: {found['videos']} clips, {found['images']} images, {found['held_out']} held-out clips")
    if found["skipped"]:
        print(f"{found['skipped']} could not be used: {done.folder / SKIPPED}")
