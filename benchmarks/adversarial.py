"""Compares the adversarial stage with continued fine-tuning at equal compute, for sampling in few steps.

    python benchmarks/adversarial.py --run runs/demo --converge 3000 --out runs/adversarial

The fine-tuned denoiser of a demo run is first trained for `--converge` more steps: a start that has not converged would
gain more from plain training than from distillation. From there the config's `adversarial` stage trains the student,
and its control, which is plain fine-tuning from the same start with equal compute. Both are evaluated at 1, 2 and 4
steps, the start also at 25, with the demo's digit classifier. An interrupted benchmark resumes. Prints a Markdown table, and writes it to OUT/adversarial.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import nas
from nas.config import build
from nas.diffusion.predictions import Objective
from nas.runs.job_config import load_job_config
from nas.training import AdversarialConfig, FinetuneConfig, Inputs, run_stage

FEW = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"), help="whose stages to run")
    parser.add_argument(
        "--converge", type=int, default=3000, help="fine-tuning steps before the comparison; 0: the run's own model"
    )
    parser.add_argument("--steps", type=int, help="adversarial steps (default: the config's)")
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
    plain = replace(plain, batch=args.batch, eval_steps=(*FEW, 25), eval_clips=args.clips, steps=args.converge, seed=1)
    start = run_stage("finetune", args.out / "start", plain, inputs)

    config = build(AdversarialConfig, job.stages.get("adversarial", {}), name, "stages.adversarial")
    config = replace(
        config,
        steps=args.steps or config.steps,
        batch=args.batch,
        teacher_batches=args.teacher_batches,
        pure_noise_fraction=args.pure_noise_fraction,
        control=plain,
        control_steps=None,
        eval_steps=FEW,
        control_eval_steps=FEW,
        eval_clips=args.clips,
    )
    few = run_stage("adversarial", args.out / "adversarial", config, replace(inputs, start=start.folder))
    text = report({"start": start.metrics["quality"], **few.metrics["quality"]}, config, args)
    (args.out / "adversarial.md").write_text(text + "\n")
    print(text)


def report(quality: dict[str, list[dict]], config: AdversarialConfig, args: argparse.Namespace) -> str:
    lines = [
        f"{args.converge} fine-tuning steps before; {config.steps} adversarial steps of {args.batch} clips, "
        f"{config.pure_noise_fraction:.0%} of the inputs pure noise, {config.teacher_batches} teacher batches. {args.clips} clips per evaluation.",
        "",
        "| model | steps | Frechet | digit | direction |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model, rows in quality.items():
        lines += [
            f"| {model} | {row['steps']} | {row['frechet']:.1f} | {row['digit_accuracy']:.2f} | "
            f"{row['direction_accuracy']:.2f} |"
            for row in rows
        ]
    of = {(model, row["steps"]): row["frechet"] for model, rows in quality.items() for row in rows}
    ratios = ", ".join(f"{of['control', steps] / of['adversarial', steps]:.2f} at {steps}" for steps in FEW)
    return "\n".join([*lines, "", f"Frechet distance of the control over the student's: {ratios} steps."])


if __name__ == "__main__":
    main()
