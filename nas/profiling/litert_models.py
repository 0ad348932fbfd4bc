"""LiteRT models of workloads, for the runtimes that run them on this machine and in a browser: conversion and variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from nas.errors import NasError
from nas.failures import Infeasible
from nas.profiling.runtimes.base import ConvertedModel, Runnable
from nas.profiling.workers.pool import Worker, WorkerPool

MARGIN = 0.05
"""Another variant than the reference is used if it is faster by more than this fraction."""


class LitertConverter:
    """Converts workloads in a separate process, into a cache.

    Args:
        cache: the folder of converted models.
        precision: of the weights, see `nas.conversion.quantize.PRECISIONS`.
    """

    def __init__(self, cache: Path, precision: str = "float32") -> None:
        self.cache, self.precision = cache, precision
        self.pool: WorkerPool | None = None
        self.worker: Worker | None = None

    def __call__(self, workload: Runnable, variant: str = "", copies: int = 1) -> ConvertedModel:
        """Convert a workload to a .tflite file; see `nas.profiling.workers.litert_convert.convert_cached`.

        Raises:
            Infeasible: it cannot be converted.
            NasError: the converter is not installed, or fails for a reason other than the workload.
        """
        if self.pool is None:
            self.pool = WorkerPool("nas.profiling.workers.litert_convert", {}, timeout_s=3600.0, fork=False)
        if self.worker is None:
            self.worker = self.pool.start()
        arguments = (workload, variant, copies, self.cache, self.precision)
        try:
            return self.worker.call("nas.profiling.workers.litert_convert:convert_cached", *arguments)
        except (Infeasible, NasError):
            self.worker = None  # a worker that raised has ended
            raise

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
        if self.worker is not None:
            self.worker.close()
        if self.pool is not None:
            self.pool.close()
        self.pool = self.worker = None


def fastest_variant(variants: Sequence[str], trial_ms: Callable[[str], float], trials: int, longest_s: float) -> str:
    """The fastest variant of an operator, or the first if none is faster by more than `MARGIN`.

    Args:
        trial_ms: times a variant in a process of its own. Processes differ by several percent, so a variant's time is the
            median of several (see `MultiProcessSession`).
        trials: of each variant.
        longest_s: no more trials are made after this time.
    """
    if len(variants) == 1:
        return variants[0]
    start, times = time.perf_counter(), {variant: [] for variant in variants}
    for number in range(trials):
        if number and time.perf_counter() - start > longest_s:
            break
        for variant in variants:
            times[variant].append(trial_ms(variant))
    ms = {variant: median(values) for variant, values in times.items()}
    best = min(ms, key=ms.__getitem__)
    return best if ms[best] < (1 - MARGIN) * ms[variants[0]] else variants[0]
