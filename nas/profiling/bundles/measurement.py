"""Measure a bundle by this library's protocol on a device that is attached to this machine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.costs import Row
from nas.costs.provenance import COMPARABLE_KEYS
from nas.errors import ConfigError, TableError
from nas.locks import output_lock
from nas.profiling import runtimes
from nas.profiling.bundles.bundle import RESULTS, Bundle
from nas.profiling.bundles.results import RowLine, package_hash, results
from nas.profiling.digests import append_line
from nas.profiling.measuring import Progress, measure_all
from nas.profiling.protocol import Protocol
from nas.profiling.runtimes.base import Runtime

DEVICES = {"coreml": "local", "litert": "adb", "web": "local"}
"""Default devices."""


def measure(
    folder: str | Path,
    device: str | None = None,
    protocol: Protocol | None = None,
    progress: bool = True,
    runtime: str | Runtime | None = None,
    **options: Any,
) -> int:
    """Measure a bundle; each finished row is a line of its `results.jsonl`, synced to the disk. Resumes when run again.

    Args:
        folder: the bundle.
        device: of the bundle's runtime: `adb[:SERIAL]` or `local` for litert, `local` or `iphone[:NAME]` for coreml.
        runtime: by default the bundle's; or a runtime object.
        options: for the runtime, such as `threads` or `compute_unit`.

    Returns:
        the number of workloads that have a row now.

    Raises:
        ConfigError: the folder is not a bundle, or was changed.
        NasError: the device is missing, or the existing results are of another device.
    """
    bundle = Bundle.load(folder)
    with output_lock(folder, folder=True):
        return _measure(bundle, device, protocol or Protocol(), progress, runtime, options)


def _measure(
    bundle: Bundle,
    device: str | None,
    protocol: Protocol,
    progress: bool,
    runtime: str | Runtime | None,
    options: dict[str, Any],
) -> int:
    name, path = bundle.manifest.runtime, bundle.folder / RESULTS
    lines = [line for line in results(bundle, path) if isinstance(line, RowLine)]
    done = {line.workload for line in lines}
    if bundle.manifest.target:
        options["target"] = bundle.manifest.target
    if name == "litert" and (bundle.folder / "benchmark_model").exists() and (device or "adb").startswith("adb"):
        options.setdefault("tool", bundle.folder / "benchmark_model")
    with runtimes.make(runtime or name, device or DEVICES[name], **options) as chosen:
        host = chosen.describe()
        for key in COMPARABLE_KEYS:
            if lines and lines[0].host.get(key) != host.get(key):
                raise ConfigError(
                    f"{path}: was measured with {key}={lines[0].host.get(key)!r}, now it is {host.get(key)!r}; "
                    "collect it, and measure in another copy of the bundle"
                )
        chosen.reference = bundle.reference
        missing = [package for package in bundle.packages if package.workload not in done]
        bar = Progress(len(bundle.packages), len(done), progress, f"measure {bundle.manifest.space}", chosen.progressed)
        hashes = {package.workload: package_hash(bundle, package.path) for package in bundle.packages}

        def finished(row: Row) -> None:
            line = {"bundle": bundle.id, "row": asdict(row), "package": hashes[row.workload], "host": host}
            try:
                append_line(path, line, bundle.id)
            except OSError as error:
                raise TableError(
                    f"{path}: cannot write row '{row.workload}': {error.strerror}; free some space and run again, "
                    f"the {len(done)} finished rows are kept"
                ) from None
            done.add(row.workload)
            bar.finished(row)

        with closing(bar):
            if missing:
                measure_all(chosen, missing, protocol, finished)
    return len(done)
