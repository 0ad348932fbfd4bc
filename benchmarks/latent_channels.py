"""4, 8 and 16 latent channels at equal compression, 8x8 in space and 4x in time: fidelity on real clips, and what they cost.

    python benchmarks/latent_channels.py --out runs/autoencoders --seeds 3          # train and evaluate; resumes

Each call writes what is there so far to `latent_channels.json` in --out and prints it as the document's tables. The video
autoencoders are trained as in `autoencoder_training.py` and differ in nothing but the channels of their latents;
`decoder.py` with the same --out shares the trainings with 4 channels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from autoencoder_training import CROP, FRAMES, WIDTHS, evaluate, train_image, train_video
from summaries import MEASURES, over_seeds

from nas.costs.workload_counts import count_ops
from nas.files import read_json, write_json
from nas.spaces import SearchSpace

CHANNELS = (4, 8, 16)
SPACE = "snapgen_v"


def costs() -> dict[str, dict[str, float]]:
    """Parameters and multiply-adds of the backbone and the decoder's run of `SPACE`, by latent channels."""
    space, found = SearchSpace.load(SPACE), {}
    backbone, decoder = space.backbone_workload(), space.decoder_workload()
    for channels in CHANNELS:
        vae = replace(decoder.part.vae, latent_channels=channels)
        parts = {"denoiser": backbone, "decoder": replace(decoder, part=replace(decoder.part, vae=vae))}
        for name, workload in parts.items():
            shape = (workload.shape[0], channels, *workload.shape[2:])
            counts = count_ops(replace(workload, shape=shape))
            numbers = {f"{name}_params": counts.params, f"{name}_gmacs": counts.flops / 2e9}
            found[str(channels)] = found.get(str(channels), {}) | numbers
    return found


def collect(out: Path) -> dict:
    """All results in the folder, as `latent_channels.json` holds them."""
    found = {"widths": WIDTHS, "crop": CROP, "frames": FRAMES, "torch": torch.__version__}
    found["fidelity"] = [read_json(path, "fidelity") for path in sorted(out.glob("channels-*.json"))]
    found["costs"] = {"space": SPACE, "channels": costs()}
    return found


def tables(found: dict) -> str:
    """The document's tables."""
    lines = ["| channels | seeds | PSNR | SSIM | PSNR of differences |", "| --- |" + " --- |" * 4]
    for channels in CHANNELS:
        results = [r for r in found["fidelity"] if r["latent_channels"] == channels]
        if results:
            measured = (over_seeds(results, measure) for measure in MEASURES)
            lines.append(f"| {channels} | {len(results)} | " + " | ".join(measured) + " |")
    kinds = [f"{part}'s {what}" for part in ("denoiser", "decoder") for what in ("parameters", "GMACs")]
    lines += ["", f"| channels | {' | '.join(kinds)} |", "| --- |" + " --- |" * 4]
    for channels, v in found["costs"]["channels"].items():
        numbers = (f"{v[f'{part}_params'] / 1e6:.3f}M | {v[f'{part}_gmacs']:.2f}" for part in ("denoiser", "decoder"))
        lines.append(f"| {channels} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=150, help="of each of the two trainings")
    parser.add_argument("--batch", type=int, default=1, help="windows")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
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
