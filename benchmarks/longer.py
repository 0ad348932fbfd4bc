"""Measures clips longer than the denoiser was trained on, on the models of a finished demo run.

    python benchmarks/longer.py --run runs/digits --out docs/benchmarks/longer

At each multiple of the trained length, clips are denoised in overlapping windows (`nas.diffusion.windows`) and judged by
the demo's digit classifier against held-out real clips of the same length; the digits of real clips move on and on, since
they enter the canvas where they left it. Seams: the mean absolute difference of consecutive frames where a window begins
or ends, relative to that at the other borders of latent frames; once as generated, and once with windows that only abut.
An interrupted benchmark resumes. Writes OUT.json and, from it, the page OUT.md.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from nas import checkpoint
from nas.checkpoint import Checkpoint
from nas.diffusion.predictions import Velocity, guided_velocity_fn
from nas.diffusion.sampling import sample_euler
from nas.diffusion.schedules import sampling_schedule, scale_noise
from nas.diffusion.seeding import generator
from nas.diffusion.windows import window_starts, windowed
from nas.files import read_json, write_atomic, write_json
from nas.metrics.digit_classifier import DigitEvaluator
from nas.metrics.evaluation import DenoiserEvaluator
from nas.models import decode_chunks
from nas.progress import progress

MULTIPLES = (1, 2, 4)
STAGES = ("finetune", "adversarial")
BATCH = 20
"""Clips that are generated at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"), help="a finished run of configs/digits.yaml")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="whose models to measure")
    parser.add_argument("--clips", type=int, default=80, help="generated clips per number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/longer"), help="OUT.json and OUT.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = args.out.with_suffix(".json")
    result = read_json(path, "result") if path.exists() else {"clips": args.clips, "rows": []}
    if result["clips"] != args.clips:
        parser.error(f"{path} has results of {result['clips']} clips; give another --out")
    done = {(row["stage"], row["multiple"]) for row in result["rows"]}
    for stage in args.stages:
        for multiple in MULTIPLES:
            if (stage, multiple) not in done:
                result["rows"].append(measure(args.run / "checkpoints", stage, multiple, args.clips))
                write_json(path, result)
    write_atomic(args.out.with_suffix(".md"), page(result))


def measure(checkpoints: Path, stage: str, multiple: int, clips: int) -> dict[str, Any]:
    """A row of the result: quality, that of the clip's end and of real clips, and seams."""
    loaded, base = checkpoint.load(checkpoints / stage), DenoiserEvaluator(checkpoints / "decoder", clips)
    trained = base.digits.held_out(1)[0].shape[2]
    window = loaded.space.latent.frames
    length = multiple * window
    video = generate(loaded, base, length, windowed)
    digits = DigitEvaluator(base.digits.classifier, video.shape[2])
    row = {
        "stage": stage,
        "steps": loaded.info.steps,
        "multiple": multiple,
        "frames": video.shape[2],
        "seconds": video.shape[2] / loaded.clip.fps,
        **asdict(digits(video, base.labels)),
        "last_part": asdict(base.digits(video[:, :, -trained:], base.labels)),
        "real": dict(zip(("digit_accuracy", "direction_accuracy"), digits.accuracy)),
    }
    if multiple > 1:
        borders = window_borders(length, window, overlapping=True)
        row["seam"] = seam(video, borders, loaded.autoencoder.config.temporal_compression)
        borders = window_borders(length, window, overlapping=False)
        video = generate(loaded, base, length, abutting)
        row["seam_abutting"] = seam(video, borders, loaded.autoencoder.config.temporal_compression)
    return row


def generate(loaded: Checkpoint, base: DenoiserEvaluator, length: int, in_windows: Any) -> Tensor:
    """Clips `(N, 1, F, 32, 32)` of `length` latent frames, one for each of the evaluator's labels.

    Args:
        in_windows: makes a velocity of clips of any length from one of the trained length, as `windowed` does.
    """
    latent, info = loaded.space.latent, loaded.info
    shape = (latent.channels, length, latent.height, latent.width)
    schedule, denoiser = sampling_schedule(loaded.denoiser, info.steps, shape[-2:]), loaded.denoiser.eval()
    parts = []
    for start in progress(range(0, len(base.labels), BATCH), f"{info.stage}, {length} latent frames"):
        context = base.context[start : start + BATCH]
        noise = torch.stack([torch.randn(shape, generator=generator(0, start + i)) for i in range(len(context))])
        velocity = in_windows(guided_velocity_fn(denoiser, context, base.empty, info.guidance), latent.frames)
        latents = sample_euler(velocity, scale_noise(noise, schedule[0]), schedule)
        parts.append(torch.cat(list(decode_chunks(loaded.autoencoder, latents)), dim=2))
    return torch.cat(parts)


def abutting(velocity: Velocity, window: int) -> Velocity:
    """The velocity with windows that do not overlap, which has seams."""
    return lambda x, t: torch.cat([velocity(part, t) for part in x.split(window, dim=2)], dim=2)


def window_borders(length: int, window: int, overlapping: bool) -> list[int]:
    """The latent frames before which a window begins or after which one has ended, without the ends of the clip."""
    starts = window_starts(length, window) if overlapping else range(0, length, window)
    return sorted({border for start in starts for border in (start, start + window) if 0 < border < length})


def seam(video: Tensor, borders: list[int], compression: int) -> dict[str, float]:
    """Mean difference of frames across `borders` over that across all other borders of latent frames.

    Returns:
        `ratio`, the mean over clips, and `half_width` of its 95% interval (Student's t).
    """
    difference = (
        (video[:, :, 1:] - video[:, :, :-1]).abs().mean((1, 3, 4))[:, ::compression]
    )  # [i]: before latent i + 1
    at_border = torch.zeros(difference.shape[1], dtype=torch.bool)
    at_border[torch.tensor(borders) - 1] = True
    ratio = difference[:, at_border].mean(1) / difference[:, ~at_border].mean(1)
    half_width = student.ppf(0.975, len(ratio) - 1) * ratio.std().item() / len(ratio) ** 0.5
    return {"ratio": ratio.mean().item(), "half_width": float(half_width)}


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Clips longer than the model was trained on",
        "",
        "`nas generate --seconds` denoises a clip longer than the trained one in windows of the trained length that overlap",
        "by at least half; their velocities are averaged at every denoising step (`nas/diffusion/windows.py`), so memory does",
        "not grow with the length. `python benchmarks/longer.py --run runs/digits` measures it on its models, "
        f"{result['clips']}",
        "clips a number. Its digits enter the canvas where they left it, so that a real clip of any length moves as its",
        "caption says, and the metrics mean the same at every length: the Frechet distance is to held-out real clips as long as",
        "the generated ones, by the classifier that was trained on clips of the trained length. What it finds in those real",
        "clips is the upper bound of the accuracies. The last part is the clip's last frames, as many as were trained on, judged",
        "by themselves. With data in which motion cannot continue (it ends at a wall, or bounces), accuracy of the direction",
        "would fall with the length whatever the sampler does.",
        "",
        "| model, steps | length | Frechet | digit (real) | direction (real) | last part: digit, direction |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        real, last = row["real"], row["last_part"]
        lines.append(
            f"| {row['stage']}, {row['steps']} | {row['multiple']}x: {row['frames']} frames, {row['seconds']:.1f} s | "
            f"{row['frechet']:.1f} | {row['digit_accuracy']:.2f} ({real['digit_accuracy']:.2f}) | "
            f"{row['direction_accuracy']:.2f} ({real['direction_accuracy']:.2f}) | "
            f"{last['digit_accuracy']:.2f}, {last['direction_accuracy']:.2f} |"
        )
    lines += [
        "",
        "Seams: the mean absolute difference of consecutive frames where a window begins or ends, relative to that at the other",
        "borders of latent frames of the same clip (mean over clips and its 95% interval). 1 means that a border cannot be seen.",
        "For comparison, the same with windows that only abut.",
        "",
        "| model, steps | length | overlapping windows | abutting windows |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        if "seam" in row:
            cells = [f"{row[k]['ratio']:.2f} +- {row[k]['half_width']:.2f}" for k in ("seam", "seam_abutting")]
            lines.append(f"| {row['stage']}, {row['steps']} | {row['multiple']}x | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
