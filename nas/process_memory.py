"""Memory of this process, as the operating system counts it. Resetting the peak and anonymous memory need Linux."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path


def process_bytes(name: str) -> float:
    """A size of this process in bytes, such as `VmRSS`, from Linux's /proc/self/status."""
    size = listed_bytes(Path("/proc/self/status"), name)
    if size is None:
        raise KeyError(name)
    return size


def listed_bytes(path: Path, name: str) -> float | None:
    """A size from a Linux file of lines `Name: 123 kB`, in bytes; None if it is not listed."""
    lines = path.read_text().splitlines()
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{name}:")), None)


def release_free_memory() -> None:
    """Return freed memory to the system, so that later allocations are seen as growth of the process."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def anonymous_bytes() -> float:
    """Resident memory of this process without the pages of files."""
    return process_bytes("RssAnon") if sys.platform == "linux" else peak_resident_bytes()


def reset_peak() -> float:
    """Resident memory of this process; `peak_resident_bytes` counts from here."""
    if sys.platform != "linux":
        return peak_resident_bytes()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")


def peak_resident_bytes() -> float:
    """Peak resident memory of this process since `reset_peak`; where it cannot be reset, since the process started."""
    if sys.platform == "linux":
        return process_bytes("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
