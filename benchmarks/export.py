"""What it takes to convert a full-size denoiser: time, peak memory and size, each format in a process of its own.

    python benchmarks/export.py --space snapgen_v --out docs/benchmarks/export.md

Weights are random, those too that start at zero: equal tensors would be stored once and the package be too small.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

CHOICES = ("SelfAttention1D", "CrossAttention1D")
"""The two layers at every site: with them snapgen_v has the 0.6B parameters of the paper."""

VARIANTS = {
    "Core ML, iOS 17, float16": {"target": "iOS17", "bits": None},
    "Core ML, iOS 18, float16": {"target": "iOS18", "bits": None},
    "Core ML, iOS 17, palettised 8 bit": {"target": "iOS17", "bits": 8},
    "Core ML, iOS 17, palettised 6 bit": {"target": "iOS17", "bits": 6},
}


def convert(space_name: str, target: str, bits: int | None) -> dict[str, float]:
    """Build, convert, save and check one package; runs in its own process, so that its peak memory is its own."""
    import torch

    import nas
    from nas.export import operations, packages
    from nas.export.palettise import palettise
    from nas.profiling.convert import to_coreml

    space = nas.SearchSpace.load(space_name)
    arch = space.architecture({slot: CHOICES[int(slot.rpartition("/")[2]) % 2] for slot in space.slots})
    model = nas.models.build(space, arch).eval()
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    inputs = {
        "x": torch.zeros(space.input_shape()),
        "timestep": torch.zeros(1),
        "context": torch.zeros(space.context_shape()),
    }
    params = sum(p.numel() for p in model.parameters())
    started = time.monotonic()
    package = to_coreml(model, inputs, "velocity", target, float32=("timestep",))
    converted = time.monotonic()
    if bits is not None:
        package = palettise(package, bits)
    palettised = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = packages.save(package, Path(folder) / "denoiser.mlpackage")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        found = operations.of_package(packages.read_package(path))
    differs = operations.difference(operations.of_architecture(space, arch), found)
    assert not differs, differs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "params": params,
        "operations": sum(found.values()),
        "convert_s": converted - started,
        "palettise_s": palettised - converted,
        "peak_mb": peak / 1e6,
        "size_mb": size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="snapgen_v")
    parser.add_argument("--out", type=Path, help="a markdown file; default: only print")
    parser.add_argument("--only", choices=VARIANTS, help="one variant")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(convert(args.space, **json.loads(args.one))))
        return
    rows = []
    for name, options in VARIANTS.items():
        if args.only not in (None, name):
            continue
        command = [sys.executable, __file__, "--space", args.space, "--one", json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            rows.append(f"| {name} | failed: {reason} | | | | |")
        else:
            found = json.loads(done.stdout.splitlines()[-1])
            numbers = [f"{found['params'] / 1e6:.1f}M", f"{found['convert_s']:.0f} s", f"{found['palettise_s']:.0f} s"]
            numbers += [f"{found['peak_mb'] / 1e3:.1f} GB", f"{found['size_mb']:.0f} MB"]
            rows.append(f"| {name} | {' | '.join(numbers)} |")
        print(rows[-1], flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(page(args.space, rows))


def page(space: str, rows: list[str]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "coremltools", "numpy"))
    return f"""# Converting a full-size denoiser

`python benchmarks/export.py --space {space}` on {platform.machine()} with {versions}; two layers
({" and ".join(CHOICES)}) at every site, random weights, on a machine that was not otherwise idle: read the times as upper bounds. Peak memory is that of the whole process, the torch model
included; each package's operations were read back and compared with the architecture's. Whether a phone compiles and
runs them was not tried: that takes a Mac.

| format | parameters | conversion | palettisation | peak memory | size |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
