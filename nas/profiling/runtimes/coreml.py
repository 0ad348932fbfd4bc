"""The `coreml` runtime: Core ML programs in float16, on a Mac's own compute units or on an iPhone behind it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas.caches import usable, user_cache
from nas.conversion.convert import COREML_TARGETS
from nas.errors import ConfigError, MissingDependency, suggestion
from nas.profiling.compile import CompiledWorkload, Compiler
from nas.profiling.coreml_models import UNITS
from nas.profiling.host import describe_host
from nas.profiling.runtimes.base import Runnable, Runtime, Session, WorkloadStats
from nas.profiling.runtimes.iphone import GUIDE, MAX_RUNS, IPhone, PhoneWorkload
from nas.profiling.workers.pool import Worker, WorkerPool

MEMORY = "estimated from the shapes (nas.costs.workload_counts) in float16, not measured: Core ML does not report it"
PRECISION = "float16 inputs, weights and outputs"
LATENCY = "Core ML's own time around a prediction; an operator: half of what two more copies add to a graph of one"
REMOTE = (
    "each prediction is a separate call over devicectl with file copies, so the phone idles between samples and its "
    "clocks may be lower than in an app that runs steps without pauses"
)


class CoreMLRuntime(Runtime):
    """Core ML programs with float16 inputs, weights and outputs, converted from the torch modules.

    Args:
        device: `local`, this Mac's own units; `iphone`, or `iphone:NAME` if several are connected.
        compute_unit: units that Core ML may choose from: `all`, `cpu`, `cpu+gpu` or `cpu+ne` (Neural Engine).
        target: oldest system that the program runs on; from iOS 18 on attention is one operation.
        team: the Apple development team that signs the app on an iPhone; `DEVELOPMENT_TEAM` of the environment if None.

    Raises:
        ConfigError: an unknown device, unit or target.
        MissingDependency: this machine cannot run Core ML; the message says what to do.
    """

    name = "coreml"

    def __init__(
        self, device: str = "local", compute_unit: str = "all", target: str = "iOS17", team: str | None = None
    ) -> None:
        kind, _, name = device.partition(":")
        if kind not in ("local", "iphone"):
            raise ConfigError(f"unknown device '{device}' of runtime 'coreml'{suggestion(kind, ['local', 'iphone'])}")
        if compute_unit not in UNITS:
            raise ConfigError(f"unknown compute_unit '{compute_unit}'{suggestion(compute_unit, UNITS)}")
        if target not in COREML_TARGETS:
            raise ConfigError(f"unknown target '{target}'{suggestion(target, COREML_TARGETS)}")
        if kind == "local" and sys.platform != "darwin":
            raise MissingDependency(
                "runtime 'coreml' measures on a Mac, or on an iPhone behind one; on this machine use "
                f"'nas bundle create --runtime coreml', and measure the folder there: {GUIDE}"
            )
        self.device, self.compute_unit, self.target = device, compute_unit, target
        self.phone = IPhone(name, usable(user_cache("modelrunner")), team) if kind == "iphone" else None
        self.block_ms = 4000.0 if self.phone else 20.0
        self.compiler = Compiler("coreml", target)
        self.pool = None if self.phone else WorkerPool("nas.profiling.workers.coreml", {}, fork=False)

    def describe(self) -> dict[str, Any]:
        meta = {
            "runtime": "coreml",
            "version": f"coremltools {version('coremltools')}",
            "device": self.device,
            **describe_host(),
            "threads": None,
            "compute_unit": self.compute_unit,
            "target": self.target,
            "precision": PRECISION,
            "latency": LATENCY,
            "memory": MEMORY,
        }
        if self.phone is not None:
            meta |= {"host": meta["chip"], **self.phone.describe(), "remote": REMOTE}
            del meta["cores"], meta["load"]  # of the Mac
        return meta

    def open(self, workload: Runnable | CompiledWorkload) -> Session:
        package = self.compiler.package(workload, alone=workload is self.reference)
        if self.phone is not None:
            return PhoneSession(self.phone, package, self.compute_unit, self.compiler.folder.path)
        return MacSession(self.pool.start(), package, self.compute_unit)

    def close(self) -> None:
        if self.phone is not None:
            self.phone.close()
        if self.pool is not None:
            self.pool.close()
            self.pool = None
        self.compiler.close()


class MacSession(Session):
    """One workload in a worker process on this Mac."""

    def __init__(self, worker: Worker, package: CompiledWorkload, unit: str) -> None:
        self.worker = worker
        arguments = (package.path, package.several, package.copies, unit)
        load_ms = worker.call("nas.profiling.workers.coreml:load", *arguments)
        self.stats = WorkloadStats(package.activations_mb, package.weights_mb, package.params, load_ms, package.variant)

    def block(self, runs: int) -> list[float]:
        return self.worker.call("nas.profiling.workers.coreml:block", runs)

    def close(self) -> None:
        self.worker.close()


class PhoneSession(Session):
    """One workload on an iPhone.

    Args:
        package: compiled for Core ML.
        unit: a key of `nas.profiling.coreml_models.UNITS`.
        folder: keeps its compiled models until it is closed.
    """

    def __init__(self, phone: IPhone, package: CompiledWorkload, unit: str, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.workload = PhoneWorkload(phone, package.files, package.copies, unit, self.folder)
        with self.workload.on_phone() as timer:
            load_ms = timer.one.load_ms
            timer.one.predict_ms()
        self.stats = WorkloadStats(package.activations_mb, package.weights_mb, package.params, load_ms, package.variant)

    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs, `MAX_RUNS` at most."""
        with self.workload.on_phone() as timer:
            return timer.block(min(runs, MAX_RUNS))

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
