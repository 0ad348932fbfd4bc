"""What it takes to convert a full-size denoiser: time, peak memory and size, each format in a process of its own.

    python benchmarks/export.py --space snapgen_v --out docs/benchmarks/export.md
    python benchmarks/export.py --only "LiteRT, float32" --out docs/benchmarks/export.md

Weights are random, those too that start at zero: equal tensors would be stored once and the package be too small.
Rows of the page that are not measured now are kept. LiteRT's converter wants an environment of its own (it changes
versions that others need): `pip install torch==2.13.0 numpy==2.3.5 litert-torch pandas pyyaml safetensors tqdm`.
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

LITERT = "LiteRT, float32"
VARIANTS = {
    "Core ML, iOS 17, float16": {"target": "iOS17", "bits": None},
    "Core ML, iOS 18, float16": {"target": "iOS18", "bits": None},
    "Core ML, iOS 17, palettized 8 bit": {"target": "iOS17", "bits": 8},
    "Core ML, iOS 17, palettized 6 bit": {"target": "iOS17", "bits": 6},
    LITERT: {},
}


def full_size(space_name: str) -> tuple:
    """The space, the architecture, its denoiser with random weights, and example inputs."""
    import torch

    import nas

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
    return space, arch, model, inputs


def to_package(space_name: str, target: str, bits: int | None) -> dict[str, float]:
    """Build, convert, save and check one package; runs in its own process, so that its peak memory is its own."""
    from nas.conversion.convert import to_coreml
    from nas.conversion.palettize import palettize
    from nas.export import operations, packages

    space, arch, model, inputs = full_size(space_name)
    params = sum(p.numel() for p in model.parameters())
    started = time.monotonic()
    package = to_coreml(model, inputs, "velocity", target, float32=("timestep",))
    converted = time.monotonic()
    if bits is not None:
        package = palettize(package, bits)
    palettized = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = packages.save(package, Path(folder) / "denoiser.mlpackage")
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        counts = operations.of_package(packages.read_package(path))
    difference = operations.difference(operations.of_architecture(space, arch), counts)
    assert not difference, difference
    peak = peak_bytes()
    return {
        "params": params,
        "convert_s": converted - started,
        "with": versions("torch", "coremltools"),
        "palettize_s": palettized - converted,
        "peak_mb": peak / 1e6,
        "size_mb": size / 1e6,
    }


def to_tflite(space_name: str) -> dict[str, float]:
    """Convert and save one LiteRT model, then run it here and compare it with torch."""
    import torch

    from nas.conversion.convert import to_litert
    from nas.export.litert_models import TOLERANCES, litert_error
    from nas.export.samples import Sample

    _, _, model, inputs = full_size(space_name)
    params = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        path = to_litert(model, inputs, Path(folder) / "denoiser.tflite")
        seconds, peak = time.monotonic() - started, peak_bytes()
        size = path.stat().st_size
        print(
            f"converted in {seconds:.0f} s, peak {peak / 1e9:.1f} GB, {size / 1e6:.0f} MB", file=sys.stderr, flush=True
        )
        with torch.inference_mode():
            expected = model(**inputs)
        outputs = {"velocity": expected}
        error = litert_error(path, [Sample(inputs, outputs, outputs)])
    assert error <= TOLERANCES["float32"], error
    return {
        "params": params,
        "convert_s": seconds,
        "with": versions("torch", "litert-torch"),
        "palettize_s": 0.0,
        "peak_mb": peak / 1e6,
        "size_mb": size / 1e6,
        "error": error,
    }


def versions(*packages: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in packages)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="snapgen_v")
    parser.add_argument("--out", type=Path, help="a markdown file; default: only print")
    parser.add_argument("--only", choices=VARIANTS, help="one variant")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        found = to_tflite(args.space) if args.one == LITERT else to_package(args.space, **VARIANTS[args.one])
        print(json.dumps(found))
        return
    rows = kept_rows(args.out)
    for name in VARIANTS:
        if args.only not in (None, name):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--space", args.space, "--one", name], capture_output=True, text=True
        )
        print(done.stderr[-2000:], file=sys.stderr)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            rows[name] = f"| {name} | failed: {reason} | | | | | | |"
        else:
            found = json.loads(done.stdout.splitlines()[-1])
            numbers = [f"{found['params'] / 1e6:.1f}M", f"{found['convert_s']:.0f} s", f"{found['palettize_s']:.0f} s"]
            numbers += [f"{found['peak_mb'] / 1e3:.1f} GB", f"{found['size_mb']:.0f} MB"]
            numbers += [
                f"ran here, differs from torch by {found['error']:.1e}" if "error" in found else "operations",
                found["with"],
            ]
            rows[name] = f"| {name} | {' | '.join(numbers)} |"
        print(rows[name], flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(page(args.space, [rows[name] for name in VARIANTS if name in rows]))


def kept_rows(path: Path | None) -> dict[str, str]:
    """The rows of an earlier page, by variant."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return {name: line for line in lines for name in VARIANTS if line.startswith(f"| {name} |")}


def page(space: str, rows: list[str]) -> str:
    return f"""# Converting a full-size denoiser

`python benchmarks/export.py --space {space}` on {platform.machine()}; two layers ({" and ".join(CHOICES)}) at every site, random
weights, one thread of a machine that was not otherwise idle: read the times as upper bounds. Peak memory is that of the whole process, the torch
model included. Checked: of a Core ML package the operations were read back and compared with the architecture's; the
LiteRT model was run and compared with torch. Whether a phone compiles and runs them was not tried: that takes a phone,
and for Core ML a Mac.

| format | parameters | conversion | palettisation | peak memory | size | checked | with |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
