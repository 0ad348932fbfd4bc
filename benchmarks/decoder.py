"""The separable video decoder against unfactored ones at 4x temporal compression: fidelity on real clips, and speed.

    python benchmarks/decoder.py --out runs/autoencoders --seeds 3                  # train and evaluate; resumes
    python benchmarks/decoder.py --out runs/autoencoders --runtime litert           # time untrained decoders on LiteRT
    python benchmarks/decoder.py --out runs/autoencoders --memory                   # of decoding clips of two lengths

Each call writes what is there so far to `decoder.json` in --out and prints it as the document's tables. For each seed an
image autoencoder is trained on single frames, then a causal encoder and the separable decoder together from its weights
(`autoencoder_training.py`). That encoder is frozen, and four decoders are trained on its latents. Each starts from the image
decoder's weights and at first repeats what that makes of each latent frame:

    repeat       no temporal part: frames within a latent frame are equal
    separable    a (3,1,1) convolution after each block's second 3x3 one, and (3,1,1) ones that double the frames, as in
                 `nas.models.Autoencoder`
    paired       each such pair is one causal 3x3x3 convolution, after the frames are repeated where they are doubled
    full         every 3x3 convolution is a causal 3x3x3 one: the decoder of a 3D autoencoder

They are trained on the same windows in the same order, with equal numbers of steps and equal learning rates.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from autoencoder_training import (
    CROP,
    FRAMES,
    SAVE_EVERY,
    WIDTHS,
    config,
    evaluate,
    streaming_difference,
    train_image,
    train_video,
)
from decoder_timing import decoding_memory, time_decoders
from real_clips import training_batch
from summaries import MEASURES, over_seeds, spread
from torch.nn import functional as F
from unfactored import DECODERS, FORMS, UNFACTORED, with_decoder

from nas.files import read_json, write_json
from nas.models import Autoencoder
from nas.training.learner import Learner
from nas.training.loop import run
from nas.training.optimization import Optimization

LATENT_CHANNELS = 4
LENGTHS = (5, 40)
"""Latent frames whose decoding is measured for memory: 17 and 157 frames, 8 times the chunks."""


def start(image: Autoencoder, video: Autoencoder) -> Autoencoder:
    """The image autoencoder's decoder, its temporal factors zero, behind the video autoencoder's encoder."""
    autoencoder = copy.deepcopy(image)
    autoencoder.encoder.load_state_dict(video.encoder.state_dict())
    autoencoder.quant_conv.load_state_dict(video.quant_conv.state_dict())
    return autoencoder


def train_decoder(
    folder: Path, started: Autoencoder, kind: str, seed: int, steps: int, batch: int, lr: float
) -> Autoencoder:
    autoencoder = with_decoder(started, kind, "conv3d")  # the faster form to train
    learner = Learner(autoencoder, Optimization(lr=lr), steps, trained=lambda name: name.startswith("decoder."))

    def step(number: int) -> dict[str, float]:
        video = training_batch(2 * seed + 1, number, batch, FRAMES, CROP)
        with torch.no_grad():
            latents = autoencoder.encode_moments(video)[0]
        error = F.mse_loss(autoencoder.decode_unscaled(latents), video)
        return {"loss": error.item(), "grad_norm": learner.update(error, number)}

    name = f"{kind}-{lr:g}-{seed}"
    run(name, folder / name, steps, {"decoder": learner}, step, SAVE_EVERY)
    autoencoder.load_state_dict(learner.ema_state())
    return autoencoder


def collect(out: Path) -> dict:
    """All results in the folder, as `decoder.json` holds them."""
    found = {"widths": WIDTHS, "latent_channels": LATENT_CHANNELS, "crop": CROP, "frames": FRAMES}
    found["torch"] = torch.__version__
    found["fidelity"] = [read_json(path, "fidelity") for path in sorted(out.glob("fidelity-*.json"))]
    found["speed"] = [read_json(path, "speed") for path in sorted(out.glob("speed-*.json"))]
    if (out / "memory.json").exists():
        found["memory"] = read_json(out / "memory.json", "memory")
    return found


def tables(found: dict) -> str:
    """The document's tables."""
    lines = ["| decoder | learning rate | seeds | PSNR | SSIM | PSNR of differences |", "| --- |" + " --- |" * 5]
    rows = {(r["kind"], r["lr"]): [] for r in found["fidelity"]}
    for result in found["fidelity"]:
        rows[result["kind"], result["lr"]].append(result)
    for (kind, lr), results in sorted(rows.items(), key=lambda item: (item[0][1], DECODERS.index(item[0][0]))):
        measured = (over_seeds(results, measure) for measure in MEASURES)
        lines.append(f"| {kind} | {lr:g} | {len(results)} | " + " | ".join(measured) + " |")
    for (kind, lr), results in rows.items():
        against = {result["seed"]: result["clips"]["all"] for result in results}
        separable = {r["seed"]: r["clips"]["all"] for r in rows.get(("separable", lr), [])}
        shared = sorted(against.keys() & separable.keys())
        if kind in UNFACTORED and shared:
            gaps = [separable[seed]["psnr_db"] - against[seed]["psnr_db"] for seed in shared]
            lines.append(f"separable - {kind} at {lr:g}, paired by seed: {spread(gaps, 2)} dB")
    streamed = [r["streaming_difference"] for r in found["fidelity"] if "streaming_difference" in r]
    lines += [f"streaming against whole: at most {max(streamed):.1e}"] if streamed else []
    for speed in found["speed"]:
        about = {key: value for key, value in speed.items() if key != "decoders"}
        lines += ["", str(about)]
        lines += ["| decoder | parameters | GMACs | ms of processor | against separable |", "| --- |" + " --- |" * 4]
        base = speed["decoders"]["separable"]["cpu_ms"]
        for name, v in speed["decoders"].items():
            numbers = f"{v['params'] / 1e6:.2f}M | {v['gmacs']:.2f} | {v['cpu_ms']:.1f} | {v['cpu_ms'] / base:.2f}"
            lines.append(f"| {name} | {numbers} |")
    return "\n".join([*lines, f"memory: {found['memory']}" if "memory" in found else ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=150, help="of each training")
    parser.add_argument("--batch", type=int, default=1, help="windows")
    parser.add_argument("--lr", type=float, default=1e-3, help="of the decoders")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=DECODERS, default=DECODERS)
    parser.add_argument("--runtime", choices=("eager", "litert"), help="time the decoders on it, and train nothing")
    parser.add_argument("--memory", action="store_true", help="measure the memory of decoding, and train nothing")
    parser.add_argument("--widths", nargs=4, type=int, default=WIDTHS, help="of the decoders that are timed")
    parser.add_argument("--side", type=int, default=128, help="of the clips that are timed, in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.memory:
        memory = decoding_memory(config(LATENT_CHANNELS), LENGTHS, args.side)
        write_json(args.out / "memory.json", {"side": args.side, "mb": memory})
    elif args.runtime:
        torch.manual_seed(0)
        untrained, named = Autoencoder(config(LATENT_CHANNELS, tuple(args.widths))), {}
        for kind in args.kinds:
            for form in FORMS if kind in UNFACTORED else FORMS[:1]:
                name = f"{kind} ({form})" if kind in UNFACTORED else kind
                named[name] = with_decoder(untrained, kind, form)
        name = f"{args.runtime}-{'-'.join(map(str, args.widths))}"
        speed = time_decoders(named, FRAMES, args.side, args.rounds, args.runtime, args.threads, args.out / name)
        write_json(args.out / f"speed-{name}.json", {"runtime": args.runtime, "widths": args.widths, **speed})
    else:
        for seed in range(args.seeds):
            train(args.out, seed, args)
    found = collect(args.out)
    write_json(args.out / "decoder.json", found)
    print(tables(found))


def train(out: Path, seed: int, args: argparse.Namespace) -> None:
    """Train and evaluate the decoders that have no result yet."""
    paths = {kind: out / f"fidelity-{kind}-{args.lr:g}-{seed}.json" for kind in args.kinds}
    missing = [kind for kind in args.kinds if not paths[kind].exists()]
    if not missing:
        return
    image = train_image(out, LATENT_CHANNELS, seed, args.steps)
    started = start(image, train_video(out, image, seed, args.steps, args.batch))
    for kind in missing:
        autoencoder = train_decoder(out, started, kind, seed, args.steps, args.batch, args.lr)
        result = {"kind": kind, "seed": seed, "lr": args.lr, "steps": args.steps, "batch": args.batch}
        if kind == "separable":
            result["streaming_difference"] = streaming_difference(autoencoder)
        write_json(paths[kind], {**result, "clips": evaluate(autoencoder)})


if __name__ == "__main__":
    main()
