"""What runs inside a child of the `litert` runtime: interpreters of converted models. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from nas.failures import Infeasible
from nas.profiling.host import clock_of, limit_memory, process_bytes
from nas.profiling.runtimes.base import Loaded
from nas.profiling.workers.worker import milliseconds

MB = 1e6


class Whole:
    """One model: the backbone, a whole denoiser, a decoder.

    Attributes:
        loaded: memory, weights, parameters and load time.
        copies: 0; a run is a run.
        clock: what times the runs.
    """

    def __init__(self, model: Mapping[str, Any], threads: int) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = 0
        self.run, self.loaded = load(model, threads)


class Chained:
    """An operator as the difference of two graphs: one of several copies as `run`, one of a single copy as `base`."""

    def __init__(self, one: Mapping[str, Any], several: Mapping[str, Any], threads: int) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = several["copies"] - one["copies"]
        self.base, loaded = load(one, threads)
        self.run, chained = load(several, threads)
        self.loaded = loaded.less_kept((chained.memory_mb - loaded.memory_mb) / self.copies)


class Placed:
    """An operator in the denoiser: `run` is the denoiser with `copies` of it, `base` the backbone without.

    Args:
        alone: what is known of the operator by itself.
    """

    def __init__(self, alone: Loaded, whole: Mapping, bare: Mapping, copies: int, threads: int) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = copies
        self.run, _ = load(whole, threads)
        self.base, _ = load(bare, threads)
        base_ms = sorted(milliseconds(self.base, self.clock) for _ in range(3))[1]
        self.loaded = replace(alone, tolerance_ms=base_ms / 1e3)


def load(model: Mapping[str, Any], threads: int) -> tuple[Callable[[], None], Loaded]:
    """Load a model, give it random inputs and run it twice.

    Returns:
        what runs it; and what is known of it. Its memory is what the process holds more than before it was loaded, less
        the inputs and the weights, which XNNPACK packs into memory of its own; and what a run takes and gives back
        besides. Pages of the model's file do not count: the system can drop them.
    """
    free = limit_memory() * MB
    give_back_free_memory()
    start, before = time.perf_counter(), anonymous_bytes()
    interpreter = Interpreter(model["path"], num_threads=threads)
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        largest = max(int(np.prod(tensor["shape"])) * 4 for tensor in interpreter.get_tensor_details())
        if largest > free / 4:  # the interpreter says only that it failed
            raise MemoryError(f"a tensor takes {largest / MB:.0f} MB, {free / MB:.0f} MB were free") from None
        raise Infeasible(f"the interpreter cannot prepare the model: {error}") from None
    known = fill_inputs(interpreter) + model["weights_mb"] * model["copies"] * MB
    interpreter.invoke()
    load_ms = (time.perf_counter() - start) * 1e3
    held = anonymous_bytes() - before - known
    at_rest = resident_bytes()
    interpreter.invoke()
    memory_mb = max(0.0, held + peak_resident_bytes() - at_rest) / MB
    return interpreter.invoke, Loaded(memory_mb, model["weights_mb"], model["params"], load_ms, model["form"])


def fill_inputs(interpreter: Interpreter) -> int:
    """Random inputs of their types.

    Returns:
        how many bytes they are.
    """
    rng, size = np.random.default_rng(0), 0
    for given in interpreter.get_input_details():
        shape, dtype = given["shape"], given["dtype"]
        whole = np.issubdtype(dtype, np.integer)
        values = (rng.integers(0, 1000, shape) if whole else rng.standard_normal(shape)).astype(dtype)
        interpreter.set_tensor(given["index"], values)
        size += values.nbytes
    return size


def give_back_free_memory() -> None:
    """So that what is taken from here on is seen as growth, and not served out of what was freed before."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def anonymous_bytes() -> float:
    """What this process holds in memory of its own, the pages of files apart."""
    return process_bytes("RssAnon") if sys.platform == "linux" else peak_resident_bytes()


def resident_bytes() -> float:
    """What this process holds in memory now; from here on `peak_resident_bytes` counts anew."""
    if sys.platform != "linux":
        return peak_resident_bytes()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")


def peak_resident_bytes() -> float:
    """The most that this process has held in memory since `resident_bytes` was asked."""
    if sys.platform == "linux":
        return process_bytes("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
