"""Measure workloads on a device and fill lookup tables. Imports torch only where a runtime needs it.

The names below are imported at first use: a worker process is a module of this package, and starts faster without pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.failures import Infeasible, OutOfMemory, ToolError
    from nas.profiling.calibration import CalibrationReport, calibrate
    from nas.profiling.measuring import measure_architecture, measure_architectures, profile
    from nas.profiling.protocol import Protocol
    from nas.profiling.runtimes import RUNTIMES
    from nas.profiling.runtimes.base import Runtime, Session, WholeModel, WorkloadStats
    from nas.profiling.table_transfer import transfer

_MODULES = {
    "CalibrationReport": "nas.profiling.calibration",
    "Infeasible": "nas.failures",
    "OutOfMemory": "nas.failures",
    "Protocol": "nas.profiling.protocol",
    "RUNTIMES": "nas.profiling.runtimes",
    "Runtime": "nas.profiling.runtimes.base",
    "Session": "nas.profiling.runtimes.base",
    "ToolError": "nas.failures",
    "WholeModel": "nas.profiling.runtimes.base",
    "WorkloadStats": "nas.profiling.runtimes.base",
    "calibrate": "nas.profiling.calibration",
    "measure_architecture": "nas.profiling.measuring",
    "measure_architectures": "nas.profiling.measuring",
    "profile": "nas.profiling.measuring",
    "transfer": "nas.profiling.table_transfer",
}

__all__ = [
    "RUNTIMES",
    "CalibrationReport",
    "Infeasible",
    "OutOfMemory",
    "Protocol",
    "Runtime",
    "Session",
    "ToolError",
    "WholeModel",
    "WorkloadStats",
    "calibrate",
    "measure_architecture",
    "measure_architectures",
    "profile",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
