"""What coremltools' converter of torch programs gets wrong, put right."""

from __future__ import annotations

from functools import cache
from typing import Any

ROOTS = ("sqrt", "rsqrt")
_BETWEEN = ("add", "mul", "real_div", "reduce_mean", "reduce_sum", "maximum", "clip", *ROOTS)
"""What stands between the squares of a norm and their root, and the root."""
_REACH = 4
"""Operations from a square to its root: mean, epsilon, root, and one to spare."""


@cache
def register_operations() -> None:
    """Replace the conversions that lose an argument. coremltools keeps them in one table for the whole process."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    @register_torch_op(override=True)
    def gelu(context: Any, node: Any) -> None:
        """torch.export gives `approximate` by keyword, which coremltools' own version does not read."""
        approximate = [*node.inputs[1:], *(node.kwinputs or {}).get("approximate", ()), "none"][0]
        mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[getattr(approximate, "val", approximate)]
        context.add(Builder.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


def keeps_float32(op: Any, residual: bool = False) -> bool:
    """Whether an operation of a program that becomes float16 must stay float32.

    Timesteps up to their sines and cosines: float16 cannot tell 1000 from 1000.4, which is a different angle. And the
    squares of a norm up to their root: a square passes float16's largest number where the value passes 256.

    Args:
        residual: layer norms and the sums that they normalize stay float32 too.
    """
    if residual and _is_residual(op):
        return True
    return _is_angle(op) or _is_square_of_norm(op) or _follows_square(op, _REACH)


def _is_residual(op: Any) -> bool:
    """Whether an operation is a layer norm, or a sum that is normalized, perhaps after further sums."""
    if op.op_type == "layer_norm":
        return True
    return op.op_type == "add" and any(
        user.op_type in ("add", "layer_norm") and _is_residual(user) for user in _users(op)
    )


def _is_angle(op: Any) -> bool:
    """Whether an operation is a sine or a cosine, or does nothing but feed one."""
    if op.op_type in ("sin", "cos"):
        return True
    users = _users(op)
    return op.op_type in ("mul", "expand_dims", "reshape", "tile") and bool(users) and all(map(_is_angle, users))


def _is_square_of_norm(op: Any) -> bool:
    """Whether an operation squares values whose sum or mean goes into a root."""
    by_itself = op.op_type == "mul" and op.x is op.y
    by_power = op.op_type == "pow" and op.y.val is not None and float(op.y.val.max()) == 2.0
    return (op.op_type == "square" or by_itself or by_power) and _reaches_root(op, _REACH)


def _reaches_root(op: Any, steps: int) -> bool:
    users = [user for user in _users(op) if user.op_type in _BETWEEN]
    return any(user.op_type in ROOTS or (steps > 1 and _reaches_root(user, steps - 1)) for user in users)


def _follows_square(op: Any, steps: int) -> bool:
    """Whether an operation stands between the squares of a norm and their root, or is the root."""
    if op.op_type not in _BETWEEN or not (op.op_type in ROOTS or _reaches_root(op, steps)):
        return False
    sources = [var.op for var in op.inputs.values() if getattr(var, "op", None) is not None]
    return any(_is_square_of_norm(s) or (steps > 1 and _follows_square(s, steps - 1)) for s in sources)


def _users(op: Any) -> list[Any]:
    return [user for output in op.outputs for user in output.child_ops]
