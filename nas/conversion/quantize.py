"""Reduce the precision of a LiteRT model's weights with ai-edge-quantizer. Activations stay float32."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from nas.conversion.libraries import first_line, missing_library, quiet
from nas.errors import ConfigError, suggestion
from nas.failures import ToolError
from nas.files import write_atomic

PRECISIONS = ("float32", "float16", "int8")
"""`float16`: weights are stored in half the size and computed in float32. `int8`: dynamic-range quantization: one scale per
output channel, and the inputs of matrix products and convolutions are rounded to 8 bits while the model runs."""
WEIGHT_BITS = {"float32": 32, "float16": 16, "int8": 8}

_FLOAT16 = [
    {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"},
            "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    }
]


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        ConfigError: it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: unknown '{precision}'{suggestion(precision, PRECISIONS)}")


def quantize(path: Path, precision: str) -> Path:
    """Replace the weights of a float32 .tflite file by those of another precision; `float32` changes nothing.

    Biases, and the weights of operations that the quantizer does not know, stay float32.

    Raises:
        ConfigError: an unknown precision.
        MissingDependency: ai-edge-quantizer is not installed.
        ToolError: the quantizer failed.
    """
    check_precision(precision)
    if precision == "float32":
        return path
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise missing_library("ai-edge-quantizer", "'nas-video[litert]'", error) from None
    chosen: Any = _FLOAT16 if precision == "float16" else recipe.dynamic_wi8_afp32()
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            content = bytes(quantizer.Quantizer(str(path), chosen).quantize().quantized_model)
    except Exception as error:  # the quantizer raises many types
        if isinstance(error, MemoryError | OSError):
            raise
        raise ToolError(f"{path}: cannot be quantized to {precision}: {first_line(error)}") from None
    return write_atomic(path, content)
