"""Commands that train, and that use what was trained."""

from __future__ import annotations

import argparse
import json

from nas.cli.command import command, text


def _declare_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", help="decoder, distill, supernet, finetune or adversarial")
    parser.add_argument(
        "--config", required=True, metavar="C.yaml", help="a recipe, as 'nas export --format recipe' writes it"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="holds a folder per stage; goes on where it stopped"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="share each batch among N Ray workers, a GPU each if there are",
    )

    parser.add_argument("--data", metavar="DIR", help="clips for the decoder stage, instead of the recipe's")


@command("train", "one stage of training", "nas train finetune --config recipe.yaml --out run", _declare_train)
def train(args: argparse.Namespace) -> None:
    from nas.training.recipe import train as train_stage

    result = train_stage(args.stage, args.config, args.out, args.workers, args.data)
    print(f"{result.folder}: {json.dumps(result.metrics)}")


def _declare_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a finished stage's folder")
    parser.add_argument(
        "--prompt",
        required=True,
        nargs="+",
        action="extend",
        type=text,
        metavar="P",
        help="one, or several for a file each: V-1.mp4, V-2.mp4, ...",
    )
    parser.add_argument("--out", required=True, metavar="V.mp4", help="a .mp4 or .gif file, or a folder for PNG frames")
    parser.add_argument("--tile", action="store_true", help="several clips side by side in one file")
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="repeat each pixel N times, for small clips")
    parser.add_argument("--steps", type=int, help="denoising steps (default: what the checkpoint was trained for)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale")
    parser.add_argument("--frames", type=int, help="length of the clip (default: as trained)")
    parser.add_argument("--height", type=int, help="in pixels (default: as trained)")
    parser.add_argument("--width", type=int, help="in pixels (default: as trained)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise that the clip grows from (default: 0)")


@command(
    "generate",
    "text to video",
    "nas generate --checkpoint runs/demo/checkpoints/adversarial --prompt 'the digit three moves left' --out three.gif",
    _declare_generate,
)
def generate(args: argparse.Namespace) -> None:
    import contextlib

    from nas.data.video_writer import check_suffix
    from nas.locks import output_lock
    from nas.pipeline import Pipeline, numbered

    options = {name: getattr(args, name) for name in ("steps", "guidance", "frames", "height", "width", "seed")}
    with contextlib.ExitStack() as locks:  # first of all: what cannot be written costs no time
        for path in numbered(args.out, 1 if args.tile else len(args.prompt)):
            check_suffix(path)
            locks.enter_context(output_lock(path, folder=not path.suffix))
        clips = Pipeline.from_pretrained(args.checkpoint)(args.prompt, **options)
        for path in clips.save(args.out, args.tile, args.scale):
            print(path)
