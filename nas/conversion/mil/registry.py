"""How each MIL operation is evaluated: one function of its arguments, registered under the operation's name."""

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
        values: tensors, float32 for floats of any precision; strings and lists of tensors where MIL has such.
        dtypes: MIL's names of the output's types: `fp16`, `fp32`, `int32`, `bool`, ...
        note: takes the largest magnitude of something that the operation computes on the way, such as a variance.
    """

    def __init__(self, values: dict[str, Any], dtypes: list[str], note: Callable[[float], None]) -> None:
        self.values, self.dtypes, self.note = values, dtypes, note

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        """A tensor, a string, or a list of tensors, as it is."""
        return self.values[name]

    def optional(self, name: str) -> Tensor | None:
        """A tensor, or None where the operation does not give it."""
        return self.values.get(name)

    def get(self, name: str, default: Any = None) -> Any:
        """A number, truth value or string; `default` where the operation does not give it."""
        value = self.values.get(name)
        if value is None:
            return default
        return value.item() if isinstance(value, Tensor) else value

    def list(self, name: str, default: Any = None) -> Any:
        """Whole numbers or truth values as a list; `default` where the operation does not give it."""
        value = self.values.get(name)
        if value is None:
            return default
        return torch.atleast_1d(value).tolist()


def operation(*names: str) -> Callable[[Callable[[Arguments], Evaluated]], Callable[[Arguments], Evaluated]]:
    """Register a function as what the operations of these names compute."""

    def register(function: Callable[[Arguments], Evaluated]) -> Callable[[Arguments], Evaluated]:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register
