"""Core ML models loaded on this Mac and timed by Core ML itself; needs only coremltools and numpy.

This module and those that it imports are also part of the script in a Core ML bundle (`nas.profiling.bundles.script`),
which runs where this library is not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from nas.conversion.libraries import coremltools

UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu+gpu": "CPU_AND_GPU", "cpu+ne": "CPU_AND_NE"}
"""Names of compute units, and coremltools' names for the same."""


class TimedModel(Protocol):
    """A loaded model."""

    load_ms: float

    def predict_ms(self) -> float:
        """Time of one prediction in ms."""
        ...

    def unload(self) -> None:
        """Free the model."""
        ...


class MacModel:
    """A package loaded on this Mac; a `TimedModel`.

    Args:
        path: of the .mlpackage.
        unit: a key of `UNITS`.

    Attributes:
        load_ms: time to load it once.
    """

    def __init__(self, path: Path, unit: str) -> None:
        ct = coremltools()
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[UNITS[unit]], skip_model_load=True)
        self.loop = asyncio.new_event_loop()
        self.benchmarker = MLModelBenchmarker(model)
        self.inputs = random_inputs(self.benchmarker.model_spec)
        self.folder = tempfile.TemporaryDirectory()
        self.load_ms = self._run(self.benchmarker.benchmark_load())

    def predict_ms(self) -> float:
        return self._run(self.benchmarker.benchmark_predict(dict(self.inputs)))

    def unload(self) -> None:
        self.loop.run_until_complete(self.benchmarker._loaded_model.unload())
        self.loop.close()
        self.folder.cleanup()

    def _run(self, benchmark: Any) -> float:
        with temporary_files_in(self.folder.name):
            return self.loop.run_until_complete(benchmark).samples[0]


class GraphTimer:
    """Times one workload: its graph or, for an operator, what one more copy adds to a graph.

    Args:
        one: the workload's model.
        several: the model with `copies` more of the operator, or None.
        copies: more copies in `several` than in `one`.
        warm_up: predictions before each block that do not count; they wake the chip.
    """

    def __init__(self, one: TimedModel, several: TimedModel | None = None, copies: int = 0, warm_up: int = 2) -> None:
        self.one, self.several, self.copies, self.warm_up = one, several, copies, warm_up

    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs. For an operator: the difference of a block of each graph per further copy."""
        one = self._timed(self.one, runs)
        if self.several is None:
            return one
        return [(ms - base_ms) / self.copies for ms, base_ms in zip(self._timed(self.several, runs), one)]

    def unload(self) -> None:
        """Free the models."""
        for model in (self.one, self.several):
            if model is not None:
                model.unload()

    def _timed(self, model: TimedModel, runs: int) -> list[float]:
        for _ in range(self.warm_up):
            model.predict_ms()
        return [model.predict_ms() for _ in range(runs)]


def load_on_mac(one: Path, several: Path | None, copies: int, unit: str) -> GraphTimer:
    """Load a workload's packages on this Mac; see `GraphTimer`."""
    return GraphTimer(MacModel(one, unit), MacModel(several, unit) if several else None, copies)


def random_inputs(spec: Any) -> dict[str, Any]:
    """Random arrays for every input of a Core ML program, in the types and shapes that it declares."""
    import numpy as np

    rng, inputs = np.random.default_rng(0), {}
    for feature in spec.description.input:
        array = feature.type.multiArrayType
        name = array.ArrayDataType.Name(array.dataType)
        dtype = {"FLOAT16": np.float16, "FLOAT32": np.float32, "DOUBLE": np.float64, "INT32": np.int32}[name]
        shape = tuple(array.shape)
        values = rng.integers(0, 1000, shape) if dtype == np.int32 else rng.standard_normal(shape)
        inputs[feature.name] = values.astype(dtype)
    return inputs


@contextlib.contextmanager
def temporary_files_in(folder: str) -> Iterator[None]:
    """Send Python's temporary files to `folder`.

    coremltools copies each model and each prediction's inputs to temporary files and never deletes them.
    """
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before
