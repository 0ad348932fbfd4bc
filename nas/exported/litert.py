"""Run exported LiteRT models with ai-edge-litert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import ConfigError, MissingDependency, NasError
from nas.exported.app import Model

Arrays = dict[str, np.ndarray]


def library() -> Any:
    """The class of ai-edge-litert's interpreter.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingDependency("ai-edge-litert is not installed; run: pip install 'nas-video[litert]'") from None
    return Interpreter


def load_model(path: Path, model: Model, threads: int = 1) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """Load a .tflite model.

    Args:
        model: its description in `export.json`.
        threads: of the interpreter.

    Returns:
        A function from the inputs to the outputs by name.

    Raises:
        MissingDependency: ai-edge-litert is not installed.
        ConfigError: the file is not a LiteRT model, or not the one that is described.
    """
    try:
        runner = library()(str(path), num_threads=threads).get_signature_runner()
        given, returned = runner.get_input_details(), runner.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be loaded as a LiteRT model: {' '.join(str(error).split())[:200]}") from None
    names = output_names(model, list(returned))
    described = {port.name: port.shape for port in model.inputs}
    found = {name: tuple(map(int, details["shape"])) for name, details in given.items()}
    outputs = {names.get(name, name): tuple(map(int, details["shape"])) for name, details in returned.items()}
    if found != described or outputs != {port.name: port.shape for port in model.outputs}:
        raise ConfigError(f"{path}: has inputs and outputs other than export.json describes; export it again")
    dtypes = {name: details["dtype"] for name, details in given.items()}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            results = runner(**{name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in dtypes.items()})
        except (ValueError, RuntimeError) as error:
            raise NasError(f"{path}: LiteRT cannot run it: {' '.join(str(error).split())[:200]}") from None
        return {names[name]: value for name, value in results.items()}

    return run


def output_names(model: Model, signature: list[str]) -> dict[str, str]:
    """The described name of each output in a model's signature; the converter calls them `output_0`, `output_1`, ..."""
    described = [port.name for port in model.outputs]
    if set(described) == set(signature):
        return {name: name for name in described}
    numbered = [f"output_{i}" for i in range(len(described))]
    return dict(zip(numbered, described)) if set(numbered) == set(signature) else {}
