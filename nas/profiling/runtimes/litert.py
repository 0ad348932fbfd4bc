"""The `litert` runtime: what Android runs, on this machine's CPU, by the packaged interpreter and its XNNPACK kernels."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from nas.errors import ConfigError, MissingDependency, NasError, suggestion
from nas.failures import Infeasible
from nas.profiling.compile import COPIES, CompiledWorkload
from nas.profiling.host import clock_of, describe_host, usable, user_cache
from nas.profiling.runtimes.base import InPlace, Loaded, Runnable, Runtime
from nas.profiling.workers.pool import Child, Children, ChildSession
from nas.spaces import Operator, Workload

DEVICES = ("local", "cpu")
FRESH_PAGES = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
"""glibc takes every buffer from the system anew and gives it back at once, so that resident memory tells what is held.
The interpreter takes its buffers once, before the first run: it costs the timed runs nothing."""
TRIALS, TRIALS_S = 5, 10.0
"""Each form of an operator is tried in so many processes, fewer once that has taken so many seconds..."""
TRIAL_RUNS, TRIAL_MS = 15, 500.0
"""...so often in each, or as often as its first run, the loading included, fits into so many ms..."""
MARGIN = 0.05
"""...and written otherwise than the reference where that is faster by more than this share."""


class LitertRuntime(Runtime):
    """LiteRT models in float32, converted from the torch modules.

    An operator's latency is what it adds to a graph that is there already: the difference of a graph with three of it
    and a graph with one, halved, or, where the backbone is small, the difference it makes to the whole denoiser (see
    `InPlace`). The cost of calling a graph and of handing tensors over is in the backbone's row, once. Each operator
    is tried in all its forms (`nas.conversion.variants`) and measured in the fastest.

    Args:
        device: `local`, this machine's CPU.
        threads: of the interpreter.
        cache: where converted models are kept, so that a workload is converted once.

    Raises:
        ConfigError: an unknown device, or a cache that cannot be written.
        MissingDependency: the interpreter is not installed.
    """

    name = "litert"
    in_place = separate = True

    def __init__(self, device: str = "local", threads: int = 1, cache: str | Path | None = None) -> None:
        if device not in DEVICES:
            raise ConfigError(f"runtime 'litert' has no device '{device}'{suggestion(device, DEVICES)}")
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'")
        self.device, self.threads = device, threads
        self.cache = usable(Path(cache) if cache else cache_folder())
        self.children: Children | None = None
        self.converters: Children | None = None
        self.converter: Child | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "runtime": "litert",
            "version": f"ai-edge-litert {version('ai-edge-litert')}",
            "device": self.device,
            **describe_host(),
            "threads": self.threads,
            "clock": clock_of(self.threads)[0],
            "memory": "what the process holds and takes in a run, less inputs and weights: XNNPACK's workspace and the arena",
            "buffers": "kept",  # from the first run on, the backbone's as well: see `CostModel.resident_mb`
        }

    def open(self, workload: Runnable | CompiledWorkload) -> ChildSession:
        if isinstance(workload, CompiledWorkload):
            return self._packed(workload)
        inner = workload.workload if isinstance(workload, InPlace) else workload
        if not isinstance(getattr(inner, "part", None), Operator):
            return self._child("Whole", self.converted(inner))
        from nas.conversion.variants import variants_of

        alone = self._chained(inner, self._fastest(inner, variants_of(inner.kind)))
        if not isinstance(workload, InPlace):
            return alone
        alone.close()
        return self.reopen(workload, alone.loaded)

    def reopen(self, workload: Runnable | CompiledWorkload, loaded: Loaded) -> ChildSession:
        if isinstance(workload, InPlace):
            whole = self.converted(workload.whole_in(loaded.form))
            bare = self.converted(workload.space.backbone_workload())
            return self._child("Placed", loaded, whole, bare, workload.copies)
        if isinstance(getattr(workload, "part", None), Operator):
            return self._chained(workload, loaded.form)
        return self.open(workload)

    def _fastest(self, workload: Workload, forms: Sequence[str]) -> str:
        """The form in which an operator is fastest, or the first if none is faster by more than `MARGIN`.

        Times are medians of several processes, a process for each time: what one of them finds 5% faster another may
        find slower (see `Processes`), and another form means other models to convert and export.
        """
        if len(forms) == 1:
            return forms[0]
        pairs = {form: (self.converted(workload, form), self.converted(workload, form, COPIES)) for form in forms}
        start, times = time.perf_counter(), {form: [] for form in forms}
        for trial in range(TRIALS):
            if trial and time.perf_counter() - start > TRIALS_S:
                break
            for form, pair in pairs.items():
                session = self._child("Chained", *pair)
                runs = max(1, min(TRIAL_RUNS, int(TRIAL_MS / session.loaded.load_ms)))
                times[form].append(median(session.block(runs)))
                session.close()
        ms = {form: median(of) for form, of in times.items()}
        best = min(ms, key=ms.__getitem__)
        return best if ms[best] < (1 - MARGIN) * ms[forms[0]] else forms[0]

    def _chained(self, workload: Workload, form: str) -> ChildSession:
        return self._child("Chained", self.converted(workload, form), self.converted(workload, form, COPIES))

    def _packed(self, package: CompiledWorkload) -> ChildSession:
        """A session on files that are there already, such as a bundle's."""
        about = {"params": package.params, "weights_mb": package.weights_mb, "form": package.form}
        one = {**about, "path": str(package.path), "copies": 1}
        if package.several is None:
            return self._child("Whole", one)
        several = {**about, "path": str(package.several), "copies": 1 + package.copies}
        return self._child("Chained", one, several)

    def open_alone(self, workload: Runnable) -> ChildSession:
        """A session on the workload's own graph in its reference form, what it costs to call a graph included: what a
        table of separate measurements holds, to compare with."""
        return self._child("Whole", self.converted(workload))

    def converted(self, workload: Runnable, form: str = "", copies: int = 1) -> Mapping[str, Any]:
        """The workload as a .tflite file; see `nas.profiling.workers.litert_convert.converted`.

        Raises:
            Infeasible: it cannot be converted.
            NasError: the converter is not installed, or fails for a reason that is not the workload's.
        """
        if self.converters is None:
            self.converters = Children("nas.profiling.workers.litert_convert", {}, timeout_s=3600.0, fork=False)
        if self.converter is None:
            self.converter = self.converters.start()
        arguments = (workload, form, copies, self.cache)
        try:
            return self.converter.ask("call", "nas.profiling.workers.litert_convert:converted", *arguments)
        except (Infeasible, NasError):
            self.converter = None  # what raised in a child has ended it
            raise

    def close(self) -> None:
        if self.converter is not None:
            self.converter.close()
        for children in (self.children, self.converters):
            if children is not None:
                children.close()
        self.children = self.converters = self.converter = None

    def _child(self, kind: str, *arguments: Any) -> ChildSession:
        return self._measuring().open(f"nas.profiling.workers.litert:{kind}", *arguments, self.threads)

    def _measuring(self) -> Children:
        if self.children is None:
            self.children = Children("nas.profiling.workers.litert", FRESH_PAGES)
        return self.children


def cache_folder() -> Path:
    """Where converted models are kept: `nas/litert` in the user's cache folder."""
    return user_cache("litert")
