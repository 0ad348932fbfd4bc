"""Compares methods of the adversarial stage, and continued fine-tuning, at equal compute, for sampling in few steps.

    python benchmarks/adversarial.py --run runs/demo --converge 3000 --out runs/adversarial

The fine-tuned denoiser of a demo run is first trained for `--converge` more steps: a start that has not converged would
gain more from plain training than from distillation. From there the config's `adversarial` stage trains the student by
each of `--methods`, and a control by plain fine-tuning, all with the compute of `reflow-gan`, which includes what its
teacher samples (in passes of the denoiser, by `step_cost` of the stage). All are evaluated at 1, 2 and 4 steps, the start
also at 25, by the judges of its data. An interrupted benchmark resumes. Prints a Markdown table, and writes it to
OUT/adversarial.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

import nas
from nas.config import build
from nas.diffusion.predictions import Objective
from nas.metrics.evaluation import evaluate_denoiser
from nas.runs.job_config import load_job_config
from nas.training import AdversarialConfig, FinetuneConfig, Inputs, run_stage
from nas.training.stages.few_step_methods import METHODS

FEW = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"), help="whose stages to run")
    parser.add_argument(
        "--converge", type=int, default=3000, help="fine-tuning steps before the comparison; 0: the run's own model"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="steps of reflow-gan (default: the config's)")
    parser.add_argument("--critic-steps", type=int, default=5, help="steps of dmd2 and rcm per update of the student")
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--batch", type=int, default=16, help="clips per step in all trainings")
    parser.add_argument("--teacher-batches", type=int, default=160, help="batches that the teacher samples")
    parser.add_argument(
        "--pure-noise-fraction", type=float, default=0.75, help="share of the student's inputs that are pure noise"
    )
    parser.add_argument("--clips", type=int, default=160, help="generated clips per evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/adversarial"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    job, name = load_job_config(args.config), str(args.config)
    space = nas.SearchSpace.load(args.run / "space.yaml")
    arch = space.check(nas.Architecture.load(args.run / "architecture.json"))
    checkpoints = args.run / "checkpoints"
    objective = build(Objective, job.objective, name, "objective")
    inputs = Inputs(space, checkpoints / "decoder", checkpoints / "finetune", arch, objective=objective)

    plain = build(FinetuneConfig, job.stages.get("finetune", {}), name, "stages.finetune")
    plain = replace(plain, batch=args.batch, eval_steps=(*FEW, 25), eval_clips=args.clips, seed=1)
    if args.converge:
        start = run_stage("finetune", args.out / "start", replace(plain, steps=args.converge), inputs).folder
    else:
        start = checkpoints / "finetune"
    args.out.mkdir(parents=True, exist_ok=True)
    loaded, shape = nas.checkpoint.load(start), space.input_shape()[1:]
    quality = {
        ("start", 0): evaluate_denoiser(
            "start",
            args.out,
            checkpoints / "decoder",
            loaded.denoiser,
            shape,
            (*FEW, 25),
            loaded.info.guidance,
            args.clips,
        )
    }

    config = build(AdversarialConfig, job.stages.get("adversarial", {}), name, "stages.adversarial")
    config = replace(
        config,
        steps=args.steps or config.steps,
        batch=args.batch,
        teacher_batches=args.teacher_batches,
        pure_noise_fraction=args.pure_noise_fraction,
        control=plain,
        eval_steps=FEW,
        control_eval_steps=FEW,
        eval_clips=args.clips,
    )
    compute = equal_steps(config, loaded.info.guidance)
    for seed in args.seeds:
        for method in args.methods:
            control = seed == args.seeds[0] and method == "reflow-gan" and not args.no_control
            changed = replace(config, seed=seed, control_steps=compute if control else 0)
            if method != "reflow-gan":
                every = args.critic_steps
                options = replace(config.dmd2, critic_steps=every)
                changed = replace(changed, dmd2=options, steps=every, method=method)
                changed = replace(changed, steps=round(compute / changed.step_cost / every) * every)
            done = run_stage("adversarial", args.out / f"{method}-{seed}", changed, replace(inputs, start=start))
            print(f"{method}, seed {seed}: {changed.steps} steps in {done.seconds:.0f} s")
            quality[method, seed] = done.metrics["quality"]["adversarial"]
            if control:
                quality["control", seed] = done.metrics["quality"]["control"]
    text = report(quality, config, compute, args)
    (args.out / "adversarial.md").write_text(text + "\n")
    print(text)


def equal_steps(config: AdversarialConfig, guidance: float) -> int:
    """Steps of plain fine-tuning with the compute of `reflow-gan`, including what its teacher samples."""
    passes = config.teacher_batches * config.sampled_steps * (1 if guidance == 1 else 2)
    return round(config.steps * config.step_cost + passes / 3)


def report(
    quality: dict[tuple[str, int], list[dict]], config: AdversarialConfig, compute: int, args: argparse.Namespace
) -> str:
    """A row per model, number of steps and seed."""
    lines = [
        f"{args.converge} fine-tuning steps before; then the compute of {compute} more, of {config.batch} clips. `reflow-gan`: "
        f"{config.steps} steps, {config.teacher_batches} teacher batches; {config.pure_noise_fraction:.0%} of the inputs pure "
        f"noise. `dmd2` and `rcm`: the student in one of {args.critic_steps} steps. {args.clips} clips per evaluation.",
        "",
        "| model | seed | steps | Frechet | digit or objects | direction |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (model, seed), rows in quality.items():
        lines += [
            f"| {model} | {seed} | {row['steps']} | {row['frechet']:.4g} | {row['digit_accuracy']:.2f} | "
            f"{row['direction_accuracy']:.2f} |"
            for row in rows
        ]
    best = next(row["frechet"] for row in quality["start", 0] if row["steps"] == 25)
    lines += ["", f"Frechet distance relative to 25 guided steps of the start ({best:.4g}), means over seeds:", ""]
    for model in dict.fromkeys(model for model, _ in quality if model != "start"):
        rows = [row for (name, _), rows in quality.items() if name == model for row in rows]
        means = {steps: mean(row["frechet"] for row in rows if row["steps"] == steps) for steps in FEW}
        lines.append(f"- {model}: " + ", ".join(f"{means[steps] / best:.2f} at {steps}" for steps in FEW))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
