"""Count the convolutions, linear layers and attentions of an architecture and of a Core ML package, to compare them.

The two counts are independent: the architecture's module is run on torch's meta device, and the package is parsed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nas.models import build
from nas.spaces import Architecture, SearchSpace

Operation = tuple[str, tuple[int, ...]]
"""`("conv", (out, in, kh, kw))`, `("linear", (out, in))` or `("attention", (batch * heads, queries, keys))`."""


def of_architecture(space: SearchSpace, arch: Architecture) -> Counter[Operation]:
    """Count the operations of one denoising step of an architecture, with the space's shapes."""
    with torch.device("meta"), _Recorder() as recorder:
        build(space, arch)(torch.zeros(space.input_shape()), torch.zeros(1), torch.zeros(space.context_shape()))
    return recorder.counts


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Operation] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in ("conv2d", "linear"):
            self.counts["conv" if name == "conv2d" else name, tuple(args[1].shape)] += 1
        elif name == "scaled_dot_product_attention":
            query, key = args[0].shape, args[1].shape
            self.counts[_attention((*query[:-1], key[-2]))] += 1
        elif name == "softmax":
            self.counts[_attention(tuple(result.shape))] += 1
        return result


def of_package(spec: Any) -> Counter[Operation]:
    """Count the operations of a Core ML program's main function.

    Args:
        spec: the model's protobuf, as `coremltools.utils.load_spec` reads it.
    """
    operations = list(program_operations(spec))
    shapes = {output.name: shape_of(output) for operation in operations for output in operation.outputs}
    inputs = spec.mlProgram.functions["main"].inputs
    shapes |= {value.name: shape_of(value) for value in inputs}

    def argument(operation: Any, name: str) -> tuple[int, ...]:
        return shapes[operation.inputs[name].arguments[0].name]

    counts: Counter[Operation] = Counter()
    for operation in operations:
        if operation.type in ("conv", "linear"):
            counts[operation.type, argument(operation, "weight")] += 1
        elif operation.type == "scaled_dot_product_attention":
            counts[_attention((*argument(operation, "query")[:-1], argument(operation, "key")[-2]))] += 1
        elif operation.type == "softmax":
            counts[_attention(shape_of(operation.outputs[0]))] += 1
    return counts


def program_operations(spec: Any) -> Iterator[Any]:
    """The operations of a Core ML program's main function, constants included, in order."""
    function = spec.mlProgram.functions["main"]
    yield from function.block_specializations[function.opset].operations


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a value in a Core ML program."""
    return tuple(dimension.constant.size for dimension in value.type.tensorType.dimensions)


def difference(expected: Counter[Operation], actual: Counter[Operation]) -> str:
    """Describe missing and unexpected operations; an empty string if there are none."""
    missing, unexpected = expected - actual, actual - expected
    parts = [f"missing {_format(missing)}"] * bool(missing) + [f"unexpected {_format(unexpected)}"] * bool(unexpected)
    return "; ".join(parts)


def _format(operations: Counter[Operation]) -> str:
    shown = [f"{n} {kind} {'x'.join(map(str, shape))}" for (kind, shape), n in list(operations.items())[:3]]
    return ", ".join(shown + [f"and {len(operations) - 3} more"] * (len(operations) > 3))


def _attention(scores: tuple[int, ...]) -> Operation:
    """An attention by the shape of its scores, `(..., queries, keys)`."""
    return "attention", (math.prod(scores[:-2]), *scores[-2:])
