"""Elementwise MIL operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.conversion.mil.registry import Arguments, operation

UNARY = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": torch.clone,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}

BINARY = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}


def _unary(function):
    return lambda a: function(a["x"])


def _binary(function):
    return lambda a: function(a["x"], a["y"])


for _name, _function in UNARY.items():
    operation(_name)(_unary(_function))
for _name, _function in BINARY.items():
    operation(_name)(_binary(_function))


@operation("real_div")
def real_div(a: Arguments) -> Tensor:
    """Integers use floor division."""
    whole = not a["x"].is_floating_point()
    return torch.div(a["x"], a["y"], rounding_mode="floor" if whole else None)


@operation("gelu")
def gelu(a: Arguments) -> Tensor:
    mode = a.get("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return a["x"] * torch.sigmoid(1.702 * a["x"])
    return F.gelu(a["x"], approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operation("leaky_relu")
def leaky_relu(a: Arguments) -> Tensor:
    return F.leaky_relu(a["x"], a.get("alpha", 0.01))


@operation("elu")
def elu(a: Arguments) -> Tensor:
    return F.elu(a["x"], a.get("alpha", 1.0))


@operation("clip")
def clip(a: Arguments) -> Tensor:
    return a["x"].clamp(a.get("alpha"), a.get("beta"))


@operation("rsqrt")
def rsqrt(a: Arguments) -> Tensor:
    return torch.rsqrt(a["x"] + a.get("epsilon", 1e-12))


@operation("log")
def log(a: Arguments) -> Tensor:
    return torch.log(a["x"] + a.get("epsilon", 1e-45))


@operation("inverse")
def inverse(a: Arguments) -> Tensor:
    return 1 / (a["x"] + a.get("epsilon", 1e-4))


@operation("threshold")
def threshold(a: Arguments) -> Tensor:
    return a["x"].clamp(min=a.get("alpha", 1.0))


@operation("cast")
def cast(a: Arguments) -> Tensor:
    """Casts to integers truncate toward zero; the caller rounds floats to the precision of the output type."""
    dtype = a["dtype"]
    if dtype.startswith("fp"):
        return a["x"].float()
    return a["x"].bool() if dtype == "bool" else a["x"].to(torch.int64)


@operation("select")
def select(a: Arguments) -> Tensor:
    return torch.where(a["cond"].bool(), a["a"], a["b"])
