"""Floor 2: runtimes, devices and the measurement protocol. Fills lookup tables; imports torch only inside a runtime."""

from nas.profiling.calibrate import CalibrationReport, calibrate
from nas.profiling.measure import measure_architecture, measure_architectures, profile
from nas.profiling.protocol import Protocol
from nas.profiling.runtime import Infeasible, Loaded, OutOfMemory, Runtime, Session, ToolError, WholeModel
from nas.profiling.runtimes import RUNTIMES

__all__ = [
    "RUNTIMES",
    "CalibrationReport",
    "Infeasible",
    "Loaded",
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
