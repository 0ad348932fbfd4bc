"""Compares joint training on images and clips with clips only, as SnapGen-V (arXiv 2412.10494) does, on moving digits.

    python benchmarks/joint.py --run runs/digits [--steps 700] [--seeds 5] [--video-digits 5] [--out runs/joint]

From the backbone and autoencoder of a demo run, one architecture is fine-tuned with the config's `finetune` stage, once
as configured and once without image steps, for the same number of steps, with the same clips in the same order.
`--videos N` limits both to N clips and all images, `--video-digits N` to the clips of the digits below N and all images,
since captioned videos are usually scarcer and less diverse than images. Each seed's clips are evaluated with the digit
classifier. An interrupted benchmark resumes; a start with all seeds collects what several processes did. OUT belongs to
one condition (OUT/condition.json); another one is refused. Writes OUT/joint.csv and prints a Markdown table with the 95%
interval (Student's t) of the paired differences.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
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
from nas.runs.job_config import load_job_config
from nas.training import FinetuneConfig, Inputs, run_stage

KINDS = ("video only", "joint")
METRICS = ("digit_accuracy", "direction_accuracy", "frechet", "validation_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/digits"),
        help="a run of configs/digits.yaml: its decoder, distill, architecture",
    )
    parser.add_argument("--config", type=Path, default=Path("configs/digits.yaml"), help="whose finetune stage to run")
    parser.add_argument("--steps", type=int, help="of fine-tuning (default: the config's)")
    parser.add_argument("--eval-steps", type=int, default=25, help="denoising steps of the evaluated clips")
    parser.add_argument("--clips", type=int, help="generated clips per evaluation (default: the config's)")
    parser.add_argument("--videos", type=int, help="clips to train on (default: all)")
    parser.add_argument("--video-digits", type=int, default=len(WORDS), help="clips show only the digits below this")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed, to divide the seeds over several processes"
    )
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
    objective = build(Objective, job.objective, str(args.config), "objective")
    space = nas.SearchSpace.load(args.run / "space.yaml")
    arch = space.check(nas.Architecture.load(args.run / "architecture.json"))
    checkpoints = args.run / "checkpoints"
    check_condition(
        args.out,
        run=str(args.run.resolve()),
        videos=args.videos,
        video_digits=args.video_digits,
        architecture=arch.choices,
        objective=asdict(objective),
        **{name: value for name, value in asdict(config).items() if name != "seed"},
    )
    decoder = checkpoints / "decoder"
    if args.videos or args.video_digits < len(WORDS):
        decoder = with_few_videos(decoder, args.out / "decoder", args.videos, args.video_digits)
    inputs = Inputs(space, decoder, checkpoints / "distill", arch, objective=objective)
    rows = []
    for seed in range(args.first, args.first + args.seeds):
        for kind in KINDS:
            rows.append({"seed": seed, "training": kind, **measure(args.out, kind, seed, config, inputs)})
            args.out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(args.out / "joint.csv", index=False)
            print(rows[-1], flush=True)
    print(report(pd.DataFrame(rows), config, arch, args))


def check_condition(out: Path, **condition: object) -> None:
    """Record the condition of all results in `out`, or check that it is this one.

    Raises:
        ConfigError: `out` contains results of another condition, or without a recorded one.
    """
    path, condition = out / "condition.json", json.loads(json.dumps(condition))
    if not path.exists():
        if any(out.glob("*/stage.json")):
            raise ConfigError(f"{out}: contains results without a recorded condition; give another --out")
        write_json(path, condition)
        return
    recorded = read_json(path, "condition")
    other = [name for name in condition if recorded.get(name) != condition[name]]
    if other:
        was = ", ".join(f"{name} {recorded.get(name)} (now {condition[name]})" for name in other)
        raise ConfigError(f"{out}: its results are of another condition: {was}; use the same, or another --out")


def with_few_videos(decoder: Path, copy: Path, count: int | None, digits: int) -> Path:
    """A copy of a decoder stage that trains on its first `count` clips of the digits below `digits`, and all images."""
    words = set(WORDS[:digits])
    return with_some(decoder, copy, "videos", lambda caption: bool(words & set(caption.split())), count)


def with_some(decoder: Path, copy: Path, kind: str, keep: Callable[[str], bool], count: int | None = None) -> Path:
    """A copy of a decoder stage that trains on the first `count` of its `videos` or `images` whose caption `keep` accepts."""
    if copy.exists():
        return copy
    partial = copy.with_name(f"{copy.name}-partial")
    shutil.copytree(decoder, partial, dirs_exist_ok=True)
    train, latents, captions = partial / "train", [], []
    for path in sorted((decoder / "train").glob(f"{kind}-*.json")):
        ((bucket, shard),) = read_json(path, "shard")["captions"].items()
        rows = [row for row, caption in enumerate(shard) if keep(caption)]
        latents.append(safetensors_io.load(path.with_suffix(".safetensors"))[bucket][rows])
        captions += [shard[row] for row in rows]
    kept = torch.cat(latents)[:count]
    safetensors_io.save(train / f"{kind}-00000.safetensors", {bucket: kept})
    write_json(train / f"{kind}-00000.json", {"captions": {bucket: captions[: len(kept)]}, "skipped": []})
    sizes = read_json(train / "cache.json", "cache")
    write_json(train / "cache.json", {**sizes, kind: {bucket: [len(kept)]}})
    partial.rename(copy)
    return copy


def measure(out: Path, kind: str, seed: int, config: FinetuneConfig, inputs: Inputs) -> dict[str, float]:
    """Metrics of one run of the stage."""
    share = config.image_share if kind == "joint" else 0.0
    folder = out / f"{kind.replace(' ', '-')}-{seed}"
    result = run_stage("finetune", folder, replace(config, seed=seed, image_share=share), inputs)
    values = {**result.metrics, **result.metrics["quality"][0], "seconds": result.seconds}
    return {name: round(values[name], 4) for name in (*METRICS, "seconds")}


def report(rows: pd.DataFrame, config: FinetuneConfig, arch: nas.Architecture, args: argparse.Namespace) -> str:
    means = rows.groupby("training")[[*METRICS]].agg(["mean", "std"])
    pivot = rows.pivot(index="seed", columns="training")
    lines = [
        f"Architecture: {arch}. {config.steps} steps of {config.batch} clips; jointly, {config.image_share:.0%} of the "
        f"steps see {config.image_batch_size} images instead. {args.seeds} seeds, {config.eval_clips} clips per evaluation at "
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
