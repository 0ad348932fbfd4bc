"""The `litert` runtime on an Android phone over adb: .tflite files timed by LiteRT's `benchmark_model`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.errors import ConfigError, MissingDependency, NasError
from nas.failures import Infeasible
from nas.files import short_hash
from nas.profiling.compile import CompiledWorkload, Compiler
from nas.profiling.digests import file_hash
from nas.profiling.runtimes.android_benchmark import (
    DOWNLOAD_URL,
    Benchmark,
    check,
    parse,
    tool_overhead_mb,
    workload_stats,
)
from nas.profiling.runtimes.base import Runnable, Runtime, Session

FOLDER = "/data/local/tmp/nas"
TOOL = "benchmark_model"
BLOCK_S, WARM_UP_S, TIMEOUT_S = 0.2, 0.2, 900
COOLING_TIMEOUT_S, POLL_S = 600.0, 10.0
"""How long to wait for a throttled phone, and how often its status is read."""
THROTTLED = 1
"""At this thermal status (`LIGHT`) and above, Android slows the chip down."""

PROPERTIES = {
    "manufacturer": "getprop ro.product.manufacturer",
    "model": "getprop ro.product.model",
    "soc": "getprop ro.soc.model",
    "board": "getprop ro.board.platform",
    "abi": "getprop ro.product.cpu.abi",
    "android": "getprop ro.build.version.release",
    "build": "getprop ro.build.fingerprint",
    "governors": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort | uniq -c",
    "max_frequencies_khz": "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq 2>/dev/null | sort -n | uniq -c",
    "battery": "dumpsys battery | grep -E 'powered|level|temperature'",
}
"""Shell commands for a table's provenance."""

_LATENCY = (
    "a sample is the median that benchmark_model reports of one call, 0.2 s of runs after 0.2 s of warm-up; percentiles "
    "are over calls; an operator: half of what two more copies add to a graph of one"
)
_MEMORY = (
    "approximate, to a megabyte: the peak resident set of benchmark_model, less that of a call on the reference workload, "
    "less two copies of the inputs and of the weights; what further copies of an operator add counts with the weights"
)
METHOD = {"delegate": "XNNPACK", "latency": _LATENCY, "memory": _MEMORY, "buffers": "kept"}
"""How a phone is measured, for a table's metadata; `buffers` as in `CostModel.resident_mb`."""


class Adb:
    """One phone over adb.

    Args:
        serial: as `adb devices` lists it; empty if only one is connected.

    Raises:
        MissingDependency: adb is not installed.
        NasError: no phone is connected, several are, or it does not trust this machine.
    """

    def __init__(self, serial: str = "") -> None:
        if shutil.which("adb") is None:
            raise MissingDependency(
                "device 'adb' needs the 'adb' program of Android's platform-tools on the PATH; on this machine use "
                "'nas bundle create --runtime litert', and measure the folder where adb is: see docs/jobs/profile_a_phone.md"
            )
        self.serial = serial
        self._run("start-server")  # the first command would otherwise also print that the server starts
        done = self._run("get-serialno")
        if done.returncode or (self.state() != "device"):
            raise NasError(f"adb{f' -s {serial}' if serial else ''}: {_last_line(done)}; {_devices()}")
        self.serial = done.stdout.strip()

    def state(self) -> str:
        """The state that adb reports, `device` if the phone is ready."""
        return self._run("get-state").stdout.strip()

    def shell(self, command: str, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Exit code and output of a command on the phone.

        Raises:
            NasError: the phone is disconnected.
            Infeasible: the command did not end in time.
        """
        try:
            done = self._run("shell", command, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            self._require_connected()
            raise Infeasible(f"no answer within {timeout_s:.0f} s") from None
        if done.returncode:
            self._require_connected()
        return done.returncode, done.stdout + done.stderr

    def push(self, path: Path, name: str) -> str:
        """Copy a file to the library's folder on the phone, unless the same file exists there.

        Raises:
            NasError: the phone is disconnected or full.
        """
        remote = f"{FOLDER}/{name}"
        _, digest = self.shell(f"mkdir -p {FOLDER}; sha256sum {shlex.quote(remote)}")
        if digest.split(" ")[0] != file_hash(path):
            done = self._run("push", str(path), remote)
            if done.returncode:
                self._require_connected()
                raise NasError(f"adb push {path.name}: {_last_line(done)}; free some space on the phone and run again")
        return remote

    def _require_connected(self) -> None:
        if self.state() != "device":
            raise NasError(
                f"phone '{self.serial}' is disconnected (adb: {_last_line(self._run('get-state'))}); connect it and run the same "
                "command again: finished rows are kept"
            )

    def _run(self, *words: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess:
        command = ["adb", *(["-s", self.serial] if self.serial else []), *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
        except subprocess.TimeoutExpired:
            if words[0] == "shell":
                raise
            raise NasError(
                f"adb {words[0]}: no answer within {timeout_s:.0f} s; run 'adb kill-server' and try again"
            ) from None


class AndroidRuntime(Runtime):
    """LiteRT with XNNPACK on an Android phone's CPU.

    Args:
        device: `adb`, or `adb:SERIAL` where several phones are connected.
        threads: of the interpreter.
        tool: the `benchmark_model` for the phone. If None: `NAS_BENCHMARK_MODEL` of the environment, `benchmark_model` or
            `android_aarch64_benchmark_model` in the current folder, or the one on the phone.

    Raises:
        ConfigError: `tool` does not exist.
        MissingDependency: adb or `benchmark_model` is missing; the message says where to get it.
        NasError: no phone is connected.
    """

    name = "litert"
    block_ms = BLOCK_S * 1e3

    def __init__(self, device: str = "adb", threads: int = 1, tool: str | Path | None = None) -> None:
        self.device, self.threads = device, threads
        self.adb = Adb(device.partition(":")[2])
        self.tool = self._install(find_benchmark_tool(tool))
        self.compiler = Compiler("litert")

    def describe(self) -> dict[str, Any]:
        properties = {name: " ".join(self.adb.shell(command)[1].split()) for name, command in PROPERTIES.items()}
        status, temperatures = self.thermal()
        chip = properties["soc"] or properties["board"] or "unknown chip"
        return {
            "runtime": "litert",
            "version": f"benchmark_model {self.adb.shell(f'sha256sum {self.tool}')[1][:12]}",
            "device": self.device,
            "phone": short_hash(self.adb.serial),
            "chip": f"{properties['manufacturer']} {properties['model']} ({chip}, {properties['abi']})",
            "os": f"Android {properties['android']}",
            "threads": self.threads,
            **{name: properties[name] for name in ("build", "governors", "max_frequencies_khz", "battery")},
            "thermal_status": status,
            "temperatures": temperatures,
            **METHOD,
        }

    def open(self, workload: Runnable | CompiledWorkload) -> Session:
        return AndroidSession(self, self.compiler.package(workload, alone=workload is self.reference))

    @cached_property
    def tool_overhead_mb(self) -> float:
        """Memory of `benchmark_model` itself, in 10^6 bytes."""
        reference = self.compiler.package(self.reference, alone=True)
        return tool_overhead_mb(self.benchmark(self.push(reference.path), 1), reference)

    def push(self, path: Path) -> str:
        """Copy a model to the phone under the hash of its content; its path there."""
        return self.adb.push(path, f"{file_hash(path)[:24]}.tflite")

    def close(self) -> None:
        self.compiler.close()

    def benchmark(self, model: str, runs: int) -> Benchmark:
        """Run the tool on a model on the phone; repeated if the chip was throttled.

        Raises:
            Infeasible: the model cannot run.
            NasError: the phone is disconnected, stays throttled, or cannot run the tool.
        """
        flags = f"--graph={model} --use_xnnpack=true --num_threads={self.threads} --num_runs={runs}"
        flags += f" --min_secs={BLOCK_S} --warmup_runs=1 --warmup_min_secs={WARM_UP_S} --max_secs={TIMEOUT_S / 3:.0f}"
        deadline = time.monotonic() + COOLING_TIMEOUT_S
        while True:
            code, output = self.adb.shell(f"cd {FOLDER} && {self.tool} {flags} 2>&1")
            check(code, output)
            status, temperatures = self.thermal()
            if status < THROTTLED:
                return parse(output)
            while status >= THROTTLED:  # the call does not count
                if time.monotonic() > deadline:
                    raise NasError(
                        f"phone '{self.adb.serial}' stays throttled (thermal status {status}, {temperatures}); let it cool "
                        "down, unplug a fast charger, and run the same command again: finished rows are kept"
                    )
                time.sleep(POLL_S)
                status, temperatures = self.thermal()

    def thermal(self) -> tuple[int, str]:
        """Android's thermal status (0 if it has none), and the temperatures of CPU and skin in degrees Celsius."""
        _, report = self.adb.shell("dumpsys thermalservice")
        status = re.search(r"Thermal Status: (\d+)", report)
        _, _, current = report.partition("Current temperatures from HAL:")
        readings = re.findall(r"mValue=(-?[\d.]+), mType=[03], mName=([^,]+)", current)
        return int(status[1]) if status else 0, ", ".join(f"{name} {float(value):.1f}" for value, name in readings)

    def _install(self, tool: Path | None) -> str:
        if tool is not None:
            remote = self.adb.push(tool, TOOL)
            self.adb.shell(f"chmod 755 {remote}")
            return remote
        for remote in (f"{FOLDER}/{TOOL}", f"/data/local/tmp/{TOOL}"):
            if self.adb.shell(f"test -x {remote}")[0] == 0:
                return remote
        raise MissingDependency(
            f"no '{TOOL}' for the phone: download {DOWNLOAD_URL} and set NAS_BENCHMARK_MODEL to its path, or put it into this folder"
        )


class AndroidSession(Session):
    """One workload. Each block is a call of the tool, in a new process on the phone."""

    def __init__(self, runtime: AndroidRuntime, package: CompiledWorkload) -> None:
        self.runtime, self.package = runtime, package
        self.models = [runtime.push(path) for path in package.files]
        self.stats = workload_stats(package, self._each(1), runtime.tool_overhead_mb)

    def block(self, runs: int) -> list[float]:
        """One sample: the median of the runs that fit into 0.2 s, at least `runs`."""
        calls = self._each(runs)
        if len(calls) == 1:
            return [calls[0].median_ms]
        return [(calls[1].median_ms - calls[0].median_ms) / self.package.copies]

    def close(self) -> None:
        """Nothing to free: the models stay on the phone for the next run."""

    def _each(self, runs: int) -> list[Benchmark]:
        return [self.runtime.benchmark(model, runs) for model in self.models]


def find_benchmark_tool(path: str | Path | None = None) -> Path | None:
    """Path on this machine of the `benchmark_model` for the phone; None if there is none.

    Args:
        path: of the tool; if None, see `AndroidRuntime`.

    Raises:
        ConfigError: the path or NAS_BENCHMARK_MODEL does not exist.
    """
    chosen = path or os.environ.get("NAS_BENCHMARK_MODEL")
    if chosen:
        if not Path(chosen).is_file():
            raise ConfigError(f"{chosen}: no such file; NAS_BENCHMARK_MODEL must name LiteRT's benchmark_model")
        return Path(chosen)
    return next((Path(name) for name in (TOOL, "android_aarch64_benchmark_model") if Path(name).is_file()), None)


def _devices() -> str:
    done = subprocess.run(["adb", "devices"], capture_output=True, text=True)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()[1:] if line.strip()]
    return f"adb lists: {', '.join(lines) or 'no phone'}; allow USB debugging, and name one as --device adb:SERIAL"


def _last_line(done: subprocess.CompletedProcess) -> str:
    text = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return text[-1][:400] if text else f"ended with {done.returncode}"
