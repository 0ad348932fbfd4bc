"""Classes that a worker of the `litert` runtime executes: interpreters of converted models. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from nas.failures import Infeasible
from nas.process_memory import anonymous_bytes, peak_resident_bytes, release_free_memory, reset_peak
from nas.profiling.host import clock_of, limit_memory
from nas.profiling.runtimes.base import ConvertedModel, WorkloadStats
from nas.profiling.workers.worker import milliseconds

MB = 1e6


class WholeGraph:
    """One model: a backbone, a whole denoiser or a decoder.

    Attributes:
        stats: memory, weights, parameters and load time.
        copies: 0: the time of a run is the latency.
        clock: what times the runs.
    """

    def __init__(self, model: ConvertedModel, threads: int) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = 0
        self.run, self.stats = load(model, threads)


class OperatorDifference:
    """An operator timed as the difference of two graphs: several copies as `run`, a single copy as `base`."""

    def __init__(self, one: ConvertedModel, several: ConvertedModel, threads: int) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = several.copies - one.copies
        self.base, stats = load(one, threads)
        self.run, chained = load(several, threads)
        self.stats = stats.with_kept_memory((chained.memory_mb - stats.memory_mb) / self.copies)


class InModelOperator:
    """An operator timed inside the denoiser: `run` is the denoiser with `copies` of it, `base` the bare backbone.

    Args:
        alone: memory, weights and parameters of the operator, measured outside the denoiser.
    """

    def __init__(
        self, alone: WorkloadStats, whole: ConvertedModel, bare: ConvertedModel, copies: int, threads: int
    ) -> None:
        self.clock = clock_of(threads)[1]
        self.copies = copies
        self.run, _ = load(whole, threads)
        self.base, _ = load(bare, threads)
        base_ms = sorted(milliseconds(self.base, self.clock) for _ in range(3))[1]
        self.stats = replace(alone, tolerance_ms=base_ms / 1e3)


def load(model: ConvertedModel, threads: int) -> tuple[Callable[[], None], WorkloadStats]:
    """Load a model, give it random inputs and run it twice.

    Returns:
        a function that runs it, and its stats. Its memory is the growth of the process since before it was loaded, less
        the inputs and the weights, which XNNPACK packs into memory of its own; and what a run allocates and frees in
        addition. Pages of the model's file do not count: the system can drop them.
    """
    free = limit_memory() * MB
    release_free_memory()
    start, before = time.perf_counter(), anonymous_bytes()
    interpreter = Interpreter(str(model.path), num_threads=threads)
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        largest = max(int(np.prod(tensor["shape"])) * 4 for tensor in interpreter.get_tensor_details())
        if largest > free / 4:  # the interpreter says only that it failed
            raise MemoryError(f"a tensor takes {largest / MB:.0f} MB, {free / MB:.0f} MB were free") from None
        raise Infeasible(f"the interpreter cannot prepare the model: {error}") from None
    known = _fill_inputs(interpreter) + model.weights_mb * model.copies * MB
    interpreter.invoke()
    load_ms = (time.perf_counter() - start) * 1e3
    held = anonymous_bytes() - before - known
    at_rest = reset_peak()
    interpreter.invoke()
    memory_mb = max(0.0, held + peak_resident_bytes() - at_rest) / MB
    return interpreter.invoke, WorkloadStats(memory_mb, model.weights_mb, model.params, load_ms, model.variant)


def _fill_inputs(interpreter: Interpreter) -> int:
    """Set random inputs of the declared types.

    Returns:
        their size in bytes.
    """
    rng, size = np.random.default_rng(0), 0
    for given in interpreter.get_input_details():
        shape, dtype = given["shape"], given["dtype"]
        whole = np.issubdtype(dtype, np.integer)
        values = (rng.integers(0, 1000, shape) if whole else rng.standard_normal(shape)).astype(dtype)
        interpreter.set_tensor(given["index"], values)
        size += values.nbytes
    return size
