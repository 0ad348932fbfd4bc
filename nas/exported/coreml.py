"""Run exported Core ML packages, which requires macOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import ConfigError, MissingDependency, NasError
from nas.exported.app import Model

Arrays = dict[str, np.ndarray]
UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu+gpu": "CPU_AND_GPU", "cpu+ne": "CPU_AND_NE"}


def library() -> Any:
    """coremltools.

    Raises:
        MissingDependency: it is not installed.
        NasError: this system is not macOS.
    """
    if sys.platform != "darwin":
        raise NasError(
            "--runtime coreml: Core ML requires macOS; run it on a Mac, or a LiteRT export with --runtime litert"
        )
    try:
        import coremltools
    except ImportError:
        raise MissingDependency("coremltools is not installed; run: pip install coremltools") from None
    return coremltools


def load_model(path: Path, model: Model, compute_unit: str = "all") -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """Compile and load a .mlpackage.

    Args:
        model: its description in `export.json`.
        compute_unit: one of `UNITS`.

    Returns:
        A function from the inputs to the outputs by name, float32.

    Raises:
        MissingDependency: coremltools is not installed.
        NasError: this system is not macOS.
        ConfigError: Core ML cannot load the package, or it is not the one that is described.
    """
    coremltools = library()
    try:
        loaded = coremltools.models.MLModel(
            str(path), compute_units=getattr(coremltools.ComputeUnit, UNITS[compute_unit])
        )
        specification = loaded.get_spec().description
    except Exception as error:  # coremltools passes on many types from Core ML
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{path}: Core ML cannot load it: {reason[:200]}") from None
    for ports, features in ((model.inputs, specification.input), (model.outputs, specification.output)):
        if {port.name for port in ports} != {feature.name for feature in features}:
            raise ConfigError(f"{path}: has inputs and outputs other than export.json describes; export it again")
    dtypes = {port.name: np.int32 if port.dtype == "int32" else np.float32 for port in model.inputs}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            results = loaded.predict({name: np.asarray(inputs[name], dtype) for name, dtype in dtypes.items()})
        except Exception as error:  # as above
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{path}: Core ML cannot run it: {reason[:200]}") from None
        return {port.name: np.asarray(results[port.name], np.float32) for port in model.outputs}

    return run
