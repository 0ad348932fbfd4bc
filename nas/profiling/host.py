"""What this machine is, for a table's provenance."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


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
    """The processor's name, such as `Apple M3` or `AMD EPYC (x86_64)`."""
    name = ""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().split("\n")
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor() or 'unknown'} ({platform.machine()})"


def commit() -> str | None:
    """The library's git commit, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
