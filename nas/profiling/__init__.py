"""Measure workloads on a device and fill lookup tables. Imports torch only where a runtime needs it."""

from nas.failures import Infeasible, OutOfMemory, ToolError
from nas.profiling.calibrate import CalibrationReport, calibrate
from nas.profiling.measuring import measure_architecture, measure_architectures, profile
from nas.profiling.protocol import Protocol
from nas.profiling.runtimes import RUNTIMES
from nas.profiling.runtimes.base import Runtime, Session, WholeModel, WorkloadStats

__all__ = [
    "RUNTIMES",
    "CalibrationReport",
    "Infeasible",
    "WorkloadStats",
    "OutOfMemory",
    "Protocol",
    "Runtime",
    "Session",
    "ToolError",
    "WholeModel",
    "calibrate",
    "measure_architecture",
    "measure_architectures",
    "profile",
]
