"""An ML program read from a package, and its evaluation."""

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
"""In float16 too values are held as float32, rounded to what float16 can say. Whole numbers are int64."""


@dataclass
class Peak:
    """The largest magnitude that a run met, where the program computes in float16.

    Attributes:
        value: of a result, or of a sum of squares' mean inside a normalization.
        operation: whose result it is.
    """

    value: float = 0.0
    operation: str = ""

    def see(self, value: float, operation: str) -> None:
        if not value <= self.value:  # NaN counts as larger than anything
            self.value, self.operation = value, operation


@dataclass
class Result:
    """What one evaluation gave.

    Attributes:
        outputs: by name, float32 for floats.
        peak: the largest magnitude among the values that are float16 in the program.
        not_finite: the first operation whose result held an infinity or NaN; empty if none did. MIL's own infinities,
            such as those of an attention mask, do not count.
    """

    outputs: dict[str, Tensor]
    peak: Peak = field(default_factory=Peak)
    not_finite: str = ""


class Program:
    """The main function of an ML program.

    Args:
        program: as coremltools reads it.
        source: what to call it in errors.

    Raises:
        NasError: it holds an operation that is not implemented here; all of them are named.
    """

    def __init__(self, program: Any, source: str) -> None:
        self.source, self._function = source, program.functions["main"]
        self._constants: dict[Any, Any] = {}
        unknown = Counter(op.op_type for op in self.operations() if op.op_type not in OPERATIONS)
        if unknown:
            names = ", ".join(f"{name} ({count} times)" for name, count in sorted(unknown.items()))
            raise NasError(f"{source}: cannot be evaluated: no such operation in nas.conversion.mil: {names}")

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a `.mlpackage`.

        Raises:
            MissingDependency: coremltools is not installed.
            NasError: it is not a package with an ML program, or holds an operation that is not implemented here.
        """
        library, load = _coremltools()
        try:
            spec = library.utils.load_spec(str(path))
            weights = Path(path) / "Data" / "com.apple.CoreML" / "weights"
            program = load(spec, spec.specificationVersion, str(weights))
        except Exception as error:  # whatever coremltools raises on a broken file
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{path}: cannot be read as a Core ML program ({reason})") from None
        return cls(program, str(path))

    @classmethod
    def of(cls, model: Any, source: str = "the model") -> Program:
        """Of a `coremltools.models.MLModel` that is not saved yet.

        Raises: as `load`.
        """
        _, load = _coremltools()
        spec = model.get_spec()
        return cls(load(spec, spec.specificationVersion, model.weights_dir), source)

    def operations(self) -> Iterator[Any]:
        """The operations that compute something, in order."""
        return (op for op in self._function.operations if not is_weight(op))

    def compressed(self) -> dict[str, Tensor]:
        """The weights that are stored compressed, unpacked, by name."""
        found = (op.outputs[0] for op in self._function.operations if op.op_type.startswith(COMPRESSED))
        return {var.name: value_of(var) for var in found}

    def weights(self) -> dict[str, Tensor]:
        """Stored floats of rank 2 or more, by name."""
        found = (op.outputs[0] for op in self._function.operations if is_weight(op))
        return {var.name: value_of(var) for var in found if len(var.shape) > 1 and _dtype(var) in ("fp16", "fp32")}

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
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
            float16: round every result to the precision that the program gives it, as a device that computes in
                float16 must. Otherwise all is float32, with weights as they are stored.

        Raises:
            NasError: an input is missing, unknown or of another shape, or an operation's arguments are not supported.
        """
        self._check(inputs)
        values: dict[Any, Any] = {}
        result = Result({})
        for name, var in self._function.inputs.items():
            given = inputs[name]
            tensor = given if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given))
            values[var] = _as(tensor, _dtype(var), float16)
        for index, op in enumerate(self._function.operations):
            if is_weight(op):
                continue
            found = self._evaluate(op, values, float16, result)
            for var, tensor in zip(op.outputs, found):
                values[var] = _as(tensor, _dtype(var), float16)
                self._watch(result, op, var, values[var])
            for var in _inputs(op):
                if self._last_use.get(var) == index and var not in self._function.outputs:
                    values.pop(var, None)
        result.outputs = {var.name: self._value(var, values) for var in self._function.outputs}
        return result

    def _evaluate(self, op: Any, values: dict, float16: bool, result: Result) -> tuple[Tensor, ...]:
        given = {}
        for name, value in op.inputs.items():
            if isinstance(value, tuple | list):
                given[name] = [self._value(var, values) for var in value]
            elif value is not None:
                given[name] = self._value(value, values)
        dtypes = [_dtype(var) for var in op.outputs]
        in_float16 = "fp16" in dtypes

        def note(value: float) -> None:
            if in_float16:
                result.peak.see(value, f"{op.name} ({op.op_type})")

        try:
            found = OPERATIONS[op.op_type](Arguments(given, dtypes, note))
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NasError(f"{self.source}: {op.op_type} '{op.name}' cannot be evaluated: {reason}") from error
        found = found if isinstance(found, tuple) else (found,)
        for var, tensor in zip(op.outputs, found, strict=True):
            if tuple(tensor.shape) != tuple(var.shape):
                raise NasError(
                    f"{self.source}: {op.op_type} '{op.name}' gives {tuple(tensor.shape)}, "
                    f"the program says {tuple(var.shape)}"
                )
        return found

    def _value(self, var: Any, values: dict) -> Any:
        if var in values:
            return values[var]
        if var not in self._constants:
            self._constants[var] = value_of(var)
        return self._constants[var]

    def _watch(self, result: Result, op: Any, var: Any, tensor: Tensor) -> None:
        dtype = _dtype(var)
        if dtype not in ("fp16", "fp32") or not tensor.numel():
            return
        largest, name = tensor.abs().max().item(), f"{op.name} ({op.op_type})"
        if np.isfinite(largest):
            if dtype == "fp16":
                result.peak.see(largest, name)
        elif not result.not_finite and not self._says_infinity(op):
            result.not_finite = name

    def _says_infinity(self, op: Any) -> bool:
        """Whether an operation's own constants are infinite, as those of a mask are."""
        stored = [self._value(var, {}) for var in _inputs(op) if var.op is not None and is_weight(var.op)]
        return any(isinstance(x, Tensor) and not torch.isfinite(x).all() for x in stored)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        wanted = self.inputs
        found = {name: tuple(x.shape) for name, x in inputs.items()}
        if wanted != found:
            raise NasError(f"{self.source}: takes {wanted}, was given {found}")


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
    """A result as the program's type holds it."""
    if dtype == "fp16" and float16:
        return tensor.half().float()
    return tensor.to(_TORCH.get(dtype, torch.int64))


def _coremltools() -> tuple[Any, Any]:
    """The library, and its reader of programs."""
    library = coremltools()
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load
    return library, load
