"""Clips out of a denoiser, and what they are worth: used by the stages to measure themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import checkpoint, distributed
from nas.data.digits import LABELS, caption_of
from nas.data.latent_cache import Cache
from nas.diffusion import objective
from nas.diffusion.objective import generator
from nas.files import read_json
from nas.metrics.digit_classifier import Judge, judge
from nas.models import Autoencoder
from nas.progress import progress


@torch.no_grad()
def generate(
    denoiser: nn.Module,
    context: Tensor,
    empty: Tensor,
    shape: tuple[int, int, int, int],
    steps: int,
    guidance: float = 1.0,
    sampler: str = "euler",
    seed: int = 0,
    batch: int = 40,
) -> Tensor:
    """Latents `(B, C, T, h, w)` for contexts `(B, tokens, dim)`; clip i depends on the seed and i alone.

    Args:
        shape: `(C, T, h, w)`.
        sampler: `euler` or `renoise`.
    """
    noise = torch.stack([torch.randn(shape, generator=generator(seed, i)) for i in range(len(context))])
    schedule, done = objective.schedule(denoiser, steps, shape[-2:]), []
    device = next(denoiser.parameters()).device
    noise, context, empty = objective.start(noise, schedule[0]).to(device), context.to(device), empty.to(device)
    for start in range(0, len(context), batch):
        part = slice(start, start + batch)
        velocity = objective.guided(denoiser, context[part], empty, guidance)
        if sampler == "euler":
            done.append(objective.sample_euler(velocity, noise[part], schedule))
        else:
            done.append(objective.sample_renoise(velocity, noise[part], schedule, generator(seed, start, steps)))
    return torch.cat(done).cpu()


class Examiner:
    """Judges a denoiser by the clips it generates for every digit and direction. For moving digits only.

    Args:
        decoder: folder of the finished `decoder` stage.
        clips: how many to generate; a multiple of 40 shows every caption equally often.
    """

    def __init__(self, decoder: Path, clips: int) -> None:
        about = read_json(decoder / "data.json", "data", dict)
        self.judge: Judge = judge(decoder, about["frames"], about["classifier_steps"], about["seed"])
        self.autoencoder: Autoencoder = checkpoint.load_autoencoder(decoder)
        cache = Cache(decoder / "train")
        self.labels = torch.tensor([LABELS[i % len(LABELS)] for i in range(clips)])
        self.context = cache.contexts([caption_of(label) for label in self.labels.tolist()])
        self.empty = cache.empty

    def __call__(
        self, denoiser: nn.Module, shape: tuple[int, int, int, int], steps: int, guidance: float
    ) -> dict[str, Any]:
        """`steps`, and the fields of `Quality`."""
        was_training = denoiser.training
        denoiser.eval()
        latents = generate(denoiser, self.context, self.empty, shape, steps, guidance)
        denoiser.train(was_training)
        clips = torch.cat([self.autoencoder.decode(part) for part in latents.split(40)])
        return {"steps": steps, **asdict(self.judge(clips, self.labels))}


def examine(
    title: str,
    folder: Path,
    decoder: Path,
    denoiser: nn.Module,
    shape: tuple[int, int, int, int],
    steps: tuple[int, ...],
    guidance: float,
    clips: int,
) -> list[dict[str, Any]]:
    """Quality at each number of steps; none for data that is not moving digits. Kept in the folder as it is measured."""
    if not distributed.is_main() or read_json(decoder / "data.json", "data", dict)["data"] != "digits":
        return []
    examiner, path = Examiner(decoder, clips), folder / f"quality-{title}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for count in progress(steps[len(found) :], f"judge {title}", len(steps), len(found)):
        found.append(examiner(denoiser, shape, count, guidance))
        with path.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
    return found
