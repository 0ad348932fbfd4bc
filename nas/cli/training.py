"""Commands that train a stage, and that generate clips with what was trained or exported."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import click

from nas.cli.command import COUNT, PATH, TEXT, Command, RepeatableOption, device_option, json_option, option, print_json
from nas.errors import ConfigError

EAGER = "eager"


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
@option("--profile", is_flag=True, help="write a profiler's trace of three steps into STAGE/profile")
@device_option
def train(stage: str, config: str, out: str, workers: int, data: str | None, device: str | None, profile: bool) -> None:
    from nas import distributed
    from nas.training.recipe import train as train_stage

    result = train_stage(stage, config, out, workers, data, device, 3 if profile else 0)
    if distributed.launched_rank() == 0:
        print(f"{result.folder}: {json.dumps(result.metrics)}")


@click.command(
    cls=Command,
    help="generate clips from text, with a checkpoint or with an export folder",
    example="nas generate --checkpoint runs/demo/checkpoints/adversarial --prompt 'a red circle moves left fast' --out circle.gif",
)
@click.argument("export_dir", metavar="[EXPORT_DIR]", required=False, type=PATH)
@option("--checkpoint", metavar="DIR", type=PATH, help="a finished stage's folder, for --runtime eager")
@option(
    "--runtime",
    default=EAGER,
    type=click.Choice([EAGER, "litert", "coreml"]),
    help="eager runs a checkpoint; litert, and coreml on a Mac, an export folder",
)
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
@option("--steps", type=COUNT, metavar="N", help="denoising steps; fixed in an export  [default: as trained]")
@option("--guidance", type=float, metavar="G", help="classifier-free guidance scale")
@option("--frames", type=COUNT, metavar="N", help="length of the clip; fixed in an export  [default: as trained]")
@option("--seconds", type=float, metavar="S", help="length of the clip, instead of --frames")
@option("--height", type=COUNT, metavar="N", help="in pixels; fixed in an export  [default: as trained]")
@option("--width", type=COUNT, metavar="N", help="in pixels; fixed in an export  [default: as trained]")
@option("--seed", type=int, default=0, metavar="N", help="of the initial noise")
@option("--device", metavar="D", help="eager: cpu, cuda, cuda:1 or mps  [default: a CUDA GPU if there is one]")
@option("--threads", type=COUNT, metavar="N", help="litert: CPU threads  [default: 1]")
@option("--compute-unit", type=click.Choice(["all", "cpu", "cpu+gpu", "cpu+ne"]), help="coreml  [default: all]")
@json_option
def generate(
    export_dir: str | None,
    checkpoint: str | None,
    runtime: str,
    prompts: tuple[str, ...],
    out: str,
    tile: bool,
    scale: int,
    device: str | None,
    threads: int | None,
    compute_unit: str | None,
    as_json: bool,
    **options: int | float | None,
) -> None:
    from nas.data.video_writer import check_suffix, numbered
    from nas.locks import output_lock

    _check_source(runtime, checkpoint, export_dir)
    given = {"device": (device, EAGER), "threads": (threads, "litert"), "compute_unit": (compute_unit, "coreml")}
    wrong = next((n for n, (value, owner) in given.items() if value is not None and owner != runtime), None)
    if wrong:
        raise ConfigError(f"--{wrong.replace('_', '-')} belongs to --runtime {given[wrong][1]}, not '{runtime}'")
    with contextlib.ExitStack() as locks:  # an output that cannot be written is refused before any work
        for path in numbered(out, 1 if tile else len(prompts)):
            check_suffix(path)
            locks.enter_context(output_lock(path, folder=not path.suffix))
        pipeline: Any
        if checkpoint is not None:
            from nas.pipeline import Pipeline

            pipeline = Pipeline.from_pretrained(checkpoint, device)
        else:
            from nas.exported.pipeline import ExportedPipeline

            settings = {name: value for name, (value, _) in given.items() if value is not None}
            pipeline = ExportedPipeline(export_dir or "", runtime, **settings)
        paths = pipeline(list(prompts), **options).save(out, tile, scale)
        report = getattr(pipeline, "report", None)
    if as_json:
        print_json({"runtime": runtime, "clips": paths, **({} if report is None else report.to_dict())})
        return
    for path in paths:
        print(path)
    if report is not None:
        print(f"\n{report.table()}")


@click.command(
    cls=Command,
    help="measure a checkpoint: its loss on held-out clips, and the quality of clips that it generates",
    example="nas evaluate --checkpoint runs/demo/checkpoints/adversarial --steps 1 2 4",
    also=("nas evaluate --checkpoint run/finetune --data run/decoder --suite stress --seeds 3",),
)
@option("--checkpoint", required=True, metavar="DIR", type=PATH, help="a finished stage's folder")
@option(
    "--data",
    metavar="DIR",
    type=PATH,
    help="a decoder stage's or 'nas prepare' folder  [default: the folder 'decoder' beside the checkpoint]",
)
@option(
    "--suite",
    metavar="S",
    help="standard; long: 2 and 4 times the trained length; stress: scenes with three objects, crossing paths, unseen "
    "combinations, long, contradictory and empty captions; vbench: VBench's prompts  [default: standard]",
)
@option(
    "--steps",
    cls=RepeatableOption,
    type=COUNT,
    metavar="N...",
    help="numbers of denoising steps  [default: as trained]",
)
@option(
    "--clips",
    type=COUNT,
    metavar="N",
    help="held-out clips, and generated clips of each case and number of steps  [default: 80; 160 moving digits]",
)
@option("--seeds", type=COUNT, default=1, metavar="N", help="noise seeds, each with all clips")
@option("--fvd", metavar="FILE", type=PATH, help="i3d_torchscript.pt, for Frechet video distances as published")
@option("--clip-model", metavar="M", help="folder or Hub name of a CLIP model, for CLIP scores")
@option(
    "--dimension",
    "dimensions",
    cls=RepeatableOption,
    metavar="D...",
    help="vbench: evaluate only these dimensions  [default: all]",
)
@option(
    "--out", metavar="FILE", type=PATH, help="JSON with the result  [default: evaluation/SUITE.json in the checkpoint]"
)
@device_option
@json_option
def evaluate(
    checkpoint: str, data: str | None, device: str | None, out: str | None, as_json: bool, **options: Any
) -> None:
    from nas.metrics.checkpoint_evaluation import EvaluationOptions, evaluate_checkpoint

    found = evaluate_checkpoint(checkpoint, data, EvaluationOptions(**options), device, out)
    if as_json:
        print_json(found)
        return
    print(found.text())


def _check_source(runtime: str, checkpoint: str | None, export_dir: str | None) -> None:
    """Check that there is a checkpoint or an export folder, whichever the runtime runs."""
    if checkpoint is not None and export_dir is not None:
        raise ConfigError("give --checkpoint DIR or an export folder, not both")
    if runtime == EAGER and checkpoint is None:
        given = f"'{export_dir}': " if export_dir is not None else ""
        raise ConfigError(
            f"{given}--runtime eager needs --checkpoint DIR; an export folder needs --runtime litert or coreml"
        )
    if runtime != EAGER and export_dir is None:
        raise ConfigError(
            f"--runtime {runtime} needs an export folder: nas generate --runtime {runtime} EXPORT_DIR ..."
        )
