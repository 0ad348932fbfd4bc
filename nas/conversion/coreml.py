"""Fixes for coremltools' torch converter: the argument of GELU, and operations that float16 is too imprecise for."""

from __future__ import annotations

from functools import cache
from typing import Any

ROOTS = ("sqrt", "rsqrt")
_NORM_OPERATIONS = ("add", "mul", "real_div", "reduce_mean", "reduce_sum", "maximum", "clip", *ROOTS)
"""The operations from the squares of a normalization to the square root, included."""
_MAX_DISTANCE = 4
"""Maximum number of operations from a square to the square root: mean, add epsilon, root, and one spare."""


@cache
def register_operations() -> None:
    """Override the converters of torch operators that lose an argument. coremltools' registry is process-wide."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    @register_torch_op(override=True)
    def gelu(context: Any, node: Any) -> None:
        """torch.export passes `approximate` as a keyword argument, which coremltools' converter ignores."""
        approximate = [*node.inputs[1:], *(node.kwinputs or {}).get("approximate", ()), "none"][0]
        mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[getattr(approximate, "val", approximate)]
        context.add(Builder.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


def keeps_float32(op: Any, residual: bool = False) -> bool:
    """Whether an operation must stay float32 in a program that is converted to float16.

    These are the timestep embedding up to its sines and cosines (float16 rounds 1000.4 to 1000.5, a different angle)
    and normalizations from the squares to the square root (the square of a value of 256 or more overflows float16).

    Args:
        residual: whether layer norms and the sums that they normalize stay float32 too.
    """
    if residual and _is_residual(op):
        return True
    return _is_angle(op) or _is_square_of_norm(op) or _follows_square(op, _MAX_DISTANCE)


def _is_residual(op: Any) -> bool:
    """Whether an operation is a layer norm, or an addition that leads to one through additions only."""
    if op.op_type == "layer_norm":
        return True
    return op.op_type == "add" and any(
        user.op_type in ("add", "layer_norm") and _is_residual(user) for user in _users(op)
    )


def _is_angle(op: Any) -> bool:
    """Whether an operation is a sine or cosine, or its result is only used by them."""
    if op.op_type in ("sin", "cos"):
        return True
    users = _users(op)
    return op.op_type in ("mul", "expand_dims", "reshape", "tile") and bool(users) and all(map(_is_angle, users))


def _is_square_of_norm(op: Any) -> bool:
    """Whether an operation squares values whose sum or mean is an input of a square root."""
    is_product = op.op_type == "mul" and op.x is op.y
    is_power = op.op_type == "pow" and op.y.val is not None and float(op.y.val.max()) == 2.0
    return (op.op_type == "square" or is_product or is_power) and _reaches_root(op, _MAX_DISTANCE)


def _reaches_root(op: Any, steps: int) -> bool:
    users = [user for user in _users(op) if user.op_type in _NORM_OPERATIONS]
    return any(user.op_type in ROOTS or (steps > 1 and _reaches_root(user, steps - 1)) for user in users)


def _follows_square(op: Any, steps: int) -> bool:
    """Whether an operation lies between the squares of a normalization and the square root, or is the root."""
    if op.op_type not in _NORM_OPERATIONS or not (op.op_type in ROOTS or _reaches_root(op, steps)):
        return False
    sources = [var.op for var in op.inputs.values() if getattr(var, "op", None) is not None]
    return any(_is_square_of_norm(s) or (steps > 1 and _follows_square(s, steps - 1)) for s in sources)


def _users(op: Any) -> list[Any]:
    return [user for output in op.outputs for user in output.child_ops]
