"""Functions that a child process of the `coreml` runtime on a Mac executes: load one workload, and time it."""

from __future__ import annotations

from pathlib import Path

from nas.conversion.libraries import quiet
from nas.failures import framework_error
from nas.profiling.coreml_models import GraphTimer, load_on_mac

_timer: GraphTimer | None = None


def load(path: Path, several: Path | None, copies: int, unit: str) -> float:
    """Load the workload of this process; see `nas.profiling.coreml_models.load_on_mac`.

    Returns:
        the time to load it once, in ms.

    Raises:
        Infeasible: Core ML refuses it.
        ToolError: something else failed.
    """
    global _timer
    try:
        with quiet():
            _timer = load_on_mac(path, several, copies, unit)
    except Exception as error:
        raise framework_error("Core ML cannot load it", error) from None
    return _timer.one.load_ms


def block(runs: int) -> list[float]:
    """Latencies in ms of `runs` runs of the loaded workload. Raises as `load`."""
    try:
        return _timer.block(runs)
    except Exception as error:
        raise framework_error("Core ML cannot run it", error) from None
