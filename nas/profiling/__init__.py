"""Floor 2: runtimes, devices and the measurement protocol. Fills lookup tables; imports torch only inside a runtime."""

from nas.failures import Infeasible, OutOfMemory, ToolError
from nas.profiling.calibrate import CalibrationReport, calibrate
from nas.profiling.profile import measure_architecture, measure_architectures, profile
from nas.profiling.protocol import Protocol
from nas.profiling.runtimes import RUNTIMES
from nas.profiling.runtimes.base import Loaded, Runtime, Session, WholeModel

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
