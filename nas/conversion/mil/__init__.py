"""An interpreter of Core ML's ML programs (MIL) in torch, for machines without Core ML.

    program = Program.load("denoiser.mlpackage")
    float32 = program.run({"x": x, "timestep": t, "context": context})            # float32 throughout
    float16 = program.run({...}, float16=True)                                    # rounded after each operation
    float16.outputs["velocity"]; float16.peak

It evaluates the operations of a package by coremltools' definitions of the MIL operations, independently of the torch
module that was converted: if the results differ, the conversion is wrong. It does not predict latency or the compute
units that a device uses.
"""

from nas.conversion.mil import attention, elementwise, layers, reductions, shapes  # noqa: F401  (register)
from nas.conversion.mil.program import Peak, Program, Result
from nas.conversion.mil.registry import OPERATIONS

__all__ = ["OPERATIONS", "Peak", "Program", "Result"]
