"""LiteRT models of workloads, for the runtimes that run them on this machine and in a browser: conversion and variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from nas.profiling.runtimes.base import ConvertedModel, Runnable
from nas.profiling.workers.pool import OnDemandWorker

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
        self.process = OnDemandWorker("nas.profiling.workers.litert_convert")

    def __call__(self, workload: Runnable, variant: str = "", copies: int = 1) -> ConvertedModel:
        """Convert a workload to a .tflite file; see `nas.profiling.workers.litert_convert.convert_cached`.

        Raises:
            Infeasible: it cannot be converted.
            NasError: the converter is not installed, or fails for a reason other than the workload.
        """
        return self.process.call("convert_cached", workload, variant, copies, self.cache, self.precision)

    def close(self) -> None:
        """End the process. Closing twice is allowed."""
        self.process.close()


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
