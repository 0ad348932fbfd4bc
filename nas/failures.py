"""Classify errors of libraries and tools: the workload is unsupported or too large, or the tool or machine failed."""

from __future__ import annotations

import re

from nas.errors import NasError


class ToolError(NasError):
    """A library, a tool or this machine failed for a reason other than the workload, so that no row is recorded."""


class Infeasible(Exception):
    """A workload cannot run on the device: out of memory, a crash, a missing kernel. The text is the table row's reason."""


class OutOfMemory(Infeasible):
    """Probably a lack of memory: the workload may run when nothing else is loaded."""


NO_MEMORY = re.compile(
    r"bad_alloc|out of memory|(cannot|can't|failed to|unable to) allocate|ENOMEM|size calculation overflowed|"
    r"invalid buffer size",
    re.IGNORECASE,
)
UNSUPPORTED = re.compile(
    r"not (yet )?(implemented|supported)|unsupported|(only|n't|not) supports?\b|no (such )?(kernel|operation|lowering)\b|"
    r"lowering not found|unresolved|didn't find op|failed to (legalize|prepare|invoke)|"
    r"rank (must|greater|[0-9])",
    re.IGNORECASE,
)
"""Messages of libraries and tools about unsupported operations."""
CRASHED = re.compile(r"illegal memory access|misaligned address|launch failure|device-side assert|cuda_error_launch")
"""Messages about crashed kernels on an accelerator; on a CPU, the process crashes instead."""
MACHINE = re.compile(
    r"no space left|disk quota|read-only file system|permission denied|too many open files", re.IGNORECASE
)
"""Messages of the operating system about this machine."""


def is_unsupported(error: BaseException) -> bool:
    """Whether the error says that an operation is not supported."""
    if isinstance(error, NotImplementedError):
        return True
    return isinstance(error, RuntimeError | ValueError) and UNSUPPORTED.search(str(error)) is not None


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory could not be allocated."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def infeasible_error(message: str) -> Infeasible:
    """The error for the last message of a process or tool: `OutOfMemory` if the message says so, else `Infeasible`."""
    return (OutOfMemory if NO_MEMORY.search(message) else Infeasible)(message[:300])


def framework_error(action: str, error: BaseException) -> Infeasible | ToolError:
    """The error for an exception of a device's framework, which has one exception type for every failure.

    Args:
        action: what failed, such as `Core ML cannot load it`.
        error: a RuntimeError or ValueError is about the workload unless it names memory or a machine's problem; any
            other type is not.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = f"{action}: {lines[-1] if lines else type(error).__name__}"[:300]
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return OutOfMemory(message)
    if not isinstance(error, RuntimeError | ValueError) or MACHINE.search(str(error)):
        return ToolError(message)
    return Infeasible(message)
