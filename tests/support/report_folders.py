"""Run folders to report on: the shapes and files of a real run, with made-up numbers in the table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nas.costs import Calibration, CostModel, LookupTable
from nas.runs.record import Candidate, DenoiserCost, ExportedFile, Preview, RunRecord, StageQuality
from nas.spaces import SearchSpace, Workload

FACTORS = {
    "Backbone": 40.0,
    "SelfAttention1D": 2.0,
    "SelfAttention3D": 6.0,
    "Conv1D": 1.0,
    "Conv3D": 3.5,
    "CrossAttention1D": 2.4,
    "CrossAttention3D": 4.0,
}

CAPTIONS = tuple(
    f"the digit {digit} moves {way}"
    for digit, way in zip(("three", "seven", "zero", "five", "eight", "one"), ("left", "right", "up", "down") * 2)
)
DISTANCES = (
    ("supernet", 25, 31.0),
    ("finetune", 25, 13.9),
    ("finetune", 4, 41.2),
    ("finetune", 1, 85.1),
    ("adversarial", 4, 10.6),
    ("adversarial", 1, 14.5),
    ("control", 4, 38.0),
    ("control", 1, 63.3),
)
STAGES = {
    "decoder": (120, ("loss", "kl", "grad_norm")),
    "distill": (300, ("loss", "grad_norm")),
    "supernet": (400, ("loss", "grad_norm")),
    "retrain-0": (60, ("loss", "grad_norm")),
    "retrain-1": (60, ("loss", "grad_norm")),
    "finetune": (450, ("loss", "val_loss", "grad_norm")),
    "adversarial": (160, ("loss", "pull", "heads_loss", "real", "fake", "grad_norm")),
    "adversarial/control": (160, ("loss", "grad_norm")),
}


def table_of(space: SearchSpace, seed: int = 0) -> LookupTable:
    """A table whose numbers grow with the tensors; not measured anywhere, but shaped like a measured one."""
    rng = np.random.default_rng(seed)
    rows = []
    for workload in space.workloads():
        if isinstance(workload, Workload):
            _, channels, frames, height, width = workload.shape
            tokens, factor = frames * height * width, FACTORS[workload.kind]
        else:
            channels, tokens, factor = 64, 256, 1.0 + rng.random() * 3
        quadratic = tokens / 400 if "3D" in str(workload).split("[")[0] and "Attention" in str(workload) else 1.0
        latency = factor * (0.02 + channels * tokens * 2e-6 * max(quadratic, 1.0)) * rng.uniform(0.9, 1.1)
        params = int(factor * channels**2)
        rows.append(
            {
                "workload": str(workload),
                "latency_ms": latency,
                "memory_mb": factor * channels * tokens * 4e-6,
                "weights_mb": params * 4e-6,
                "params": params,
                "latency_p10_ms": latency * 0.97,
                "latency_p90_ms": latency * 1.06,
                "latency_ci_ms": latency * 0.01,
                "count": int(rng.integers(40, 400)),
                "load_ms": 12.0,
                "source": "measured",
            }
        )
    for workload in filter(None, (space.text_workload(), space.decoder_workload())):
        rows.append({**rows[0], "workload": str(workload), "latency_ms": 3.0})
    meta = {
        "device": "local",
        "chip": "x86-64, 2 cores",
        "os": "Linux",
        "runtime": "eager",
        "version": "2.13.0",
        "dtype": "float32",
        "threads": 2,
        "protocol": {"rounds": 3, "cap_s": 1.0},
        "date": "2026-11-20",
        "commit": "d83080a",
    }
    table = LookupTable.from_frame(pd.DataFrame(rows), meta)
    table.calibration = Calibration(0.96, 0.12)
    return table


def front_of(space: SearchSpace, cost: CostModel, seed: int = 0, most: int = 24) -> pd.DataFrame:
    """The non-dominated ones of some random architectures under a made-up score with diminishing returns."""
    rng = np.random.default_rng(seed)
    worth = {slot: rng.uniform(0.1, 1.0, len(choices)) for slot, choices in space.slots.items()}
    rows = []
    drawn = [space.random(rng) for _ in range(400)]
    costs = cost.predict_many([space.encode(arch) for arch in drawn])[["latency_ms", "memory_mb", "params"]]
    for arch, numbers in zip(drawn, costs.to_dict("records")):
        gain = sum(worth[s][space.slots[s].index(c)] for s, c in arch.choices.items() if c != "none")
        rows.append({**numbers, "score": -0.3 + 0.02 * gain**0.7, **arch.choices})
    frame = pd.DataFrame(rows).drop_duplicates(list(space.slots)).reset_index(drop=True)
    values = frame[["latency_ms", "memory_mb", "params"]].assign(loss=-frame["score"]).to_numpy()
    beaten = [((values <= v).all(1) & (values < v).any(1)).any() for v in values]
    return frame[~np.array(beaten)].head(most).reset_index(drop=True)


def history(columns: tuple[str, ...], steps: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    step = np.arange(1, steps + 1)
    frame = pd.DataFrame({"step": step})
    for i, column in enumerate(columns):
        frame[column] = (0.2 + 0.1 * i) + np.exp(-step / (steps / 5)) + rng.normal(0, 0.03, steps)
    return frame.assign(frames=rng.choice([1, 8], steps))


def gif(path: Path, seed: int, rows: int = 1, columns: int = 6, frames: int = 8) -> Path:
    """Moving blobs, clips of 32x32 side by side with a gray gap, enlarged."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:32, :32]
    starts, ways = rng.uniform(8, 24, (rows, columns, 2)), rng.choice([-1, 1], (rows, columns, 2))
    images = []
    for t in range(frames):
        grid = np.full((rows * 34 - 2, columns * 34 - 2), 128, np.uint8)
        for row, column in np.ndindex(rows, columns):
            down, right = starts[row, column] + ways[row, column] * t
            clip = 255 * np.exp(-((y - down) ** 2 + (x - right) ** 2) / 20)
            grid[row * 34 : row * 34 + 32, column * 34 : column * 34 + 32] = clip
        images.append(Image.fromarray(grid.repeat(2, 0).repeat(2, 1)))
    images[0].save(path, save_all=True, append_images=images[1:], duration=125, loop=0)
    return path


def finished(run: Path, space: SearchSpace | str = "demo", name: str = "demo") -> Path:
    """A run folder with every file of a finished run."""
    space = SearchSpace.load(space) if isinstance(space, str) else space
    run.mkdir(parents=True, exist_ok=True)
    space.save(run / "space.yaml")
    table = table_of(space)
    table.save(run / "table.csv")
    cost = CostModel(space, table)
    front = front_of(space, cost)
    front.to_csv(run / "front.csv", index=False)
    best = front.sort_values("score").iloc[[-4, -2, -6]]
    slots = list(space.slots)
    candidates = []
    for loss, (_, row) in zip((0.2213, 0.2178, 0.2301), best.iterrows()):
        predicted = DenoiserCost(float(row["latency_ms"]), float(row["memory_mb"]), int(row["params"]))
        candidates.append(Candidate(dict(row[slots]), float(row["score"]), predicted, loss, 0.0011))
    winner = candidates[1]
    space.architecture(winner.choices).save(run / "architecture.json")
    (run / "config.yaml").write_text("space: demo\nseed: 0\n")
    previews, quality = [], []
    for i, (model, steps, distance) in enumerate(DISTANCES):
        clip = gif(run / "samples" / model / f"{steps}.gif", seed=i)
        previews.append(Preview(model, steps, CAPTIONS, str(clip.relative_to(run)), ""))
        quality.append(StageQuality(model, steps, distance, 1 - distance / 120, 1 - distance / 150, 80))
    quality.append(StageQuality("real", 0, 1.21, 0.985, 0.991, 256))
    for i, (stage, (steps, columns)) in enumerate(STAGES.items()):
        folder = run / "checkpoints" / stage
        folder.mkdir(parents=True, exist_ok=True)
        history(columns, steps, i).to_csv(folder / "history.csv", index=False)
    predicted = winner.predicted
    RunRecord(
        name=name,
        space=space.name,
        space_hash=space.hash,
        provenance={
            "nas": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.9",
            "machine": "x86-64, 2 cores",
            "config": {"seed": 0},
        },
        budget={
            "latency_ms": predicted.latency_ms * 1.15,
            "memory_mb": predicted.memory_mb * 1.2,
            "params": predicted.params * 1.1,
        },
        step_seconds={
            "profile": 74.2,
            "supernet": 188.0,
            "search": 9.4,
            "finetune": 133.0,
            "adversarial": 140.5,
            "export": 21.0,
        },
        trials=200,
        infeasible_trials=7,
        candidates=tuple(candidates),
        random_scores=tuple(winner.score - gap for gap in (0.021, 0.014, 0.012, 0.017, 0.0145, 0.019, 0.013, 0.016)),
        choices=winner.choices,
        predicted=predicted,
        measured=DenoiserCost(predicted.latency_ms * 1.04, predicted.memory_mb * 0.97, predicted.params),
        quality=tuple(quality),
        previews=tuple(previews),
        exported=(
            ExportedFile("coreml", "export/denoiser.mlpackage", 6.9),
            ExportedFile("recipe", "export/recipe", 0.02),
        ),
    ).save(run)
    return run


def with_few_charts(run: Path) -> Path:
    """Leave the loss of two stages only, since charts take most of a page's time; return the folder."""
    for path in run.glob("checkpoints/**/history.csv"):
        history = pd.read_csv(path)
        path.unlink()
        if path.parent.name in ("finetune", "adversarial"):
            history[["step", "loss"]].to_csv(path, index=False)
    return run


def without_classifier(run: Path) -> None:
    """Make `run` one on a person's own clips: stages measured what they can, and nothing judged generated clips."""
    results = {
        "decoder": {"psnr_db": 24.3, "ssim": 0.81, "videos": 300},
        "finetune": {"validation_loss_before": 0.262, "validation_loss": 0.2118, "quality": []},
        "adversarial": {"quality": {"adversarial": [], "control": []}},
    }
    for stage, metrics in results.items():
        path = run / "checkpoints" / stage / "result.json"
        path.write_text(json.dumps({"config": {}, "metrics": metrics, "seconds": 1.0}))
    dataclasses.replace(RunRecord.load(run), quality=()).save(run)
