"""Measures a bundle of Core ML packages on a Mac that has nothing but Python, numpy and coremltools.

    python measure.py [--device local|iphone[:NAME]] [--compute-unit all|cpu|cpu+gpu|cpu+ne] [--rounds 8]

`nas bundle create` copies this file into every Core ML bundle as `measure.py`, so it imports nothing of the library. What it
measured goes line by line to `results.jsonl`; killed at any moment and started again, it goes on where it was.
`nas bundle collect` makes a lookup table of the lines. The library's own `coreml` runtime times models on a Mac with the same
`Model`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu+gpu": "CPU_AND_GPU", "cpu+ne": "CPU_AND_NE"}
"""Compute units by their names here, as coremltools calls them."""

BLOCK_MS = 200.0
TIMEOUT_S = 1800
REMOTE_RUNS = 5
"""Of a block on an iPhone, where each run is a call over the cable."""

PATIENCE_S, POLL_S = 600.0, 0.2
"""How long an iPhone may take for one call, such as to compile a model, and how often it is asked."""

TOOL = 70
"""Exit status of a visit that ended with a fault of a library or of this machine."""

LOOP = asyncio.new_event_loop()
"""A remote model belongs to the loop that it was loaded in."""


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
    """A package loaded on this Mac or on an iPhone, timed by Core ML itself around each prediction.

    Attributes:
        load_ms: time to load it once.
    """

    def __init__(self, path: str, unit: str, device: Any = None) -> None:
        import coremltools as ct
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        model = ct.models.MLModel(path, compute_units=ct.ComputeUnit[UNITS[unit]], skip_model_load=True)
        self.benchmarker = MLModelBenchmarker(model, device)
        self.inputs = random_inputs(self.benchmarker.model_spec)
        self.folder = tempfile.TemporaryDirectory()
        with temporary_files_in(self.folder.name):
            self.load_ms = LOOP.run_until_complete(self.benchmarker.benchmark_load()).samples[0]

    def predict_ms(self) -> float:
        with temporary_files_in(self.folder.name):
            return LOOP.run_until_complete(self.benchmarker.benchmark_predict(dict(self.inputs))).samples[0]

    def unload(self) -> None:
        """Free it: an iPhone's app has little memory, and the benchmarker keeps what it loaded."""
        model = self.benchmarker._loaded_model
        remote = getattr(model, "_remote_service", None)
        LOOP.run_until_complete(model.unload())
        if remote is not None:
            forget(remote)
        self.folder.cleanup()


@contextlib.contextmanager
def temporary_files_in(folder: str) -> Iterator[None]:
    """coremltools copies a model that goes to a phone, and the inputs of every prediction, to files that nobody deletes. In a
    folder that is known they can be."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def forget(remote: Any) -> None:
    """Delete the outputs of a model on a phone, which coremltools keeps in a folder of its connection."""
    shutil.rmtree(remote._service.socket.working_directory, ignore_errors=True)


class Timer:
    """A workload, loaded: its model, and, for an operator, the model with `copies` more of it."""

    def __init__(self, path: str, several: str | None, copies: int, unit: str, device: Any = None) -> None:
        self.one, self.copies = Model(path, unit, device), copies
        self.several = Model(several, unit, device) if several else None

    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs, or of one more operator in a graph: the difference of a block of each graph."""
        one = self._timed(self.one, runs)
        if self.several is None:
            return one
        return [(ms - base_ms) / self.copies for ms, base_ms in zip(self._timed(self.several, runs), one)]

    def _timed(self, model: Model, runs: int) -> list[float]:
        """Each run's ms; two before them, which wake the chip, do not count."""
        for _ in range(2):
            model.predict_ms()
        return [model.predict_ms() for _ in range(runs)]

    def unload(self) -> None:
        for model in (self.one, self.several):
            if model is not None:
                model.unload()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure this bundle's Core ML packages on this Mac or its iPhone.")
    parser.add_argument("--device", default="local", help="local, iphone or iphone:NAME (default: local)")
    parser.add_argument("--compute-unit", default="all", choices=UNITS)
    parser.add_argument("--rounds", type=int, default=8, help="visits to each workload (default: 8)")
    parser.add_argument("--visit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        changed = changed_files(folder, manifest) if args.visit is None else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        print(
            f"measure.py: manifest.json cannot be read ({type(error).__name__}); pack the bundle again", file=sys.stderr
        )
        return 2
    if changed:
        print(f"measure.py: {changed[0]} is not the file that was packed; pack the bundle again", file=sys.stderr)
        return 2
    if args.visit is not None:
        return print_visit(folder, manifest, args.visit, args.compute_unit)
    if sys.platform != "darwin":
        print("measure.py: Core ML runs on a Mac; copy this folder there and run it again", file=sys.stderr)
        return 2
    try:
        phone = IPhone(args.device.partition(":")[2]) if args.device.startswith("iphone") else None
        return measure(folder, manifest, args.compute_unit, args.rounds, phone)
    except LookupError as error:
        print(f"measure.py: {error.args[0]}", file=sys.stderr)
        return 2
    except (OSError, ImportError, ValueError) as error:
        print(f"measure.py: {error}; run it again, finished visits are kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("measure.py: stopped; run it again and it goes on", file=sys.stderr)
        return 130


def measure(folder: Path, manifest: dict[str, Any], unit: str, rounds: int, phone: IPhone | None = None) -> int:
    """Visit every workload once a round, in another order each; a line per visit."""
    results = folder / "results.jsonl"
    host, before = phone.describe() if phone else describe(), read(results)
    if any((r.get("compute_unit"), r.get("host")) != (unit, host) for r in before):
        print(
            f"measure.py: {results} is of another device or compute unit; use another copy of the bundle",
            file=sys.stderr,
        )
        return 2
    done = {tuple(r["visit"]) for r in before}
    for round_ in range(rounds):
        order = list(range(len(manifest["packages"])))
        random.Random(round_).shuffle(order)
        for index in order:
            if (round_, index) in done:
                continue
            package = manifest["packages"][index]
            command = [sys.executable, str(Path(__file__).resolve()), "--visit", str(index), "--compute-unit", unit]
            found = phone.visit(folder, manifest, index, unit) if phone else in_child(command)
            line = {"bundle": manifest["bundle"], "visit": [round_, index], "workload": package["workload"]}
            append(results, {**line, "compute_unit": unit, "host": host, **found}, manifest["bundle"])
            shown = found.get("error") or f"{statistics.median(found['samples_ms']):.4g} ms"
            print(f"[{round_ + 1}/{rounds}] {package['workload']}: {shown}", flush=True)
    print(f"done: {results}")
    return 0


def visit(folder: Path, manifest: dict[str, Any], index: int, unit: str, device: Any = None) -> dict[str, Any]:
    """Load one workload and the reference, and time a block of each."""
    package = manifest["packages"][index]
    several = str(folder / package["several"]) if package["several"] else None
    timer = Timer(str(folder / package["path"]), several, package["copies"], unit, device)
    most = REMOTE_RUNS if device else 1000
    runs = int(max(3, min(most, BLOCK_MS / max(timer.one.predict_ms(), 1e-3))))
    reference = Timer(str(folder / manifest["reference"]["path"]), None, 0, unit, device)
    before = statistics.median(reference.block(min(10, most)))
    samples = timer.block(runs)
    after = statistics.median(reference.block(min(10, most)))
    timer.unload()
    reference.unload()
    return {"samples_ms": samples, "load_ms": timer.one.load_ms, "reference_ms": max(before, after)}


def print_visit(folder: Path, manifest: dict[str, Any], index: int, unit: str) -> int:
    """Print what a visit found.

    Returns:
        the exit status: 1 if Core ML refuses the workload, `TOOL` if anything else failed, which is not its fault.
    """
    try:
        print(json.dumps(visit(folder, manifest, index, unit)))
        return 0
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[-1][:200]}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError | ValueError | MemoryError) else TOOL


def in_child(command: list[str]) -> dict[str, Any]:
    """What a visit in its own process found; `error` if it crashed, so that one workload cannot end the others.

    Raises:
        LookupError: a library or this Mac failed, which says nothing of the workload.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = (done.stderr.strip().splitlines() or [""])[-1][:200]
    if done.returncode == TOOL:
        raise LookupError(f"{said}; put that right and run it again: finished visits are kept")
    return {"error": f"{'killed by signal' if done.returncode < 0 else 'ended with'} {abs(done.returncode)}: {said}"}


class IPhone:
    """A connected iPhone with Apple's ModelRunner app, which coremltools builds, installs and starts.

    Raises:
        LookupError: none of that name is connected, or the team that signs the app is not known; the text says so.
    """

    def __init__(self, name: str) -> None:
        self.name, self.device = name, None
        if not os.environ.get("DEVELOPMENT_TEAM"):
            raise LookupError("set DEVELOPMENT_TEAM to the identifier of your Apple development team")
        self.prepare()

    def prepare(self) -> None:
        from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

        found = Device.get_connected_devices(DeviceType.IPHONE)
        wanted = [phone for phone in found if self.name in ("", phone.name, phone.identifier)]
        if len(wanted) != 1:
            names = ", ".join(phone.name for phone in found) or "none"
            raise LookupError(f"connected iPhones: {names}; connect and unlock it, name it as --device iphone:NAME")
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / "modelrunner"
        folder.mkdir(parents=True, exist_ok=True)
        be_patient()
        signing = AppSigningCredentials(development_team=os.environ["DEVELOPMENT_TEAM"])
        self.device = LOOP.run_until_complete(wanted[0].prepare_for_model_debugging(signing, folder))

    def visit(self, folder: Path, manifest: dict[str, Any], index: int, unit: str) -> dict[str, Any]:
        """As the function; what fails on the phone is the visit's `error`, and the app is started again."""
        try:
            return visit(folder, manifest, index, unit, self.device)
        except Exception as error:  # whatever coremltools raises when the app refuses, ends or does not answer
            self.prepare()
            said = (str(error).strip().splitlines() or [""])[-1][:200]
            return {"error": f"{type(error).__name__}: {said}"}

    def describe(self) -> dict[str, Any]:
        """The phone, for the table's provenance; its identifier only as a hash."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            subprocess.run(["xcrun", "devicectl", "list", "devices", "-j", file.name], capture_output=True, check=True)
            listed = json.loads(Path(file.name).read_text())["result"]["devices"]
        hardware = next(d["hardwareProperties"] for d in listed if d["identifier"] == self.device.identifier)
        kind = [hardware[key] for key in ("marketingName", "productType") if hardware.get(key)]
        return {
            **describe(),
            "device": "iphone",
            "phone": hashlib.sha256(json.dumps(self.device.identifier).encode()).hexdigest()[:12],
            "chip": ", ".join(kind),
            "os": f"iOS {self.device.os_version} ({self.device.os_build_number})",
        }


def be_patient() -> None:
    """coremltools 9.0 gives a phone ten seconds to compile a model, and does not see that its app ended: it asks
    `session.is_alive` without calling it, which is always true."""
    from coremltools.models.ml_program.experimental import remote_device as remote

    remote._DeviceCtlRemoteService.__init__.__defaults__ = (POLL_S, int(PATIENCE_S / POLL_S))
    remote._DeviceCtlSocket.is_alive = property(lambda socket: socket.device.session.is_alive())


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
