"""Training on one GPU: the five stages of a small space, then steps of a large one in several settings.

    python benchmarks/gpu.py --out docs/benchmarks/gpu.json

The five stages run on moving digits in bfloat16, a few dozen steps each, from their inputs to their evaluation. Then the
denoiser of `--space`, with a layer in every slot, takes steps on random latents: in bfloat16, with activation
checkpointing, with compiled blocks, with FSDP2 over this one GPU, and with AdamW's moments in 8 bits. Each setting has a
process of its own, so that its peak of memory is its own; one that does not fit is a row that says so. Prints both
tables, with the share of the GPU's peak (MFU), and writes them to the JSON file. On a machine without a GPU, `--device
cpu --space demo --batch 1 --steps 2 --stage-steps 2` runs the same code.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

import nas
from nas.distributed import find_device, shard_fsdp, use_device
from nas.files import write_json
from nas.models import Denoiser
from nas.spaces import NONE, Architecture, SearchSpace
from nas.training import (
    AdversarialConfig,
    DecoderConfig,
    DistillConfig,
    ExecutionConfig,
    FinetuneConfig,
    Inputs,
    SupernetConfig,
    run_stage,
)
from nas.training.execution import allow_tf32, blocks
from nas.training.learner import Learner
from nas.training.optimization import Optimization
from nas.training.telemetry.history import read_history
from nas.training.telemetry.throughput import PARTS, THROUGHPUT, StepTimer, long_text, peak_tflops

SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "+ checkpointing": {"checkpointing": True},
    "+ compile": {"checkpointing": True, "compile": True},
    "+ FSDP2": {"checkpointing": True, "compile": True, "shard": True},
    "+ 8-bit AdamW": {"checkpointing": True, "compile": True, "optimizer_bits": 8},
}
WARM_UP = 3
"""Steps before those that are timed: they compile, allocate, and start the moments."""
TIME_LIMIT_S = 240
"""Of a setting, most of it for the compiler."""


@dataclass(frozen=True)
class Clips:
    """A batch of random latents `(B, C, T, H, W)` with random contexts `(B, tokens, dim)` and times `(B,)`."""

    latents: Tensor
    contexts: Tensor
    times: Tensor

    def split(self, parts: int) -> list[Clips]:
        return [self]


def largest(space: SearchSpace) -> Architecture:
    """A layer in every slot: the first choice that is one."""
    return space.architecture(
        {slot: next((choice for choice in choices if choice != NONE), NONE) for slot, choices in space.slots.items()}
    )


def run_stages(device: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """The last throughput of each stage of the demo's space."""
    space = SearchSpace.load("demo")
    execution = ExecutionConfig(device=device, precision="bf16")
    short = {"steps": steps, "batch": 16}
    configs = {
        "decoder": DecoderConfig(**short, videos=200, images=400, held_out=40, classifier_steps=50),
        "distill": DistillConfig(**short, validation=16),
        "supernet": SupernetConfig(**short, image_batch_size=16, validation=16, paths=2),
        "finetune": FinetuneConfig(**short, image_batch_size=16, validation=16, eval_steps=(4,), eval_clips=16),
        "adversarial": AdversarialConfig(**short, teacher_batches=4, eval_steps=(4,), eval_clips=16, control_steps=0),
    }
    data, arch = folder / "decoder", largest(space)
    inputs = {
        "decoder": Inputs(space),
        "distill": Inputs(space, data),
        "supernet": Inputs(space, data, folder / "distill"),
        "finetune": Inputs(space, data, folder / "supernet", arch),
        "adversarial": Inputs(space, data, folder / "finetune"),
    }
    rows = []
    for name, config in configs.items():
        done = run_stage(name, folder / name, config, replace(inputs[name], execution=execution))
        row = read_history(folder / name, THROUGHPUT)[-1]
        print(f"{name}: {done.seconds:.0f} s in all; {long_text(row)}", flush=True)
        rows.append({"stage": name, "steps": steps, "seconds": done.seconds, **row})
    return rows


def measure(setting: str, space: SearchSpace, device: torch.device, batch: int, steps: int) -> dict[str, float]:
    """The throughput of the space's denoiser in a setting."""
    execution = ExecutionConfig(precision="bf16", **{k: v for k, v in SETTINGS[setting].items() if k != "shard"})
    allow_tf32(device)
    with torch.device(device):
        torch.manual_seed(0)
        denoiser: nn.Module = Denoiser(space, largest(space))
        shape = (batch, *space.input_shape()[1:])
        clips = Clips(torch.randn(shape), torch.randn(batch, *space.context_shape()[1:]), torch.rand(batch))
        target = torch.randn(shape)
    if SETTINGS[setting].get("shard"):
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=distributed.HashStore(), rank=0, world_size=1
        )
        denoiser = shard_fsdp(denoiser, list(blocks(denoiser)), dtype=execution.gathered_dtype)
    learner = Learner(denoiser, Optimization(lr=1e-4), WARM_UP + steps, execution=execution)

    def loss(part: Clips) -> Tensor:
        return (learner.model(part.latents, part.times, part.contexts) - target).float().square().mean()

    peak = peak_tflops(device, "bf16")
    learner.timer = timer = StepTimer(device, peak, execution.compile)
    losses = []
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            timer.row()  # forget the first steps, but not the operations that were counted in them
        with timer.step():
            losses.append(learner.train_step(loss, clips, step)["loss"])
    if device.type == "cuda":
        torch.cuda.synchronize()
    if not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{setting}: the loss is not finite: {losses}")
    return {**timer.row(), "first_loss": losses[0], "last_loss": losses[-1]}


def in_process(setting: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own; why it failed, if it did."""
    words = ["--setting", setting, "--device", args.device, "--space", args.space]
    words += ["--batch", str(args.batch), "--steps", str(args.steps)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"setting": setting, "failed": f"not done after {TIME_LIMIT_S} s"}
    if done.returncode:
        return {"setting": setting, "failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return {"setting": setting, **json.loads(done.stdout.splitlines()[-1])}


def tables(result: dict[str, Any]) -> str:
    """Both tables in Markdown."""

    def cells(row: dict[str, Any]) -> str:
        shares = " / ".join(f"{row[f'{part}_s'] / row['step_s']:.0%}" for part in PARTS)
        mfu = "" if math.isnan(row["mfu"]) else f"{row['mfu']:.0%}"
        return (
            f"{1000 * row['step_s']:.0f} | {shares} | {row['clips_per_s']:.3g} | {row['tflops']:.3g} | {mfu} | "
            f"{row['memory_gb']:.1f} |"
        )

    head = "ms a step | data / forward / backward / optimizer | clips/s | TFLOP/s | MFU | memory, GB |"
    lines = [f"{result['device']}, torch {result['torch']}, {result['git']}", ""]
    lines += [f"| stage of `demo` | {head}", "| --- " * 7 + "|"]
    lines += [f"| `{row['stage']}` | {cells(row)}" for row in result["stages"]]
    lines += ["", f"| `{result['space']}`, {result['batch']} clips | {head}", "| --- " * 7 + "|"]
    for row in result["settings"]:
        lines.append(f"| {row['setting']} | " + (f"{row['failed']} | | | | | |" if "failed" in row else cells(row)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--space", default="snapgen_v", help="of the steps in several settings")
    parser.add_argument("--batch", type=int, default=4, help="clips a step of it")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each setting")
    parser.add_argument("--stage-steps", type=int, default=40, help="steps of each stage")
    parser.add_argument("--setting", choices=list(SETTINGS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="JSON file of the tables")
    args = parser.parse_args()
    device = find_device(args.device)
    if args.setting:
        with use_device(args.device):
            space = SearchSpace.load(args.space)
            print(json.dumps(measure(args.setting, space, device, args.batch, args.steps)))
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "git": git.stdout.strip() or nas.__version__}
    result |= {"space": args.space, "batch": args.batch, "stages": [], "settings": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for setting in SETTINGS:  # what is there after each of them survives a time limit
        result["settings"].append(in_process(setting, args))
        print(result["settings"][-1], flush=True)
        write_json(args.out, result)
    with tempfile.TemporaryDirectory() as folder:
        result["stages"] = run_stages(args.device, args.stage_steps, Path(folder))
    write_json(args.out, result)
    print(tables(result))


if __name__ == "__main__":
    main()
