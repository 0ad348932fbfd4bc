"""Does training on images and clips jointly beat clips alone? SnapGen-V (arXiv 2412.10494) says so; here on moving digits.

    python benchmarks/joint.py --run runs/demo [--steps 700] [--seeds 5] [--video-digits 5] [--out runs/joint]

From the same image-trained backbone and autoencoder of a demo run, the same architecture is fine-tuned by the config's
`finetune` stage, once as it stands and once with no image steps, for as many steps, with the same clips in the same
order as far as both see clips. `--videos N` leaves both N of the demo's thousands of clips and all of its images,
`--video-digits N` the clips of the digits below N and all images: captioned videos are scarcer than images, and show
less, everywhere but in a demo. Each seed's clips are judged by the checked classifier. Started again, it goes on inside
the very run that was stopped, so a second start with all seeds gathers what several processes did; OUT belongs to one
condition (OUT/condition.json), and another one is refused there. Writes OUT/joint.csv and prints a Markdown table with the 95% interval (Student's t) of the paired differences.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import t as student

import nas
from nas.config import build
from nas.data.digits import WORDS
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError, NasError
from nas.files import read_json, write_json
from nas.models import safetensors_io
from nas.runs.job import load_job_config
from nas.training import FinetuneConfig, Inputs, run_stage

KINDS = ("video only", "joint")
METRICS = ("digit_accuracy", "direction_accuracy", "frechet", "validation_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="a demo run: its decoder, distill, architecture"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"), help="whose finetune stage to run")
    parser.add_argument("--steps", type=int, help="of fine-tuning (default: the config's)")
    parser.add_argument("--eval-steps", type=int, default=25, help="denoising steps of the clips that are judged")
    parser.add_argument("--clips", type=int, help="generated clips that are judged (default: the config's)")
    parser.add_argument("--videos", type=int, help="clips to train on (default: all)")
    parser.add_argument("--video-digits", type=int, default=len(WORDS), help="clips show only the digits below this")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed: several processes can share the work")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    job = load_job_config(args.config)
    config = build(FinetuneConfig, job.stages.get("finetune", {}), str(args.config), "stages.finetune")
    config = replace(
        config,
        steps=args.steps or config.steps,
        eval_steps=(args.eval_steps,),
        eval_clips=args.clips or config.eval_clips,
    )
    asked = build(Objective, job.objective, str(args.config), "objective")
    space = nas.SearchSpace.load(args.run / "space.yaml")
    arch = space.check(nas.Architecture.load(args.run / "architecture.json"))
    checkpoints = args.run / "checkpoints"
    own_condition(
        args.out,
        run=str(args.run.resolve()),
        videos=args.videos,
        video_digits=args.video_digits,
        architecture=arch.choices,
        objective=asdict(asked),
        **{name: value for name, value in asdict(config).items() if name != "seed"},
    )
    decoder = checkpoints / "decoder"
    if args.videos or args.video_digits < len(WORDS):
        decoder = with_few_videos(decoder, args.out / "decoder", args.videos, args.video_digits)
    inputs = Inputs(space, decoder, checkpoints / "distill", arch, objective=asked)
    rows = []
    for seed in range(args.first, args.first + args.seeds):
        for kind in KINDS:
            rows.append({"seed": seed, "training": kind, **measure(args.out, kind, seed, config, inputs)})
            args.out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(args.out / "joint.csv", index=False)
            print(rows[-1], flush=True)
    print(report(pd.DataFrame(rows), config, arch, args))


def own_condition(out: Path, **asked: object) -> None:
    """Note under what condition everything in `out` is measured, or check that it is this one.

    Raises:
        ConfigError: `out` holds results of another condition, or of one that nobody noted.
    """
    path, asked = out / "condition.json", json.loads(json.dumps(asked))
    if not path.exists():
        if any(out.glob("*/stage.json")):
            raise ConfigError(f"{out}: holds results of a condition that was not noted; give another --out")
        write_json(path, asked)
        return
    there = read_json(path, "condition")
    other = [name for name in asked if there.get(name) != asked[name]]
    if other:
        was = ", ".join(f"{name} {there.get(name)} (now {asked[name]})" for name in other)
        raise ConfigError(f"{out}: its results are of another condition: {was}; give the same again, or another --out")


def with_few_videos(decoder: Path, copy: Path, count: int | None, digits: int) -> Path:
    """A copy of a decoder stage that trains on its first `count` clips of the digits below `digits`, and all images."""
    if copy.exists():
        return copy
    began = copy.with_name("copying")
    shutil.copytree(decoder, began, dirs_exist_ok=True)
    train, words = began / "train", set(WORDS[:digits])
    latents, captions = [], []
    for path in sorted(train.glob("videos-*.json")):
        ((name, found),) = read_json(path, "shard")["captions"].items()
        rows = [row for row, caption in enumerate(found) if words & set(caption.split())]
        latents.append(safetensors_io.load(path.with_suffix(".safetensors"))[name][rows])
        captions += [found[row] for row in rows]
    kept = torch.cat(latents)[:count]
    safetensors_io.save(train / "videos-00000.safetensors", {name: kept})
    write_json(train / "videos-00000.json", {"captions": {name: captions[: len(kept)]}, "skipped": []})
    sizes = read_json(train / "cache.json", "cache")
    write_json(train / "cache.json", {**sizes, "videos": {name: [len(kept)]}})
    began.rename(copy)
    return copy


def measure(out: Path, kind: str, seed: int, config: FinetuneConfig, inputs: Inputs) -> dict[str, float]:
    """One run of the stage; of a finished one at once."""
    share = config.image_share if kind == "joint" else 0.0
    folder = out / f"{kind.replace(' ', '-')}-{seed}"
    result = run_stage("finetune", folder, replace(config, seed=seed, image_share=share), inputs)
    found = {**result.metrics, **result.metrics["quality"][0], "seconds": result.seconds}
    return {name: round(found[name], 4) for name in (*METRICS, "seconds")}


def report(rows: pd.DataFrame, config: FinetuneConfig, arch: nas.Architecture, args: argparse.Namespace) -> str:
    means = rows.groupby("training")[[*METRICS]].agg(["mean", "std"])
    pivot = rows.pivot(index="seed", columns="training")
    lines = [
        f"Architecture: {arch}. {config.steps} steps of {config.batch} clips; jointly, {config.image_share:.0%} of the "
        f"steps see {config.image_batch_size} images instead. {args.seeds} seeds, {config.eval_clips} clips judged of each at "
        f"{args.eval_steps} denoising steps with guidance {config.guidance}. {os.cpu_count()} cores, "
        f"{args.threads} thread(s), torch {torch.__version__}. {args.videos or 'All'} clips to train on, "
        f"of the digits below {args.video_digits}.",
        "",
        "| | video only | joint | joint - video only | 95% interval |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        cells = [f"{means.loc[kind, (metric, 'mean')]:.3f} +- {means.loc[kind, (metric, 'std')]:.3f}" for kind in KINDS]
        difference, half = interval(pivot[metric]["joint"] - pivot[metric]["video only"])
        lines.append(
            f"| {metric.replace('_', ' ')} | {cells[0]} | {cells[1]} | {difference:+.3f} | "
            f"{difference - half:+.3f} to {difference + half:+.3f} |"
        )
    return "\n".join(lines)


def interval(differences: pd.Series) -> tuple[float, float]:
    """Mean of paired differences, and half the width of its 95% interval by Student's t."""
    count = len(differences)
    if count < 2:
        return float(differences.mean()), float("nan")
    return float(differences.mean()), float(student.ppf(0.975, count - 1) * differences.std() / count**0.5)


if __name__ == "__main__":
    try:
        main()
    except NasError as error:
        sys.exit(f"joint.py: {error}")
