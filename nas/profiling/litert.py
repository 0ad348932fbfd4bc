"""The `litert` runtime: what Android runs, on this machine's CPU, by the packaged interpreter and its XNNPACK kernels."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas.errors import ConfigError, MissingDependency, suggestion
from nas.profiling.bundle_compile import COPIES, Package
from nas.profiling.children import Child, Children, ChildSession
from nas.profiling.host import clock_of, describe_host
from nas.profiling.runtime import Infeasible, InPlace, Loaded, Runnable, Runtime
from nas.spaces import Operator, Workload

DEVICES = ("local", "cpu")
FRESH_PAGES = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
"""glibc takes every buffer from the system anew and gives it back at once, so that resident memory tells what is held.
The interpreter takes its buffers once, before the first run: it costs the timed runs nothing."""


class LitertRuntime(Runtime):
    """LiteRT models in float32, converted from the torch modules.

    An operator's latency is what it adds to a graph that is there already: the difference of a graph with three of it
    and a graph with one, halved, or, where the backbone is small, the difference it makes to the whole denoiser (see
    `InPlace`). The cost of calling a graph and of handing tensors over is in the backbone's row, once. Each operator
    is tried in all its forms (`nas.models.forms`) and measured in the fastest.

    Args:
        device: `local`, this machine's CPU.
        threads: of the interpreter.
        cache: where converted models are kept, so that a workload is converted once.
    """

    name = "litert"
    in_place = separate = True

    def __init__(self, device: str = "local", threads: int = 1, cache: str | Path | None = None) -> None:
        if device not in DEVICES:
            raise ConfigError(f"runtime 'litert' has no device '{device}'{suggestion(device, DEVICES)}")
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'")
        self.device, self.threads, self.cache = device, threads, Path(cache) if cache else cache_folder()
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

    def open(self, workload: Runnable | Package) -> ChildSession:
        if isinstance(workload, Package):
            return self._packed(workload)
        inner = workload.workload if isinstance(workload, InPlace) else workload
        if not isinstance(getattr(inner, "part", None), Operator):
            return self._child("Whole", self.converted(inner))
        from nas.models.forms import forms_of

        alone = self._fastest(inner, forms_of(inner.kind))
        if not isinstance(workload, InPlace):
            return alone
        alone.close()
        return self.reopen(workload, alone.loaded)

    def reopen(self, workload: Runnable | Package, loaded: Loaded) -> ChildSession:
        if isinstance(workload, InPlace):
            whole = self.converted(workload.whole_in(loaded.form))
            bare = self.converted(workload.space.backbone_workload())
            return self._child("Placed", loaded, whole, bare, workload.copies)
        if isinstance(getattr(workload, "part", None), Operator):
            return self._fastest(workload, [loaded.form])
        return self.open(workload)

    def _fastest(self, workload: Workload, forms: Iterable[str]) -> ChildSession:
        one = {form: self.converted(workload, form) for form in forms}
        return self._child("Fastest", one, {form: self.converted(workload, form, COPIES) for form in one})

    def _packed(self, package: Package) -> ChildSession:
        """A session on files that are there already, such as a bundle's."""
        about = {"params": package.params, "weights_mb": package.weights_mb, "form": package.form}
        one = {**about, "path": str(package.path), "copies": 1}
        if package.several is None:
            return self._child("Whole", one)
        several = {**about, "path": str(package.several), "copies": 1 + package.copies}
        return self._child("Fastest", {package.form: one}, {package.form: several})

    def open_alone(self, workload: Runnable) -> ChildSession:
        """A session on the workload's own graph in its reference form, what it costs to call a graph included: what a
        table of separate measurements holds, to compare with."""
        return self._child("Whole", self.converted(workload))

    def converted(self, workload: Runnable, form: str = "", copies: int = 1) -> Mapping[str, Any]:
        """The workload as a .tflite file; see `nas.profiling.litert_convert.converted`.

        Raises:
            Infeasible: it cannot be converted.
            MissingDependency: the converter is not installed.
        """
        if self.converters is None:
            self.converters = Children("nas.profiling.litert_convert", {}, timeout_s=3600.0, fork=False)
        if self.converter is None:
            self.converter = self.converters.start()
        arguments = (workload, form, copies, self.cache)
        try:
            return self.converter.ask("call", "nas.profiling.litert_convert:converted", *arguments)
        except (Infeasible, MissingDependency):
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
        if self.children is None:
            self.children = Children("nas.profiling.litert_child", FRESH_PAGES)
        return self.children.open(f"nas.profiling.litert_child:{kind}", *arguments, self.threads)


def cache_folder() -> Path:
    """Where converted models are kept: `nas/litert` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / "litert"
