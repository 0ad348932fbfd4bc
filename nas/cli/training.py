"""Commands that train a stage, and that generate clips with what was trained."""

from __future__ import annotations

import contextlib
import json

import click

from nas.cli.command import COUNT, PATH, TEXT, Command, RepeatableOption, option


@click.command(
    cls=Command,
    resumable=True,
    help="train one stage: decoder, distill, supernet, finetune or adversarial",
    example="nas train finetune --config recipe.yaml --out run",
)
@click.argument("stage")
@option(
    "--config", required=True, metavar="C.yaml", type=PATH, help="a recipe, as 'nas export --format recipe' writes it"
)
@option(
    "--out", required=True, metavar="DIR", type=PATH, help="holds a folder per stage; an unfinished stage is resumed"
)
@option(
    "--workers", type=int, default=1, metavar="N", help="split each batch over N Ray workers, one GPU each if available"
)
@option("--data", metavar="DIR", type=PATH, help="clips for the decoder stage, instead of the recipe's")
def train(stage: str, config: str, out: str, workers: int, data: str | None) -> None:
    from nas.training.recipe import train as train_stage

    result = train_stage(stage, config, out, workers, data)
    print(f"{result.folder}: {json.dumps(result.metrics)}")


@click.command(
    cls=Command,
    help="generate clips from text",
    example="nas generate --checkpoint runs/demo/checkpoints/adversarial --prompt 'the digit three moves left' --out three.gif",
)
@option("--checkpoint", required=True, metavar="DIR", type=PATH, help="a finished stage's folder")
@option(
    "--prompt",
    "prompts",
    cls=RepeatableOption,
    required=True,
    type=TEXT,
    metavar="P...",
    help="one, or several for a file each: V-1.mp4, V-2.mp4, ...",
)
@option("--out", required=True, metavar="V.mp4", type=PATH, help="a .mp4 or .gif file, or a folder for PNG frames")
@option("--tile", is_flag=True, help="put several clips side by side in one file")
@option("--scale", type=COUNT, default=1, metavar="N", help="repeat each pixel N times, for small clips")
@option("--steps", type=COUNT, metavar="N", help="denoising steps  [default: as trained]")
@option("--guidance", type=float, metavar="G", help="classifier-free guidance scale")
@option("--frames", type=COUNT, metavar="N", help="length of the clip  [default: as trained]")
@option("--height", type=COUNT, metavar="N", help="in pixels  [default: as trained]")
@option("--width", type=COUNT, metavar="N", help="in pixels  [default: as trained]")
@option("--seed", type=int, default=0, metavar="N", help="of the initial noise")
def generate(
    checkpoint: str, prompts: tuple[str, ...], out: str, tile: bool, scale: int, **options: int | float | None
) -> None:
    from nas.data.video_writer import check_suffix
    from nas.locks import output_lock
    from nas.pipeline import Pipeline, numbered

    with contextlib.ExitStack() as locks:  # an output that cannot be written is refused before any work
        for path in numbered(out, 1 if tile else len(prompts)):
            check_suffix(path)
            locks.enter_context(output_lock(path, folder=not path.suffix))
        clips = Pipeline.from_pretrained(checkpoint)(list(prompts), **options)
        for path in clips.save(out, tile, scale):
            print(path)
