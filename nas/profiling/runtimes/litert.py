"""The `litert` runtime: LiteRT models on this machine's CPU, by the packaged interpreter and its XNNPACK kernels."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from nas.caches import usable, user_cache
from nas.conversion.quantize import PRECISIONS
from nas.errors import ConfigError, MissingDependency, suggestion
from nas.profiling.compile import COPIES, CompiledWorkload
from nas.profiling.host import clock_of, describe_host
from nas.profiling.litert_models import LitertConverter, fastest_variant
from nas.profiling.runtimes.base import ConvertedModel, InModelWorkload, Runnable, Runtime, WorkloadStats
from nas.profiling.workers.pool import WorkerPool, WorkerSession
from nas.spaces import Operator, Workload

DEVICES = ("local", "cpu")
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
"""Let glibc return every freed buffer to the system at once, so that resident memory is the memory in use. The interpreter
allocates its buffers once, before the first run, so the timed runs are not slower."""
TRIALS, TRIALS_S = 5, 10.0
"""Processes that try each variant of an operator; no more are started after the time is used up."""
TRIAL_RUNS, TRIAL_MS = 15, 500.0
"""Runs in each process, and their total time."""


class LitertRuntime(Runtime):
    """LiteRT models, converted from the torch modules.

    An operator's latency is the time that it adds to a graph: half the difference between a graph with three copies and
    a graph with one, or, if the backbone is small, the difference that it makes to the whole denoiser (see
    `InModelWorkload`). The overhead of calling a graph and of passing tensors is counted once, in the backbone's row. All
    variants of an operator (`nas.conversion.variants`) are tried, and the fastest is measured.

    Args:
        device: `local`, this machine's CPU.
        threads: of the interpreter.
        cache: folder of converted models; by default in the user's cache folder.
        precision: of the stored weights: `float32`, `float16` or `int8`, see `nas.conversion.quantize`.

    Raises:
        ConfigError: an unknown device or precision, or a cache that cannot be written.
        MissingDependency: the interpreter is not installed.
    """

    name = "litert"
    in_model = separate = True

    def __init__(
        self, device: str = "local", threads: int = 1, cache: str | Path | None = None, precision: str = "float32"
    ) -> None:
        if device not in DEVICES:
            raise ConfigError(f"unknown device '{device}' of runtime 'litert'{suggestion(device, DEVICES)}")
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'")
        if precision not in PRECISIONS:
            raise ConfigError(f"unknown precision '{precision}' of runtime 'litert'{suggestion(precision, PRECISIONS)}")
        self.device, self.threads, self.precision = device, threads, precision
        self.cache = usable(Path(cache) if cache else user_cache("litert"))
        self.converted = LitertConverter(self.cache, precision)
        self.pool: WorkerPool | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "runtime": "litert",
            "version": f"ai-edge-litert {version('ai-edge-litert')}",
            "device": self.device,
            **describe_host(),
            **({} if self.precision == "float32" else {"precision": self.precision}),
            "threads": self.threads,
            "clock": clock_of(self.threads)[0],
            "memory": "growth of the process without inputs and weights: XNNPACK's workspace and the arena",
            "buffers": "kept",  # from the first run on; see `CostModel.resident_mb`
        }

    def open(self, workload: Runnable | CompiledWorkload) -> WorkerSession:
        if isinstance(workload, CompiledWorkload):
            return self._compiled(workload)
        inner = workload.workload if isinstance(workload, InModelWorkload) else workload
        if not (isinstance(inner, Workload) and isinstance(inner.part, Operator)):
            return self._session("WholeGraph", self.converted(inner))
        from nas.conversion.variants import variants_of

        alone = self._chained(inner, self._fastest(inner, variants_of(inner.kind)))
        if not isinstance(workload, InModelWorkload):
            return alone
        alone.close()
        return self.reopen(workload, alone.stats)

    def reopen(self, workload: Runnable | CompiledWorkload, stats: WorkloadStats) -> WorkerSession:
        if isinstance(workload, InModelWorkload):
            whole = self.converted(workload.whole_with(stats.variant))
            bare = self.converted(workload.space.backbone_workload())
            return self._session("InModelOperator", stats, whole, bare, workload.copies)
        if isinstance(workload, Workload) and isinstance(workload.part, Operator):
            return self._chained(workload, stats.variant)
        return self.open(workload)

    def _fastest(self, workload: Workload, variants: tuple[str, ...]) -> str:
        pairs = {variant: self._pair(workload, variant) for variant in variants}

        def trial_ms(variant: str) -> float:
            session = self._session("OperatorDifference", *pairs[variant])
            runs = max(1, min(TRIAL_RUNS, int(TRIAL_MS / session.stats.load_ms)))
            ms = median(session.block(runs))
            session.close()
            return ms

        return fastest_variant(variants, trial_ms, TRIALS, TRIALS_S)

    def _chained(self, workload: Workload, variant: str) -> WorkerSession:
        return self._session("OperatorDifference", *self._pair(workload, variant))

    def _pair(self, workload: Workload, variant: str) -> list[ConvertedModel]:
        return [self.converted(workload, variant), self.converted(workload, variant, COPIES)]

    def _compiled(self, package: CompiledWorkload) -> WorkerSession:
        """A session on files that are compiled already, such as a bundle's."""
        one = ConvertedModel(package.path, package.params, package.weights_mb, package.variant)
        if package.several is None:
            return self._session("WholeGraph", one)
        several = replace(one, path=package.several, copies=1 + package.copies)
        return self._session("OperatorDifference", one, several)

    def open_graph(self, workload: Runnable) -> WorkerSession:
        """A session on the workload's own graph in its reference variant, including the overhead of calling a graph; to
        compare the profiler with a table of separate measurements."""
        return self._session("WholeGraph", self.converted(workload))

    def close(self) -> None:
        self.converted.close()
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _session(self, kind: str, *arguments: Any) -> WorkerSession:
        return self._measuring().open(f"nas.profiling.workers.litert:{kind}", *arguments, self.threads)

    def _measuring(self) -> WorkerPool:
        if self.pool is None:
            self.pool = WorkerPool("nas.profiling.workers.litert", MALLOC_ENVIRONMENT)
        return self.pool
