"""Compare the time of a whole clip, measured by the native runner of apps/cpp, with the cost model's prediction."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd

from nas.config import build
from nas.costs import Calibration, CostModel, LookupTable
from nas.costs.sources import join_sources
from nas.costs.table import shipped_tables
from nas.errors import ConfigError, MissingDependency, NasError, TableError
from nas.exported import manifest
from nas.exported.app import App, Manifest
from nas.files import read_json
from nas.locks import output_lock
from nas.profiling.runtimes.android import FOLDER, Adb
from nas.spaces import SearchSpace

SCHEMA_VERSION = 1
"""Of the runner's timing file."""
PROMPT = "a cat runs"
REPEATS = 5
"""Clips that the runner times; the medians are compared."""
TIMEOUT_S = 3600.0
PARTS = ("text encoder", "denoiser", "decoder")


@dataclass(frozen=True)
class ClipTimes:
    """The times of one clip in milliseconds, of each run of a model where a model is run several times."""

    text_encoder_ms: float
    denoiser_ms: tuple[float, ...]
    decoder_ms: tuple[float, ...]
    total_ms: float


@dataclass(frozen=True)
class Timing:
    """What a native runner writes with `--timing`.

    Attributes:
        runtime: of the exported models: `litert`, or `coreml` for the timing of apps/ios.
        weights_sha256: of the exported denoiser, as in `export.json`.
        threads: CPU threads of each model; None if the runtime chooses.
        clips: the clips that were made, one after the other; the first may be slower.
        peak_memory_mb: largest resident memory of the process.
    """

    runtime: Literal["litert", "coreml"]
    weights_sha256: str
    clips: tuple[ClipTimes, ...]
    peak_memory_mb: float
    threads: int | None = None


@dataclass(frozen=True)
class ClipReport:
    """Measured and predicted times of a clip.

    Attributes:
        parts: one row each for the text encoder, the denoiser, the decoder and the clip: part, runs (per clip),
            predicted_ms and measured_ms (of one run; of the clip, in all), error (predicted / measured - 1). Predictions
            of parts without rows are NaN.
        calibration: the table's correction that makes the denoiser's prediction equal to its measured time.
        peak_memory_mb: of the runner.
    """

    parts: pd.DataFrame
    calibration: Calibration
    peak_memory_mb: float


def compare_clip(space: SearchSpace, table: LookupTable, folder: str | Path, timing: Timing) -> ClipReport:
    """Compare the medians of a timing with the prediction for the exported architecture.

    Raises:
        ConfigError: the folder has no export for the timing's runtime, or one of another search space.
        TableError: the table is of another runtime or number of threads, or lacks rows.
        NasError: the timing is of another export.
    """
    exported = manifest.read(folder, timing.runtime)
    app = _app(folder, exported, timing.runtime)
    _check(space, table, folder, exported, timing)
    architecture = space.architecture(exported.checkpoint["architecture"])
    sampling = app.sampling
    guidance = sampling.guidance != 1
    cost = CostModel(space, table, estimates=True, steps=len(sampling.steps), guidance=guidance)
    predicted_ms = cost.predict(architecture).latency_ms
    runs = {"text encoder": 1, "denoiser": len(sampling.steps) * (2 if guidance else 1), "decoder": app.decoding.runs}
    predicted = {"denoiser": predicted_ms}
    if cost.predict(architecture).generation_s is not None:
        parts = cost.generation().parts(predicted_ms, join_sources(cost.sources))
        predicted = {part: 1e3 * seconds / runs[part] for part, seconds in zip(parts["part"], parts["seconds"])}
    measured = _medians(timing, runs)
    rows = [(part, runs[part], predicted.get(part, float("nan")), measured[part]) for part in PARTS]
    whole_ms = sum(count * each_ms for _, count, each_ms, _ in rows)
    rows.append(("clip", 1, whole_ms, median(clip.total_ms for clip in timing.clips)))
    frame = pd.DataFrame(rows, columns=["part", "runs", "predicted_ms", "measured_ms"])
    frame["error"] = frame["predicted_ms"] / frame["measured_ms"] - 1
    ratio, known = measured["denoiser"] / predicted_ms, table.calibration or Calibration()
    return ClipReport(frame, Calibration(known.scale * ratio, known.offset_ms * ratio), timing.peak_memory_mb)


def write_calibration(table: LookupTable, report: ClipReport) -> None:
    """Store a report's correction beside the table.

    Raises:
        TableError: the table is a shipped one, is not measured, or cannot be written.
    """
    if table.path is None or table.path in shipped_tables().values():
        raise TableError(f"{table.path}: is a shipped table; copy it with its .meta.json and calibrate the copy")
    if set(table.frame["source"]) != {"measured"}:
        raise TableError(f"{table.path}: only a measured table can be calibrated")
    with output_lock(table.path):
        replace(table, calibration=report.calibration).save(table.path)


def read_timing(path: str | Path) -> Timing:
    """Read what a native runner wrote with `--timing`.

    Raises:
        ConfigError: it is missing or is not a timing.
    """
    values = read_json(Path(path), "timing", dict)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema_version: expected {SCHEMA_VERSION}; time the clip with the runner of this release"
        )
    timing = build(Timing, values, str(path), "timing", ignore_unknown=True)
    times = [ms for clip in timing.clips for ms in (clip.text_encoder_ms, *clip.denoiser_ms, *clip.decoder_ms)]
    if not timing.clips or not all(ms > 0 for ms in times):
        raise ConfigError(f"{path}: clips: needs at least one clip with times above 0; time it again")
    return timing


def time_clip(
    folder: str | Path,
    runner: str | Path,
    device: str = "local",
    threads: int = 1,
    library: str | Path | None = None,
) -> Timing:
    """Run the runner of apps/cpp on an export folder.

    Args:
        runner: the program `nas-clip`, built for the device.
        device: `local`, `adb`, or `adb:SERIAL`.
        library: LiteRT's library for the device; for `local` that of the installed ai-edge-litert by default.

    Raises:
        ConfigError: the runner or the library does not exist, or an unknown device.
        MissingDependency: adb or the library is missing.
        NasError: the runner fails, or the phone is disconnected.
    """
    folder, runner = Path(folder), Path(runner)
    exported = manifest.read(folder, "litert")
    manifest.check_files(folder, exported)
    if not runner.is_file():
        raise ConfigError(f"--runner: {runner}: no such file; build it from apps/cpp, see docs/jobs/run_natively.md")
    if library is not None and not Path(library).is_file():
        raise ConfigError(f"--library: {library}: no such file")
    kind, _, serial = device.partition(":")
    if kind == "adb":
        if library is None:
            raise ConfigError("--library: give libLiteRt.so for the phone, see docs/jobs/run_natively.md")
        return _time_on_phone(folder, exported, runner, Adb(serial), threads, Path(library))
    if device != "local":
        raise ConfigError(f"--device: '{device}' is not supported here; give local, adb or adb:SERIAL")
    return _time_here(folder, runner, threads, Path(library) if library else installed_library())


def installed_library() -> Path:
    """`libLiteRt.so` of the installed ai-edge-litert.

    Raises:
        MissingDependency: it is not installed.
    """
    found = importlib.util.find_spec("ai_edge_litert")
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(
            "ai-edge-litert is not installed; run: pip install 'nas-video[litert]', or give --library"
        )
    return Path(found.submodule_search_locations[0]) / "libLiteRt.so"


def _time_here(folder: Path, runner: Path, threads: int, library: Path) -> Timing:
    with TemporaryDirectory() as temporary:
        command = [str(runner.resolve()), *_options(str(folder), temporary, threads, str(library))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        except OSError as error:
            raise NasError(f"--runner: {runner}: cannot be run on this machine ({error.strerror})") from None
        except subprocess.TimeoutExpired:
            raise NasError(f"--runner: {runner}: did not end within {TIMEOUT_S:.0f} s") from None
        _require_success(done.returncode, done.stderr, runner)
        return read_timing(Path(temporary) / "timing.json")


def _time_on_phone(folder: Path, exported: Manifest, runner: Path, adb: Adb, threads: int, library: Path) -> Timing:
    names = [manifest.MANIFEST, *(file.path for file in exported.files)]
    parents = sorted({(Path("clip/export") / name).parent.as_posix() for name in names})
    adb.shell(f"cd {FOLDER} 2>/dev/null || mkdir -p {FOLDER}; cd {FOLDER} && mkdir -p {shlex.join(parents)}")
    for name in names:
        adb.push(folder / name, f"clip/export/{name}")
    program = adb.push(runner, "clip/nas-clip")
    options = shlex.join(
        _options(f"{FOLDER}/clip/export", f"{FOLDER}/clip", threads, adb.push(library, "clip/libLiteRt.so"))
    )
    code, output = adb.shell(
        f"chmod 755 {program}; rm -f {FOLDER}/clip/timing.json; {program} {options} 2>&1", TIMEOUT_S
    )
    _require_success(code, output, runner)
    _, text = adb.shell(f"cat {FOLDER}/clip/timing.json")
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "timing.json"
        path.write_text(text, encoding="utf-8")
        return read_timing(path)


def _options(folder: str, out: str, threads: int, library: str) -> list[str]:
    values: dict[str, Any] = {
        "--export": folder,
        "--prompt": PROMPT,
        "--out": f"{out}/clip.png",
        "--timing": f"{out}/timing.json",
        "--threads": threads,
        "--repeat": REPEATS,
        "--library": library,
    }
    return [str(word) for pair in values.items() for word in pair]


def _require_success(code: int, output: str, runner: Path) -> None:
    if code:
        lines = output.strip().splitlines() or [f"ended with {code}"]
        raise NasError(f"--runner: {runner.name} failed: {lines[-1][:400]}")


def _check(space: SearchSpace, table: LookupTable, folder: str | Path, exported: Manifest, timing: Timing) -> None:
    if exported.checkpoint["space_hash"] != space.hash:
        raise ConfigError(
            f"{folder}/{manifest.MANIFEST}: was exported from search space '{exported.checkpoint['space']}', not from "
            f"'{space.name}' as it is now; give --space of the export"
        )
    if timing.weights_sha256 != exported.checkpoint["weights_sha256"]:
        raise NasError(f"the timing is of another export than {folder}; time this one")
    runtime = (table.provenance.runtime or "").partition("+")[0]
    if runtime != timing.runtime:
        raise TableError(f"{table.path}: was made by runtime '{runtime}', but the clip was timed with {timing.runtime}")
    threads = table.meta.get("threads")
    if threads is not None and threads != timing.threads:
        raise TableError(
            f"{table.path}: was measured with {threads} threads, but the clip was timed with {timing.threads}; time it with {threads}"
        )


def _app(folder: str | Path, exported: Manifest, name: str) -> App:
    if exported.app is None:
        raise ConfigError(f"{folder}/{manifest.MANIFEST}: its entry '{name}' has no 'app'; export it again")
    return exported.app


def _medians(timing: Timing, runs: dict[str, int]) -> dict[str, float]:
    """By part, the median over the clips and over the runs in each clip.

    Raises:
        ConfigError: a part ran another number of times than `export.json` says.
    """
    for clip in timing.clips:
        counts = {"denoiser": len(clip.denoiser_ms), "decoder": len(clip.decoder_ms)}
        wrong = next((part for part, count in counts.items() if count != runs[part]), None)
        if wrong:
            raise ConfigError(
                f"timing: {wrong} ran {counts[wrong]} times per clip, export.json says {runs[wrong]}; time it again"
            )
    return {
        "text encoder": median(clip.text_encoder_ms for clip in timing.clips),
        "denoiser": median(ms for clip in timing.clips for ms in clip.denoiser_ms),
        "decoder": median(ms for clip in timing.clips for ms in clip.decoder_ms),
    }
