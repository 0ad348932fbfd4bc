"""Measures a bundle of Core ML packages on a Mac with nothing but Python 3.10 or newer, numpy and coremltools.

    python measure.py [--device local|iphone[:NAME]] [--compute-unit all|cpu|cpu+gpu|cpu+ne] [--rounds 8]

`nas bundle create` writes this program and the library modules that it imports into every Core ML bundle as `measure.py`, one file
that does not need the library (see `nas.profiling.bundles.render`). Each measurement is a line of `results.jsonl`. Killed
at any moment and started again, it continues after the last line. `nas bundle collect` makes a lookup table of the lines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.failures import Infeasible, ToolError, framework_error
from nas.profiling.coreml_models import UNITS, GraphTimer, load_on_mac
from nas.profiling.digests import append_line, changed_files, read_lines
from nas.profiling.runtimes.iphone import MAX_RUNS, IPhone, PhoneWorkload

BLOCK_MS = 200.0
VISIT_TIMEOUT_S = 1800
REFUSED, TOOL_FAILED = 1, 70
"""Exit statuses of a visit: Core ML refuses the workload; a library or this machine failed."""


def main() -> int:
    """Measure the bundle that this file is in; the exit status."""
    parser = argparse.ArgumentParser(description="Measure this bundle's Core ML packages on this Mac or its iPhone.")
    parser.add_argument("--device", default="local", help="local, iphone or iphone:NAME (default: local)")
    parser.add_argument("--compute-unit", default="all", choices=UNITS)
    parser.add_argument("--rounds", type=int, default=8, help="visits to each workload (default: 8)")
    parser.add_argument("--visit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        changed = changed_files(folder, manifest["files"]) if args.visit is None else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return _fail(f"manifest.json cannot be read ({type(error).__name__}); pack the bundle again")
    if changed:
        return _fail(f"{changed[0]} was changed after it was packed; pack the bundle again")
    if args.visit is not None:
        return print_visit(folder, manifest, args.visit, args.compute_unit)
    if sys.platform != "darwin":
        return _fail("Core ML runs on a Mac; copy this folder there and run it again")
    try:
        phone = connect(args.device.partition(":")[2]) if args.device.startswith("iphone") else None
        return measure_rounds(folder, manifest, args.compute_unit, args.rounds, phone)
    except NasError as error:
        return _fail(str(error))
    except (OSError, ImportError, ValueError) as error:
        return _fail(f"{error}; run it again, finished visits are kept")
    except KeyboardInterrupt:
        print("measure.py: stopped; run it again to continue", file=sys.stderr)
        return 130


def measure_rounds(folder: Path, manifest: dict[str, Any], unit: str, rounds: int, phone: IPhone | None = None) -> int:
    """Visit every workload once per round, in another order each round; append a line per visit.

    Returns:
        the exit status.
    """
    results = folder / "results.jsonl"
    host, lines = describe(phone), read_lines(results)
    if any((line.get("compute_unit"), line.get("host")) != (unit, host) for line in lines):
        return _fail(f"{results} is of another device or compute unit; use another copy of the bundle")
    done = {tuple(line["visit"]) for line in lines}
    for round_ in range(rounds):
        order = list(range(len(manifest["packages"])))
        random.Random(round_).shuffle(order)
        for index in order:
            if (round_, index) in done:
                continue
            workload = manifest["packages"][index]["workload"]
            if phone:
                result = visit_on_phone(folder, manifest, index, unit, phone)
            else:
                script = str(Path(__file__).resolve())
                result = run_visit([sys.executable, script, "--visit", str(index), "--compute-unit", unit])
            line = {"bundle": manifest["bundle"], "visit": [round_, index], "workload": workload}
            append_line(results, {**line, "compute_unit": unit, "host": host, **result}, manifest["bundle"])
            summary = result.get("error") or f"{statistics.median(result['samples_ms']):.4g} ms"
            print(f"[{round_ + 1}/{rounds}] {workload}: {summary}", flush=True)
    print(f"done: {results}")
    return 0


def visit_on_mac(folder: Path, manifest: dict[str, Any], index: int, unit: str) -> dict[str, Any]:
    """Load one workload and the reference on this Mac, and time a block of each."""
    one, several, copies = _files(folder, manifest["packages"][index])
    timer = load_on_mac(one, several, copies, unit)
    reference = load_on_mac(*_files(folder, manifest["reference"]), unit)
    try:
        return _time_block(timer, reference, 1000)
    finally:
        timer.unload()
        reference.unload()


def visit_on_phone(folder: Path, manifest: dict[str, Any], index: int, unit: str, phone: IPhone) -> dict[str, Any]:
    """The same on an iPhone.

    Returns:
        the times, or the `error` if the phone cannot run the workload.
    """
    with tempfile.TemporaryDirectory() as compiled:
        try:
            timers = []
            for number, entry in enumerate((manifest["packages"][index], manifest["reference"])):
                one, several, copies = _files(folder, entry)
                (place := Path(compiled) / str(number)).mkdir()
                timers.append(PhoneWorkload(phone, [one, several] if several else [one], copies, unit, place))
            with timers[0].on_phone() as timer, timers[1].on_phone() as reference:
                return _time_block(timer, reference, MAX_RUNS)
        except Infeasible as error:
            return {"error": str(error)}


def print_visit(folder: Path, manifest: dict[str, Any], index: int, unit: str) -> int:
    """Print the result of a visit on this Mac as JSON.

    Returns:
        the exit status: `REFUSED` if Core ML refuses the workload, `TOOL_FAILED` if anything else failed.
    """
    try:
        print(json.dumps(visit_on_mac(folder, manifest, index, unit)))
        return 0
    except Exception as error:  # coremltools raises many types
        lines = str(error).strip().splitlines() or [""]
        print(f"{type(error).__name__}: {lines[-1][:200]}", file=sys.stderr)
        return REFUSED if isinstance(framework_error("", error), Infeasible) else TOOL_FAILED


def run_visit(command: list[str]) -> dict[str, Any]:
    """Run a visit in its own process, so that a crash does not end the others.

    Returns:
        the times, or the `error` if the workload crashed or was refused.

    Raises:
        ToolError: a library or this Mac failed, which says nothing about the workload.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VISIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {VISIT_TIMEOUT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    message = (done.stderr.strip().splitlines() or [""])[-1][:200]
    if done.returncode == TOOL_FAILED:
        raise ToolError(f"{message}; fix this and run it again: finished visits are kept")
    return {"error": f"{'killed by signal' if done.returncode < 0 else 'ended with'} {abs(done.returncode)}: {message}"}


def connect(name: str) -> IPhone:
    """The connected iPhone of that name; the app built for it is kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / "modelrunner"
    cache.mkdir(parents=True, exist_ok=True)
    return IPhone(name, cache)


def describe(phone: IPhone | None = None) -> dict[str, Any]:
    """This Mac or the iPhone, for the table's provenance."""
    host = {"version": version("coremltools")}
    if phone is not None:
        return {**host, "device": "iphone", **phone.describe()}
    brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
    chip = subprocess.run(brand, capture_output=True, text=True).stdout.strip() if sys.platform == "darwin" else ""
    return {**host, "chip": chip or platform.machine(), "os": f"macOS {platform.mac_ver()[0]}"}


def _time_block(timer: GraphTimer, reference: GraphTimer, max_runs: int) -> dict[str, Any]:
    """A block of the workload between two of the reference."""
    runs = int(max(3, min(max_runs, BLOCK_MS / max(timer.one.predict_ms(), 1e-3))))
    before = statistics.median(reference.block(min(10, max_runs)))
    samples = timer.block(runs)
    after = statistics.median(reference.block(min(10, max_runs)))
    return {"samples_ms": samples, "load_ms": timer.one.load_ms, "reference_ms": max(before, after)}


def _files(folder: Path, entry: dict[str, Any]) -> tuple[Path, Path | None, int]:
    """Package, package of several copies and number of further copies of an entry of the manifest."""
    return folder / entry["path"], folder / entry["several"] if entry["several"] else None, entry["copies"]


def _fail(message: str) -> int:
    print(f"measure.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
