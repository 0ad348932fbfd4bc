"""Properties of this machine: chip, memory and clock for measurements."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.process_memory import listed_bytes, process_bytes
from nas.profiling import cgroups


def describe_host() -> dict[str, Any]:
    """Chip, operating system, cores and current load of this machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "chip": chip(),
        "os": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "load": load and round(load, 2),
    }


def chip() -> str:
    """The processor, such as `Apple M3 (arm64)` or `AMD EPYC, cpu family 26, model 2 (x86_64)`.

    The model numbers are included because a name such as `AMD EPYC` on a virtual machine covers several generations, of
    which one may take twice as long as another.
    """
    name = ""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    elif Path("/proc/cpuinfo").exists():
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.split("\n"))}
        numbers = [
            f"{key} {fields[key]}" for key in ("cpu family", "model", "CPU implementer", "CPU part") if key in fields
        ]
        name = ", ".join(filter(None, [fields.get("model name"), *numbers]))
    return f"{name or platform.processor() or 'unknown'} ({platform.machine()})"


def clock_of(threads: int) -> tuple[str, Callable[[], float]]:
    """Name and function of the clock, in seconds, that times work on `threads` CPU threads.

    One thread is timed by its processor time, so that other programs on the same core do not count. Several threads wait
    for each other, so they are timed by the wall clock.
    """
    return ("thread CPU time", time.thread_time) if threads == 1 else ("wall", time.perf_counter)


def commit() -> str | None:
    """The library's git commit; None if it does not run from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def available_mb() -> float | None:
    """Memory that a new process could allocate, in 10^6 bytes; None if the system does not say.

    The smaller of the machine's free memory and of what the limits of this process's control groups leave (a container's
    or a batch system's, version 1 or 2).
    """
    path = Path("/proc/meminfo")
    free = [listed_bytes(path, "MemAvailable") if path.exists() else None, cgroups.free_bytes()]
    known = [size for size in free if size is not None]
    return min(known) / 1e6 if known else None


def limit_memory() -> float:
    """Limit the memory of this process to what the machine has free, so that it fails before the machine runs out of memory.

    Returns:
        what it may still allocate, in 10^6 bytes; infinite if the system does not say.
    """
    available = available_mb()
    if available is None:
        return math.inf
    import resource

    used = process_bytes("VmData")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + 0.9 * available * 1e6
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), most))
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:  # as 'ulimit -v' sets it
        limit = min(limit, used + space - process_bytes("VmSize"))
    return max(0.0, limit - used) / 1e6
