"""Trains the found placement of temporal layers and others alone and alike, and measures each: does searching matter?

    nas run benchmarks/scenes/job.yaml --out runs/scenes
    python benchmarks/placement.py --run runs/scenes --out runs/placement [--steps 500] [--seeds 3] [--part 0/2]
    python benchmarks/placement_report.py --results docs/benchmarks/placement.csv

The architectures: the one that the run's search found; random ones at equal latency (within 10% of the found one's and
within the budget, by the run's lookup table); and fixed patterns. Each starts from the run's image backbone, not from the
supernet, and runs the config's `finetune` stage with the same number of steps; with one seed, all see the same clips and
noise in the same order. Generated clips are judged as the stage does (`nas.metrics.evaluation`); the loss is on held-out
clips that neither the search nor the choice after it has seen, at fixed noise and timesteps.

An interrupted benchmark resumes. `--part 0/2` and `--part 1/2` divide the trainings over two processes; a start without it
collects both. OUT belongs to one condition (OUT/condition.json); another one is refused. Writes OUT/placement.csv, a row for each
finished training, and OUT/placement.json, what all of them share.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joint import check_condition

import nas
from nas import checkpoint
from nas.config import build
from nas.data.batches import held_out
from nas.diffusion.losses import validation_loss
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError, NasError
from nas.files import read_json, write_json
from nas.runs.job_config import JobConfig, load_job_config
from nas.runs.record import RunRecord
from nas.spaces import Architecture, SearchSpace
from nas.training import FinetuneConfig, Inputs, SupernetEvaluator, run_stage

NEAR = 0.1
"""Equal latency: within this share of the found architecture's."""
FOUND, RANDOM, PATTERN = "found", "random", "pattern"
UNSEEN = "unseen.json"
"""File in a training's folder with the loss on clips that the search has not seen."""
DRAWS = 10_000
"""Random architectures to draw at most, until enough are at equal latency."""


@dataclass(frozen=True)
class Entry:
    """An architecture of the comparison and what it is: `FOUND`, `RANDOM` or `PATTERN`."""

    name: str
    group: str
    architecture: Architecture

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/scenes"), help="a run of benchmarks/scenes/job.yaml")
    parser.add_argument("--steps", type=int, help="of each training (default: the config's)")
    parser.add_argument("--clips", type=int, help="generated clips to judge (default: the config's)")
    parser.add_argument("--eval-steps", type=int, help="denoising steps of these clips (default: the config's)")
    parser.add_argument("--random", type=int, default=8, help="random architectures at equal latency")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="train every N-th from the I-th on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/placement"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = {"steps": args.steps, "eval_clips": args.clips, "eval_steps": args.eval_steps and (args.eval_steps,)}
    comparison = Comparison(args.run, args.out, args.random, **{k: v for k, v in chosen.items() if v})
    write_json(args.out / "placement.json", comparison.about())
    index, parts = map(int, args.part.split("/"))
    trainings = [(seed, entry) for seed in range(args.seeds) for entry in comparison.entries]
    for seed, entry in trainings[index::parts]:
        comparison.train(entry, seed)
        comparison.collect(args.seeds).to_csv(args.out / "placement.csv", index=False)
    print(comparison.collect(args.seeds).to_string())


class Comparison:
    """The architectures of a run's comparison, and their trainings in `out`.

    Args:
        run: a finished run of `benchmarks/scenes/job.yaml`.
        count: random architectures.
        changes: of the run's config of `finetune`.

    Raises:
        ConfigError: the run is not finished, or `out` has results of another condition.
    """

    def __init__(self, run: Path, out: Path, count: int, **changes: Any) -> None:
        self.run, self.out = run, out
        self.job: JobConfig = load_job_config(run / "config.yaml")
        self.space = SearchSpace.load(run / "space.yaml")
        self.objective = build(Objective, self.job.objective, str(run / "config.yaml"), "objective")
        config = build(FinetuneConfig, self.job.stages["finetune"], str(run / "config.yaml"), "stages.finetune")
        self.config: FinetuneConfig = replace(config, **changes)
        self.cost = nas.CostModel(self.space, nas.LookupTable.load(run / "table.csv"))
        self.budget = nas.Budget.parse(self.job.budget, self.cost.upper_bounds())
        found = self.space.check(Architecture.load(run / "architecture.json"))
        randoms = at_equal_latency(self.space, self.cost, self.budget, found, count)
        self.entries = [
            Entry("found", FOUND, found),
            *(Entry(f"random {number}", RANDOM, arch) for number, arch in enumerate(randoms)),
            *(Entry(name, PATTERN, arch) for name, arch in patterns(self.space).items()),
        ]
        check_condition(
            out,
            run=str(run.resolve()),
            space=self.space.hash,
            budget=self.budget.bounds(),
            architectures={entry.name: entry.architecture.choices for entry in self.entries},
            objective=asdict(self.objective),
            **{name: value for name, value in asdict(self.config).items() if name != "seed"},
        )

    def inputs(self, stage: str, architecture: Architecture | None = None) -> Inputs:
        """Inputs of a stage that starts from the run's finished `stage`."""
        checkpoints = self.run / "checkpoints"
        return Inputs(self.space, checkpoints / "decoder", checkpoints / stage, architecture, objective=self.objective)

    def folder(self, entry: Entry, seed: int) -> Path:
        return self.out / f"seed-{seed}" / entry.folder

    def train(self, entry: Entry, seed: int) -> None:
        """Train an architecture alone, judge its clips, and measure its loss on clips that the search has not seen."""
        folder, inputs = self.folder(entry, seed), self.inputs("distill", entry.architecture)
        run_stage("finetune", folder, replace(self.config, seed=seed), inputs)
        if not (folder / UNSEEN).exists():
            latents, contexts = (values[self.seen :] for values in held_out(inputs.decoder, sys.maxsize))
            loss = validation_loss(checkpoint.load(folder).denoiser.eval(), latents, contexts, seed=1)
            write_json(folder / UNSEEN, {"loss": loss, "clips": len(latents)})

    @property
    def seen(self) -> int:
        """Held-out clips that the search and the retraining of its best candidates have scored architectures on."""
        retrain = build(FinetuneConfig, self.job.stages.get("retrain", {}), "config.yaml", "stages.retrain")
        return max(self.job.search.clips, retrain.validation)

    def about(self) -> dict[str, Any]:
        """What all trainings share: the run's autoencoder, budget and candidates, and how the trainings are judged."""
        rng, drawn = np.random.default_rng(0), 1000
        within = sum(self.budget.holds(self.cost.predict(self.space.random(rng))) for _ in range(drawn))
        metrics = read_json(self.run / "checkpoints/decoder/result.json", "stage result")["metrics"]
        config = self.config
        return {
            "torch": torch.__version__,
            "space": self.space.hash,
            "budget": self.job.budget,
            "budget_ms": self.budget.latency_ms,
            "random_within_budget": within / drawn,
            "autoencoder": {name: metrics[name] for name in ("psnr_db", "ssim", "scene_judges") if name in metrics},
            "candidates": [asdict(candidate) for candidate in RunRecord.load(self.run).candidates],
            "training": {"steps": config.steps, "clips_a_step": config.batch, "image_share": config.image_share},
            "judged": {"clips": config.eval_clips, "steps": config.eval_steps, "guidance": config.guidance},
            "unseen_clips": len(held_out(self.run / "checkpoints/decoder", sys.maxsize)[0]) - self.seen,
        }

    def collect(self, seeds: int) -> pd.DataFrame:
        """A row for each finished training, with costs by the lookup table and the loss in the supernet."""
        rows, shared = [], self.supernet_losses()
        for seed in range(seeds):
            for entry in self.entries:
                folder = self.folder(entry, seed)
                if not (folder / UNSEEN).exists():
                    continue
                result, cost = read_json(folder / "result.json", "stage result"), self.cost.predict(entry.architecture)
                quality = result["metrics"]["quality"][0]
                rows.append(
                    {
                        "architecture": entry.name,
                        "group": entry.group,
                        "seed": seed,
                        "steps": self.config.steps,
                        "latency_ms": round(cost.latency_ms, 4),
                        "budget_ms": round(self.budget.latency_ms, 4),
                        "params": cost.params,
                        "supernet_loss": round(shared[entry.name], 5),
                        "scene_accuracy": round(quality["scene_accuracy"], 4),
                        "object_accuracy": round(quality["digit_accuracy"], 4),
                        "direction_accuracy": round(quality["direction_accuracy"], 4),
                        "frechet": round(quality["frechet"], 3),
                        "loss": round(read_json(folder / UNSEEN, "loss")["loss"], 5),
                        "seconds": round(result["seconds"], 1),
                        "choices": " ".join(entry.architecture.choices.values()),
                    }
                )
        return pd.DataFrame(rows)

    def supernet_losses(self) -> dict[str, float]:
        """Each architecture's loss with the supernet's weights, as the search scores it."""
        path = self.out / "supernet.json"
        if not path.exists():
            evaluator = SupernetEvaluator(self.inputs("supernet"), self.job.search.clips)
            scores = evaluator.score_many([entry.architecture for entry in self.entries])
            write_json(path, {entry.name: -score for entry, score in zip(self.entries, scores)})
        return read_json(path, "supernet losses")


def patterns(space: SearchSpace) -> dict[str, Architecture]:
    """The fixed placements by name.

    AnimateDiff (arXiv 2307.04725) has temporal self-attention after every block of every resolution: its version 2 also in
    the middle, which in these spaces is `SelfAttention1D everywhere`; its versions 1 and 3 not in the middle.
    """
    outer = [slot for slot in space.slots if not slot.startswith("mid.")]
    return {
        "Conv1D everywhere": space.architecture(dict.fromkeys(space.slots, "Conv1D")),
        "AnimateDiff v2": space.architecture(dict.fromkeys(space.slots, "SelfAttention1D")),
        "AnimateDiff v1": space.architecture(dict.fromkeys(outer, "SelfAttention1D")),
        "cheapest": space.architecture({}),
    }


def at_equal_latency(
    space: SearchSpace, cost: nas.CostModel, budget: nas.Budget, found: Architecture, count: int
) -> list[Architecture]:
    """Random architectures within the budget whose latency is within `NEAR` of the found one's.

    They are drawn evenly from the space; others are dropped, and so is the found one.

    Raises:
        ConfigError: too few of `DRAWS` are.
    """
    rng, latency = np.random.default_rng(0), cost.predict(found).latency_ms
    chosen: dict[tuple[str, ...], Architecture] = {}
    for _ in range(DRAWS):
        arch = space.random(rng)
        predicted, key = cost.predict(arch), tuple(arch.choices.values())
        near = abs(predicted.latency_ms - latency) <= NEAR * latency
        if near and budget.holds(predicted) and arch.choices != found.choices:
            chosen.setdefault(key, arch)
        if len(chosen) == count:
            return [*chosen.values()]
    raise ConfigError(
        f"only {len(chosen)} of {DRAWS} random architectures are at equal latency; ask for fewer --random"
    )


if __name__ == "__main__":
    try:
        main()
    except NasError as error:
        sys.exit(f"placement.py: {error}")
