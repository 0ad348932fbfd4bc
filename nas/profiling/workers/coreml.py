"""What runs inside a child of the `coreml` runtime on a Mac: one workload, loaded, timed by Core ML itself."""

from __future__ import annotations

from pathlib import Path

from nas.conversion.convert import coremltools, quiet
from nas.profiling.bundles.runner import Timer
from nas.profiling.runtimes.base import refusal

_timer: Timer | None = None


def load(path: Path, several: Path | None, copies: int, unit: str) -> float:
    """Load a workload of this process.

    Returns:
        the time to load it once, in ms.

    Raises:
        Infeasible: Core ML refuses it.
        ToolError: something else failed.
    """
    global _timer
    coremltools()
    try:
        with quiet():
            _timer = Timer(str(path), str(several) if several else None, copies, unit)
    except Exception as error:
        raise refusal("Core ML cannot load it", error) from None
    return _timer.one.load_ms


def block(runs: int) -> list[float]:
    """Latencies in ms of `runs` runs of what was loaded. Raises as `load`."""
    try:
        return _timer.block(runs)
    except Exception as error:
        raise refusal("Core ML cannot run it", error) from None
