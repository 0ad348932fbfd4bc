"""Compares joint training with clips only, and with images first, where clips show only a part of what images show.

    python benchmarks/joint_scenes.py --out runs/joint_scenes [--steps 150] [--seeds 5] [--text standardized]
    python benchmarks/joint_scenes.py --tables docs/benchmarks/joint_scenes.json     # the tables of a result file

Scenes of one or two shapes (`scenes/joint.yaml`): clips show half of the combinations of class and color, images show
all. A common start is trained on the clips and on those images that show nothing else (`--start-steps 0`: random weights
of each seed). From it the denoiser is trained on clips only (`video`), on clips and in a share of the steps on all images
(`joint-25`, `joint-50`), and on images only for the first half of the steps, then on clips only (`image-first`). Every step
is of one batch of clips or one of images, with as many images as have the same number of counted operations, so equal
steps are equal compute. Then each model generates clips of two objects, both of combinations that no clip showed, or both
of ones that clips showed.

`--text` is how the text reaches the denoiser, see `TEXT`. The autoencoder is trained first, on clips of all combinations,
and encodes the scenes in OUT/decoder, unless `--decoder` names such a folder. An interrupted benchmark resumes; arms and seeds may be
divided over processes with `--arms` and `--first` once the start is trained, and each process collects all results. OUT
belongs to one condition (OUT/condition.json). Writes OUT/joint_scenes.json and prints its tables with 95% intervals
(Student's t) of the paired differences.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from joint import check_condition, interval
from scene_combinations import MEASURES, SETS, SceneSets, combinations, with_images_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.data.latent_cache import LatentCache
from nas.data.scenes.config import HeldOut
from nas.data.scenes.source import load_config
from nas.diffusion.losses import denoising_loss
from nas.diffusion.predictions import Objective
from nas.errors import NasError
from nas.files import read_json, write_atomic, write_json
from nas.models import Denoiser, build, safetensors_io
from nas.training import DecoderConfig, FinetuneConfig, Inputs, run_stage, states
from nas.training.optimization import Optimization
from nas.training.stages.finetune import train_jointly
from nas.training.stages.prepare import PrepareConfig, prepare

HERE = Path(__file__).resolve().parent
SPACE, DATA = HERE / "scenes/joint_space.yaml", HERE / "scenes/joint.yaml"
TEMPORAL = ("down.1.0", "mid.0", "up.1.0", "up.0.0")
"""Sites with a 3D self-attention over all frames."""
OBJECTIVE = Objective(time_mean=2.0, time_std=1.5)
EMA_HORIZON = 25
"""Steps; the arms are trained for few."""
TRAINING = ("steps", "batch", "image_batch_size", "optimization", "caption_dropout", "guidance")
"""What of the training belongs to a condition."""
COLUMNS = tuple(f"{which}_{measure}" for which in SETS for measure in (*MEASURES, "validation_loss"))
WEIGHTS, START = "denoiser.safetensors", "start"
BASE = "video"
"""The arm that the others are compared with."""


@dataclass(frozen=True)
class TextPath:
    """How the text reaches the denoiser.

    Attributes:
        levels: whose transformers attend to the tokens.
        standardized: whether tokens are standardized over the captions, as `TextEmbedding` does.
        linear: whether a linear layer over all tokens is added to the timestep embedding; needs `standardized`.
    """

    levels: tuple[int, ...]
    standardized: bool
    linear: bool


TEXT = {
    "attention": TextPath((0, 1), standardized=False, linear=False),
    "standardized": TextPath((0, 1), standardized=True, linear=False),
    "both": TextPath((0, 1), standardized=True, linear=True),
    "demo": TextPath((1,), standardized=True, linear=True),
}


class _NoAddend(nn.Module):
    """In place of the linear layer of a `TextEmbedding`, which then only standardizes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.out_features)


@dataclass(frozen=True)
class Arm:
    """A way to spend the steps: `images_first` of them on images alone, then `image_share` of the others."""

    name: str
    image_share: float = 0.0
    images_first: float = 0.0

    def parts(self, steps: int) -> list[tuple[str, int, float]]:
        """Name, steps and share of image steps of each part of the training."""
        first = round(self.images_first * steps)
        found = [("images", first, 1.0), ("train", steps - first, self.image_share)]
        return [part for part in found if part[1]]


ARMS = {
    arm.name: arm
    for arm in (
        Arm(BASE),
        Arm("joint-25", image_share=0.25),
        Arm("joint-50", image_share=0.5),
        Arm("image-first", images_first=0.5),
    )
}


class Setting:
    """What all arms share: the model, and how it is trained.

    Attributes:
        step_gflops: counted operations of a training step on clips, and on images, 1e9.
    """

    def __init__(self, text: str, steps: int, batch: int, lr: float, guidance: float) -> None:
        space, self.text = nas.SearchSpace.load(SPACE), TEXT[text]
        tokens = space.text.tokens if self.text.standardized else 0
        backbone = replace(space.backbone, attention_levels=self.text.levels, text_tokens=tokens)
        self.space = replace(space, backbone=backbone)
        self.arch = self.space.architecture({f"{site}/0": "SelfAttention3D" for site in TEMPORAL})
        clips = self._gflops(batch, self.space.latent.frames)
        images = images_of_equal_compute(clips, self._gflops(1, 1))
        self.step_gflops = {"clips": clips, "images": self._gflops(images, 1)}
        self.config = FinetuneConfig(
            steps, batch, images, 0.0, Optimization(lr=lr, ema_horizon=EMA_HORIZON), guidance=guidance, save_every=250
        )

    def denoiser(self, seed: int) -> Denoiser:
        """With random weights."""
        torch.manual_seed(seed)
        denoiser = build(self.space, self.arch)
        if self.text.standardized and not self.text.linear:
            denoiser.text_embedding.linear = _NoAddend(denoiser.text_embedding.linear)
        denoiser.objective = OBJECTIVE
        return denoiser

    def train(self, folder: Path, arm: Arm, seed: int, decoder: Path, start: Path | None = None) -> Denoiser:
        """The trained denoiser.

        Args:
            start: weights to start from; None: random ones.
        """
        denoiser, path = self.denoiser(seed), folder / WEIGHTS
        if path.exists():
            safetensors_io.load_into(denoiser, path)
            return denoiser
        if start is not None:
            safetensors_io.load_into(denoiser, start)
        elif self.text.standardized:
            denoiser.text_embedding.fit(LatentCache(decoder / "train").all_contexts())
        for name, steps, share in arm.parts(self.config.steps):
            config = replace(self.config, steps=steps, image_share=share, seed=seed)
            learner, _ = train_jointly(f"{arm.name}-{seed}", folder / name, denoiser, decoder, config)
            denoiser = learner.result()
        safetensors_io.save(path, denoiser.state_dict())
        for name, *_ in arm.parts(self.config.steps):
            states.remove(folder / name)
        return denoiser

    def _gflops(self, items: int, frames: int) -> float:
        """Counted operations of a training step on this many clips."""
        denoiser = self.denoiser(0)
        latents = torch.zeros(items, *self.space.input_shape()[1:])[:, :, :frames]
        context = torch.zeros(items, *self.space.context_shape()[1:])
        with FlopCounterMode(display=False) as counter:
            denoising_loss(denoiser, latents, context, latents, torch.full((items,), 0.5)).backward()
        return counter.get_total_flops() / 1e9


def images_of_equal_compute(clip_step: float, image: float) -> int:
    """How many images of a step cost as much as a step of clips."""
    return max(1, round(clip_step / image))


def tables(found: dict[str, Any]) -> str:
    """Means over seeds, and differences to `BASE` paired by seed, as Markdown."""
    rows = pd.DataFrame(found["rows"])
    arms = [name for name in ARMS if name in set(rows["arm"])]
    pivot = rows.pivot(index="seed", columns="arm")
    lines = _table(arms, lambda column, arm: _spread(pivot[column][arm].dropna()))
    others = [f"{arm} - {BASE}" for arm in arms if arm != BASE and BASE in arms]
    if others:
        minus = f" - {BASE}"
        lines += ["", *_table(others, lambda column, title: _difference(pivot[column], title.removesuffix(minus)))]
    return "\n".join(lines)


def _table(titles: Sequence[str], cell) -> list[str]:
    lines = [f"| | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    for column in COLUMNS:
        cells = (cell(column, title) for title in titles)
        lines.append(f"| {column.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} +- {values.std():.3f} ({len(values)})"


def _difference(values: pd.DataFrame, arm: str) -> str:
    mean, half = interval((values[arm] - values[BASE]).dropna())
    return f"{mean:+.3f}, {mean - half:+.3f} to {mean + half:+.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="print the tables of this result file, and do nothing else")
    parser.add_argument("--out", type=Path, default=Path("runs/joint_scenes"))
    parser.add_argument("--text", choices=TEXT, default="standardized")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8, help="clips")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--start-steps", type=int, default=1500, help="of the common start; 0: random weights of each seed"
    )
    parser.add_argument("--start-lr", type=float, default=2e-3)
    parser.add_argument("--start-seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--clips", type=int, default=40, help="generated clips of each set")
    parser.add_argument("--eval-steps", type=int, default=8, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--decoder", type=Path, help="the folder OUT/decoder of another run (default: make one)")
    parser.add_argument("--decoder-steps", type=int, default=800)
    parser.add_argument("--videos", type=int, default=1000, help="clips to encode")
    parser.add_argument("--images", type=int, default=1500, help="images to encode")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.tables:
        return print(tables(read_json(args.tables, "result")))
    torch.set_num_threads(args.threads)
    setting = Setting(args.text, args.steps, args.batch, args.lr, args.guidance)
    args.out.mkdir(parents=True, exist_ok=True)
    check_condition(
        args.out,
        text=args.text,
        space=setting.space.hash,
        architecture=setting.arch.choices,
        scenes=load_config(args.data).to_dict(),
        decoder={name: getattr(args, name) for name in ("decoder_steps", "videos", "images")},
        objective=asdict(OBJECTIVE),
        start={name: getattr(args, f"start_{name}") for name in ("steps", "lr", "seed")},
        clips=args.clips,
        denoising_steps=args.eval_steps,
        **{name: asdict(setting.config)[name] for name in TRAINING},
    )
    decoder = args.decoder or encoded(args)
    sets = SceneSets(decoder, setting.space, args.out, args.clips)
    start = common_start(args, setting, sets, decoder)
    for seed in range(args.first, args.first + args.seeds):
        for arm in args.arms:
            folder = args.out / f"{arm}-{seed}"
            train = partial(setting.train, folder, ARMS[arm], seed, decoder, start)
            measure(args, folder, arm, seed, sets, train)
            found = collect(args, setting, sets)
            write_json(args.out / "joint_scenes.json", found)
    print(tables(found))


def encoded(args: argparse.Namespace) -> Path:
    """The encoded clips and images. The autoencoder is trained on clips of all combinations, so that it favors none."""
    space, everything = nas.SearchSpace.load(SPACE), args.out / "all.yaml"
    write_atomic(everything, yaml.safe_dump(replace(load_config(args.data), held_out=HeldOut()).to_dict()))
    config = DecoderConfig(
        str(everything.resolve()),
        steps=args.decoder_steps,
        image_steps=3 * args.decoder_steps // 4,  # shapes are learned from many different frames
        batch=8,
        videos=1,  # its own latents are not used
        images=0,
        held_out=1,
    )
    decoder = run_stage("decoder", args.out / "autoencoder", config, Inputs(space)).folder
    data = PrepareConfig(str(args.data.resolve()), str(decoder), None, False, args.videos, args.images, held_out=1)
    return prepare(args.out / "decoder", data, space).folder


def common_start(args: argparse.Namespace, setting: Setting, sets: SceneSets, decoder: Path) -> Path | None:
    """Weights of a training on clips and images, half of the steps each, that show only what clips show."""
    if not args.start_steps:
        return None
    folder, first = args.out / START, copy.copy(setting)
    first.config = replace(setting.config, steps=args.start_steps, optimization=Optimization(lr=args.start_lr))
    seen = with_images_of(decoder, args.out / "seen", combinations(sets.config)["seen"])
    train = partial(first.train, folder, ARMS["joint-50"], args.start_seed, seen)
    measure(args, folder, START, args.start_seed, sets, train)
    return folder / WEIGHTS


def measure(
    args: argparse.Namespace, folder: Path, arm: str, seed: int, sets: SceneSets, train: Callable[[], Denoiser]
) -> None:
    """Train and evaluate one model, unless its result exists."""
    if (folder / "result.json").exists():
        return
    values = sets.evaluate(train(), args.eval_steps, args.guidance)
    row = {"arm": arm, "seed": seed, **{name: round(value, 4) for name, value in values.items()}}
    write_json(folder / "result.json", row)
    print(row, flush=True)


def collect(args: argparse.Namespace, setting: Setting, sets: SceneSets) -> dict[str, Any]:
    """The results of all processes, a row for each arm and seed, and what they were measured with."""
    paths = [path for arm in ARMS for path in args.out.glob(f"{arm}-[0-9]*/result.json")]
    start = args.out / START / "result.json"
    rows = sorted((read_json(path, "result") for path in paths), key=lambda row: row["seed"])
    return {
        "condition": read_json(args.out / "condition.json", "condition"),
        "params": sum(parameter.numel() for parameter in setting.denoiser(0).parameters()),
        "training_step_gflops": setting.step_gflops,
        "judges": sets.real(args.out),
        "start": read_json(start, "result") if start.exists() else None,
        "threads": args.threads,
        "torch": torch.__version__,
        "rows": rows,
    }


if __name__ == "__main__":
    try:
        main()
    except NasError as error:
        sys.exit(f"joint_scenes.py: {error}")
