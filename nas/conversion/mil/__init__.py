"""An interpreter of Core ML's ML programs (MIL), for machines that have no Core ML.

    program = Program.load("denoiser.mlpackage")
    exact = program.run({"x": x, "timestep": t, "context": context})            # float32 throughout
    phone = program.run({...}, float16=True)                                    # rounded after each operation
    phone.outputs["velocity"]; phone.peak

It evaluates what the file says, operation by operation, by the definitions of coremltools' MIL operations and not by
those of torch's modules: where the two differ, the conversion is wrong. It says nothing about how fast or by which
compute unit a phone runs the program.
"""

from nas.conversion.mil import attention, elementwise, layers, reductions, shapes  # noqa: F401  (register)
from nas.conversion.mil.program import Peak, Program, Result
from nas.conversion.mil.registry import OPERATIONS

__all__ = ["OPERATIONS", "Peak", "Program", "Result"]
