"""Registry of the functions that evaluate MIL operations, by operation name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Evaluated = Tensor | tuple[Tensor, ...]

OPERATIONS: dict[str, Callable[[Arguments], Evaluated]] = {}


class Arguments:
    """The inputs of one operation, by name.

    Args:
        values: tensors (float32 for floats of any precision), strings, and lists of tensors.
        dtypes: MIL's dtype names of the outputs: `fp16`, `fp32`, `int32`, `bool`, ...
        note: called with the largest magnitude of an intermediate result, such as the squares of a variance.
    """

    def __init__(self, values: dict[str, Any], dtypes: list[str], note: Callable[[float], None]) -> None:
        self.values, self.dtypes, self.note = values, dtypes, note

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        """A tensor, a string, or a list of tensors, unconverted."""
        return self.values[name]

    def optional(self, name: str) -> Tensor | None:
        """A tensor, or None if the argument is absent."""
        return self.values.get(name)

    def get(self, name: str, default: Any = None) -> Any:
        """A number, bool or string; `default` if the argument is absent."""
        value = self.values.get(name)
        if value is None:
            return default
        return value.item() if isinstance(value, Tensor) else value

    def list(self, name: str, default: Any = None) -> Any:
        """A list of integers or bools; `default` if the argument is absent."""
        value = self.values.get(name)
        if value is None:
            return default
        return torch.atleast_1d(value).tolist()


def operation(*names: str) -> Callable[[Callable[[Arguments], Evaluated]], Callable[[Arguments], Evaluated]]:
    """Register a function that evaluates the operations of these names."""

    def register(function: Callable[[Arguments], Evaluated]) -> Callable[[Arguments], Evaluated]:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register
