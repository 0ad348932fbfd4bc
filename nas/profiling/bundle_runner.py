"""Measures a bundle of Core ML packages on a Mac that has nothing but Python, numpy and coremltools.

    python measure.py [--compute-unit all|cpu|cpu+gpu|cpu+ne] [--rounds 8]

`nas pack` copies this file into every Core ML bundle as `measure.py`, so it imports nothing of the library. What it
measured goes line by line to `results.jsonl`; killed at any moment and started again, it goes on where it was.
`nas collect` makes a lookup table of the lines. The library's own `coreml` runtime times models on a Mac with the same
`Model`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu+gpu": "CPU_AND_GPU", "cpu+ne": "CPU_AND_NE"}
"""Compute units by their names here, as coremltools calls them."""

BLOCK_MS = 200.0
TIMEOUT_S = 1800


def random_inputs(spec: Any) -> dict[str, Any]:
    """Random arrays for every input of a Core ML program, of the types that it declares."""
    import numpy as np

    stream, inputs = np.random.default_rng(0), {}
    for feature in spec.description.input:
        kind = feature.type.multiArrayType
        name = kind.ArrayDataType.Name(kind.dataType)
        dtype = {"FLOAT16": np.float16, "FLOAT32": np.float32, "DOUBLE": np.float64, "INT32": np.int32}[name]
        shape = tuple(kind.shape)
        values = stream.integers(0, 1000, shape) if dtype == np.int32 else stream.standard_normal(shape)
        inputs[feature.name] = values.astype(dtype)
    return inputs


class Model:
    """A package loaded on this Mac, timed by Core ML itself around each prediction.

    Attributes:
        load_ms: time to load it once.
    """

    def __init__(self, path: str, unit: str) -> None:
        import coremltools as ct
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        model = ct.models.MLModel(path, compute_units=ct.ComputeUnit[UNITS[unit]], skip_model_load=True)
        self.benchmarker = MLModelBenchmarker(model)
        self.inputs = random_inputs(self.benchmarker.model_spec)
        self.load_ms = asyncio.run(self.benchmarker.benchmark_load()).samples[0]

    def predict_ms(self) -> float:
        return asyncio.run(self.benchmarker.benchmark_predict(dict(self.inputs))).samples[0]


class Timer:
    """A workload on this Mac: its model, and, for an operator, the model with `copies` more of it."""

    def __init__(self, path: str, several: str | None, copies: int, unit: str) -> None:
        self.one, self.copies = Model(path, unit), copies
        self.several = Model(several, unit) if several else None
        self.run_ms()

    def run_ms(self) -> float:
        """Latency of one run, or of one more operator in a graph."""
        if self.several is None:
            return self.one.predict_ms()
        return (self.several.predict_ms() - self.one.predict_ms()) / self.copies

    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs; the one before them, which wakes the chip, does not count."""
        self.run_ms()
        return [self.run_ms() for _ in range(runs)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure this bundle's Core ML packages on this Mac.")
    parser.add_argument("--compute-unit", default="all", choices=UNITS)
    parser.add_argument("--rounds", type=int, default=8, help="visits to each workload (default: 8)")
    parser.add_argument("--visit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text())
    if args.visit is not None:
        print(json.dumps(visit(folder, manifest, args.visit, args.compute_unit)))
        return 0
    if sys.platform != "darwin":
        print("measure.py: Core ML runs on a Mac; copy this folder there and run it again", file=sys.stderr)
        return 2
    return measure(folder, manifest, args.compute_unit, args.rounds)


def measure(folder: Path, manifest: dict[str, Any], unit: str, rounds: int) -> int:
    """Visit every workload once a round, in another order each; a line per visit."""
    results, changed = folder / "results.jsonl", changed_files(folder, manifest)
    if changed:
        print(f"measure.py: {changed[0]} is not the file that was packed; pack the bundle again", file=sys.stderr)
        return 2
    done = {(r["visit"][0], r["visit"][1]) for r in read(results) if r.get("compute_unit") == unit and "visit" in r}
    host = describe()
    for round_ in range(rounds):
        order = list(range(len(manifest["packages"])))
        random.Random(round_).shuffle(order)
        for index in order:
            if (round_, index) in done:
                continue
            package = manifest["packages"][index]
            command = [sys.executable, str(Path(__file__).resolve()), "--visit", str(index), "--compute-unit", unit]
            found = in_child(command)
            line = {"bundle": manifest["bundle"], "visit": [round_, index], "workload": package["workload"]}
            append(results, {**line, "compute_unit": unit, "host": host, **found}, manifest["bundle"])
            shown = found.get("error") or f"{statistics.median(found['samples_ms']):.4g} ms"
            print(f"[{round_ + 1}/{rounds}] {package['workload']}: {shown}", flush=True)
    print(f"done: {results}")
    return 0


def visit(folder: Path, manifest: dict[str, Any], index: int, unit: str) -> dict[str, Any]:
    """Load one workload and the reference, and time a block of each."""
    package = manifest["packages"][index]
    several = str(folder / package["several"]) if package["several"] else None
    timer = Timer(str(folder / package["path"]), several, package["copies"], unit)
    runs = int(max(3, min(1000, BLOCK_MS / max(timer.one.predict_ms(), 1e-3))))
    reference = Timer(str(folder / manifest["reference"]["path"]), None, 0, unit)
    before = statistics.median(reference.block(10))
    samples = timer.block(runs)
    after = statistics.median(reference.block(10))
    return {"samples_ms": samples, "load_ms": timer.one.load_ms, "reference_ms": max(before, after)}


def in_child(command: list[str]) -> dict[str, Any]:
    """What a visit in its own process found; `error` if it crashed, so that one workload cannot end the others."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = (done.stderr.strip().splitlines() or [""])[-1][:200]
    return {"error": f"{'killed by signal' if done.returncode < 0 else 'ended with'} {abs(done.returncode)}: {said}"}


def describe() -> dict[str, Any]:
    """This Mac, for the table's provenance."""
    import importlib.metadata

    brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
    chip = subprocess.run(brand, capture_output=True, text=True).stdout.strip() if sys.platform == "darwin" else ""
    version = importlib.metadata.version("coremltools")
    return {"chip": chip or platform.machine(), "os": f"macOS {platform.mac_ver()[0]}", "version": version}


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Files of the manifest that are missing or not what was packed."""
    return [name for name, digest in manifest["files"].items() if file_hash(folder / name) != digest]


def file_hash(path: Path) -> str:
    """SHA-256 of a file; empty if there is none."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def seal(line: dict[str, Any], bundle: str) -> str:
    """A digest by which an edited line, or one of another bundle, is known."""
    text = json.dumps({k: v for k, v in line.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(f"{bundle}\n{text}".encode()).hexdigest()


def append(path: Path, line: dict[str, Any], bundle: str) -> None:
    """Add a line to the results; it is on the disk when this returns."""
    repair(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "digest": seal(line, bundle)}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def repair(path: Path) -> None:
    """Drop a last line that was being written when the power went."""
    if path.exists():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end != len(whole):
            os.truncate(path, end)


def read(path: Path) -> list[dict[str, Any]]:
    """The results so far, without a torn last line."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


if __name__ == "__main__":
    sys.exit(main())
