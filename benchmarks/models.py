"""Time and memory at full size: pruning Stable Diffusion's UNet, and decoding clips of increasing length.

    python benchmarks/models.py --out docs/benchmarks/models.md

Each row runs in its own process, to measure its peak memory. Weights are random: time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS = (8, 40, 120)
CHUNK, LATENT = 4, 8


def prune() -> dict:
    """Stable Diffusion v1.5's UNet from a checkpoint folder to snapgen_v's backbone and onto disk."""
    import torch

    import nas
    from nas.models import UNet
    from nas.models.diffusers_checkpoint import save_unet
    from nas.training.prune import prune_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "sd15"
        if not sys.argv[3:]:  # a subprocess writes the checkpoint, whose memory must not count here
            subprocess.run([sys.executable, __file__, "--one", "prune", str(checkpoint)], check=True)
        else:
            with torch.device("meta"):
                unet = UNet(nas.SearchSpace.load("sd15_full").backbone, 4, 768)
            unet.to_empty(device="cpu")
            with torch.no_grad():
                for parameter in unet.parameters():
                    parameter.uniform_(-0.05, 0.05)
            save_unet(unet, Path(sys.argv[3]) / "unet")
            return {}
        before, started = peak_mb(), time.monotonic()
        found = prune_checkpoint(checkpoint, nas.SearchSpace.load("snapgen_v"), Path(folder) / "pruned")
        seconds = time.monotonic() - started
        size = sum(file.stat().st_size for file in (Path(folder) / "pruned").rglob("*") if file.is_file())
    return {
        "seconds": seconds,
        "before_mb": before,
        "peak_mb": peak_mb(),
        "size_mb": size / 1e6,
        "params": [found.total(f"params_{when}") / 1e6 for when in ("before", "after")],
        "gmacs": [found.total(f"macs_{when}") / 1e9 for when in ("before", "after")],
    }


def decode(frames: int, chunk: int) -> dict:
    """A clip through Stable Diffusion's decoder in its separable 3D form, `chunk` frames at a time."""
    import torch

    from nas.models import Autoencoder, VAEConfig, decode_chunks

    torch.manual_seed(0)
    autoencoder = Autoencoder(VAEConfig.stable_diffusion()).eval()
    latents = torch.randn(1, 4, frames, LATENT, LATENT)
    before, started, decoded = peak_mb(), time.monotonic(), 0
    for piece in decode_chunks(autoencoder, latents, frames=chunk):
        decoded += piece.shape[2]  # a caller would write the chunk to a file and free it
    assert decoded == frames
    return {"seconds": time.monotonic() - started, "before_mb": before, "peak_mb": peak_mb()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measured(*what: str) -> dict:
    done = subprocess.run([sys.executable, __file__, "--one", *what], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(prune() if sys.argv[2] == "prune" else decode(*map(int, sys.argv[3:]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a markdown file; default: only print")
    args = parser.parse_args()
    rows = []
    for frames, chunk in [(n, CHUNK) for n in LENGTHS] + [(n, n) for n in LENGTHS[:2]]:
        found = measured("decode", str(frames), str(chunk))
        how = "at once" if chunk == frames else f"{chunk} at a time"
        numbers = (
            f"{found['seconds']:.0f} s | {found['peak_mb']:.0f} MB | {found['peak_mb'] - found['before_mb']:.0f} MB"
        )
        rows.append(f"| {frames} | {how} | {numbers} |")
        print(rows[-1], flush=True)
    text = page(measured("prune"), rows)
    print(text)
    if args.out:
        args.out.write_text(text)


def page(pruned: dict, rows: list[str]) -> str:
    (params, fewer), (gmacs, less) = pruned["params"], pruned["gmacs"]
    return f"""# Models at full size

`python benchmarks/models.py`, one thread of a machine that was not otherwise idle: read times as upper bounds. Each row
is a process of its own; weights are random.

## Pruning Stable Diffusion v1.5's UNet to snapgen_v's backbone

From a checkpoint folder to a checkpoint folder (`nas prune`, channels by weight norm):

| parameters | multiply-adds, one 64x64 latent frame | time | peak memory | written |
| --- | --- | --- | --- | --- |
| {params:.1f}M to {fewer:.1f}M | {gmacs:.1f} to {less:.1f} G | {pruned["seconds"]:.0f} s | {pruned["peak_mb"] / 1e3:.1f} GB | {pruned["size_mb"]:.0f} MB |

## Decoding in chunks

Stable Diffusion's decoder in its separable 3D form, latents of {LATENT}x{LATENT} ({8 * LATENT}x{8 * LATENT} pixels), `decode_chunks`. The last column is
what the decoding added to a process that had the weights in memory already.

| frames | decoded | time | peak memory | of it decoding |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
