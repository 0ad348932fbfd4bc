"""Load and evaluate an ML program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.conversion.libraries import coremltools, quiet
from nas.conversion.mil.registry import OPERATIONS, Arguments
from nas.conversion.mil.weights import COMPRESSED, is_weight, value_of
from nas.errors import NasError

FLOAT16_MAX = 65504.0

_TORCH = {"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool}
"""float16 values are stored as float32, rounded to float16. Integers are int64."""


@dataclass
class Peak:
    """The largest magnitude among the float16 values of an evaluation.

    Attributes:
        value: magnitude of an operation's result, or of an intermediate value such as the squares of a normalization.
        operation: name and type of that operation.
    """

    value: float = 0.0
    operation: str = ""

    def update(self, value: float, operation: str) -> None:
        if not value <= self.value:  # also true for NaN
            self.value, self.operation = value, operation


@dataclass
class Result:
    """The result of one evaluation.

    Attributes:
        outputs: tensors by name, float32 for floats.
        peak: the largest magnitude among the values that are float16 in the program.
        not_finite: the first operation whose result contains an infinity or NaN; empty if there is none. Operations
            with infinite constants, such as those of an attention mask, are not counted.
    """

    outputs: dict[str, Tensor]
    peak: Peak = field(default_factory=Peak)
    not_finite: str = ""


class Program:
    """The main function of an ML program.

    Args:
        program: the program as loaded by coremltools.
        source: name in error messages.

    Raises:
        NasError: the program contains operations that are not implemented; the message lists them.
    """

    def __init__(self, program: Any, source: str) -> None:
        self.source, self._function = source, program.functions["main"]
        self._constants: dict[Any, Any] = {}
        unknown = Counter(op.op_type for op in self.operations() if op.op_type not in OPERATIONS)
        if unknown:
            names = ", ".join(f"{name} ({count} times)" for name, count in sorted(unknown.items()))
            raise NasError(f"{source}: cannot be evaluated: nas.conversion.mil does not implement {names}")

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Load a `.mlpackage`.

        Raises:
            MissingDependency: coremltools is not installed.
            NasError: it is not a package with an ML program, or contains operations that are not implemented.
        """
        library, load = _coremltools()
        try:
            spec = library.utils.load_spec(str(path))
            weights = Path(path) / "Data" / "com.apple.CoreML" / "weights"
            program = load(spec, spec.specificationVersion, str(weights))
        except Exception as error:  # coremltools raises many types on broken files
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{path}: cannot be read as a Core ML program ({reason})") from None
        return cls(program, str(path))

    @classmethod
    def of(cls, model: Any, source: str = "the model") -> Program:
        """Load the program of an unsaved `coremltools.models.MLModel`.

        Raises:
            MissingDependency, NasError: as `load`.
        """
        _, load = _coremltools()
        spec = model.get_spec()
        return cls(load(spec, spec.specificationVersion, model.weights_dir), source)

    def operations(self) -> Iterator[Any]:
        """The operations other than constants and weights, in order."""
        return (op for op in self._function.operations if not is_weight(op))

    def compressed(self) -> dict[str, Tensor]:
        """The compressed weights, decompressed, by name."""
        variables = (op.outputs[0] for op in self._function.operations if op.op_type.startswith(COMPRESSED))
        return {var.name: value_of(var) for var in variables}

    def weights(self) -> dict[str, Tensor]:
        """The floating-point weights of rank 2 or more, by name."""
        variables = (op.outputs[0] for op in self._function.operations if is_weight(op))
        return {v.name: value_of(v) for v in variables if len(v.shape) > 1 and _dtype(v) in ("fp16", "fp32")}

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs by name."""
        return {name: tuple(var.shape) for name, var in self._function.inputs.items()}

    @cached_property
    def _last_use(self) -> dict[Any, int]:
        uses = {}
        for index, op in enumerate(self._function.operations):
            for var in _inputs(op):
                uses[var] = index
        return uses

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Any], float16: bool = False) -> Result:
        """Evaluate the program.

        Args:
            inputs: tensors or arrays by name.
            float16: whether to round each result to its dtype in the program, as a device that computes in float16
                does. Otherwise all results are float32; the weights have their stored precision either way.

        Raises:
            NasError: an input is missing, unknown or has the wrong shape, or an operation's arguments are unsupported.
        """
        self._check(inputs)
        values: dict[Any, Any] = {}
        result = Result({})
        for name, var in self._function.inputs.items():
            value = inputs[name]
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
            values[var] = _as(tensor, _dtype(var), float16)
        for index, op in enumerate(self._function.operations):
            if is_weight(op):
                continue
            outputs = self._evaluate(op, values, result)
            for var, tensor in zip(op.outputs, outputs):
                values[var] = _as(tensor, _dtype(var), float16)
                self._record_peak(result, op, var, values[var])
            for var in _inputs(op):
                if self._last_use.get(var) == index and var not in self._function.outputs:
                    values.pop(var, None)
        result.outputs = {var.name: self._value(var, values) for var in self._function.outputs}
        return result

    def _evaluate(self, op: Any, values: dict, result: Result) -> tuple[Tensor, ...]:
        arguments = {}
        for name, value in op.inputs.items():
            if isinstance(value, tuple | list):
                arguments[name] = [self._value(var, values) for var in value]
            elif value is not None:
                arguments[name] = self._value(value, values)
        dtypes = [_dtype(var) for var in op.outputs]
        in_float16 = "fp16" in dtypes

        def note(value: float) -> None:
            if in_float16:
                result.peak.update(value, f"{op.name} ({op.op_type})")

        try:
            outputs = OPERATIONS[op.op_type](Arguments(arguments, dtypes, note))
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{self.source}: {op.op_type} '{op.name}' cannot be evaluated: {reason}") from error
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for var, tensor in zip(op.outputs, outputs, strict=True):
            if tuple(tensor.shape) != tuple(var.shape):
                raise NasError(
                    f"{self.source}: {op.op_type} '{op.name}' gives shape {tuple(tensor.shape)}, "
                    f"the program declares {tuple(var.shape)}"
                )
        return outputs

    def _value(self, var: Any, values: dict) -> Any:
        if var in values:
            return values[var]
        if var not in self._constants:
            self._constants[var] = value_of(var)
        return self._constants[var]

    def _record_peak(self, result: Result, op: Any, var: Any, tensor: Tensor) -> None:
        dtype = _dtype(var)
        if dtype not in ("fp16", "fp32") or not tensor.numel():
            return
        largest, name = tensor.abs().max().item(), f"{op.name} ({op.op_type})"
        if np.isfinite(largest):
            if dtype == "fp16":
                result.peak.update(largest, name)
        elif not result.not_finite and not self._has_infinite_constant(op):
            result.not_finite = name

    def _has_infinite_constant(self, op: Any) -> bool:
        """Whether a constant argument of an operation contains an infinity or NaN, as masks do."""
        stored = [self._value(var, {}) for var in _inputs(op) if var.op is not None and is_weight(var.op)]
        return any(isinstance(x, Tensor) and not torch.isfinite(x).all() for x in stored)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        shapes = {name: tuple(x.shape) for name, x in inputs.items()}
        if shapes != self.inputs:
            raise NasError(f"{self.source}: takes inputs {self.inputs}, got {shapes}")


def _inputs(op: Any) -> Iterator[Any]:
    for value in op.inputs.values():
        if isinstance(value, tuple | list):
            yield from value
        elif value is not None:
            yield value


def _dtype(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return "str" if types.is_str(var.dtype) else types.builtin_to_string(var.dtype)


def _as(tensor: Tensor, dtype: str, float16: bool) -> Tensor:
    """Convert a result to the dtype that represents it, rounded to float16 if the program does so."""
    if dtype == "fp16" and float16:
        return tensor.half().float()
    return tensor.to(_TORCH.get(dtype, torch.int64))


def _coremltools() -> tuple[Any, Any]:
    """coremltools, and its function that loads programs."""
    library = coremltools()
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load
    return library, load
