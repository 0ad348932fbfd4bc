"""4, 8 and 16 latent channels at equal compression, 8x8 in space and 4x in time: fidelity on real clips, and what they cost.

    python benchmarks/latent_channels.py --out runs/autoencoders --seeds 3          # train and evaluate; resumes
    python benchmarks/latent_channels.py --out runs/autoencoders --runtime litert   # time untrained decoders on LiteRT

Each call writes what is there so far to `latent_channels.json` in --out and prints it as the document's tables. The video
autoencoders are trained as in `autoencoder_training.py` and differ in nothing but the channels of their latents;
`decoder.py` with the same --out shares the trainings with 4 channels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from autoencoder_training import CROP, FRAMES, WIDTHS, config, evaluate, train_image, train_video
from decoder_timing import time_decoders
from summaries import MEASURES, over_seeds

from nas.costs.workload_counts import count_ops
from nas.files import read_json, write_json
from nas.models import Autoencoder
from nas.spaces import SearchSpace

CHANNELS = (4, 8, 16)
SPACE = "snapgen_v"


def denoiser_costs() -> dict[str, dict[str, float]]:
    """Of the backbone of `SPACE`, by latent channels: only its first and last convolution differ."""
    space, found = SearchSpace.load(SPACE), {}
    for channels in CHANNELS:
        shape = (space.batch, channels, *space.input_shape()[2:])
        counts = count_ops(replace(space.backbone_workload(), shape=shape))
        found[str(channels)] = {"params": counts.params, "gmacs": counts.flops / 2e9}
    return found


def collect(out: Path) -> dict:
    """All results in the folder, as `latent_channels.json` holds them."""
    found = {"widths": WIDTHS, "crop": CROP, "frames": FRAMES, "torch": torch.__version__}
    found["fidelity"] = [read_json(path, "fidelity") for path in sorted(out.glob("channels-*.json"))]
    found["denoiser"] = {"space": SPACE, "channels": denoiser_costs()}
    for part in ("channels_speed-eager", "channels_speed-litert"):
        if (out / f"{part}.json").exists():
            found[part] = read_json(out / f"{part}.json", part)
    return found


def tables(found: dict) -> str:
    """The document's tables."""
    lines = ["| channels | seeds | PSNR | SSIM | PSNR of differences |", "| --- |" + " --- |" * 4]
    for channels in CHANNELS:
        results = [r for r in found["fidelity"] if r["latent_channels"] == channels]
        if results:
            measured = (over_seeds(results, measure) for measure in MEASURES)
            lines.append(f"| {channels} | {len(results)} | " + " | ".join(measured) + " |")
    lines += ["", "| channels | denoiser's parameters | its GMACs |", "| --- | --- | --- |"]
    for channels, costs in found["denoiser"]["channels"].items():
        lines.append(f"| {channels} | {costs['params'] / 1e6:.3f}M | {costs['gmacs']:.2f} |")
    for runtime in ("eager", "litert"):
        for channels, v in found.get(f"channels_speed-{runtime}", {"decoders": {}})["decoders"].items():
            numbers = f"{v['params'] / 1e6:.3f}M | {v['gmacs']:.3f} GMACs | {v['cpu_ms']:.1f} ms of processor"
            lines.append(f"{runtime}, {channels} channels: {numbers}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=150, help="of each of the two trainings")
    parser.add_argument("--batch", type=int, default=1, help="windows")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runtime", choices=("eager", "litert"), help="time the decoders on it, and train nothing")
    parser.add_argument("--side", type=int, default=128, help="of the clips that are timed, in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.runtime:
        torch.manual_seed(0)
        named = {str(channels): Autoencoder(config(channels)) for channels in CHANNELS}
        speed = time_decoders(named, FRAMES, args.side, args.rounds, args.runtime, args.threads)
        write_json(args.out / f"channels_speed-{args.runtime}.json", speed)
    for seed in range(0 if args.runtime else args.seeds):
        for channels in CHANNELS:
            path = args.out / f"channels-{channels}-{seed}.json"
            if not path.exists():
                image = train_image(args.out, channels, seed, args.steps)
                autoencoder = train_video(args.out, image, seed, args.steps, args.batch)
                result = {"latent_channels": channels, "seed": seed, "steps": args.steps, "batch": args.batch}
                write_json(path, {**result, "clips": evaluate(autoencoder)})
    found = collect(args.out)
    write_json(args.out / "latent_channels.json", found)
    print(tables(found))


if __name__ == "__main__":
    main()
