"""Optimization: AdamW, its learning rate schedule, the EMA of the weights, and moments in 8 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.errors import ConfigError, shown
from nas.ranges import check_range

MIN_EMA_HORIZON = 100


@dataclass(frozen=True)
class Optimization:
    """Options of AdamW, its learning rate schedule and the EMA of the weights.

    Attributes:
        lr: peak learning rate; it rises linearly over `warmup` steps and decays on a cosine to a twentieth of it.
        clip: maximum norm of the gradient.
        weight_decay_on: `all`, or `weights`: not biases, the scales of norms, and embeddings.
        ema_horizon: steps over which the weights are averaged (EMA), up to a factor e; None: a twentieth of the run, at
            least `MIN_EMA_HORIZON`. Shorter in the first steps.
        ema: the same as a decay, 1 - 1 / horizon; give one of them.

    Raises:
        ConfigError: a number is not finite or out of range, or there are both `ema` and `ema_horizon`.
    """

    lr: float
    warmup: int = 20
    clip: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay_on: Literal["all", "weights"] = "all"
    ema_horizon: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.weight_decay_on not in ("all", "weights"):
            raise ConfigError(f"weight_decay_on: must be all or weights, not {shown(self.weight_decay_on)}")
        check_range(self, ("ema_horizon",), 1)
        if self.ema is not None and self.ema_horizon is not None:
            raise ConfigError("ema_horizon: says the same as ema; remove one of the two")
        check_range(self, ("lr", "warmup", "weight_decay"), 0)
        check_range(self, ("clip",), 0, above=True)
        check_range(self, ("betas", "ema"), 0, 1)
        if 1 in self.betas:
            raise ConfigError("betas: must be below 1, or the moment estimates never change")

    def with_ema(self, steps: int) -> Optimization:
        """These options with the `ema` of a run of this many steps."""
        if self.ema is not None:
            return self
        horizon = max(MIN_EMA_HORIZON, steps / 20) if self.ema_horizon is None else self.ema_horizon
        return replace(self, ema=1 - 1 / horizon, ema_horizon=None)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
        return self.lr * rise * fall


def names_without_decay(module: nn.Module) -> set[str]:
    """The parameters that are biases, scales of norms, or embeddings."""
    vectors = {name for name, parameter in module.named_parameters() if parameter.ndim < 2}
    tables = (name for name, part in module.named_modules() if isinstance(part, nn.Embedding))
    return vectors | {f"{name}.weight".removeprefix(".") for name in tables}


def make_optimizer(groups: Sequence[Mapping[str, Any]], config: Optimization, bits: int) -> torch.optim.Optimizer:
    """AdamW on groups of parameters; with 8 bits, torchao's, which keeps the moments of tensors of 4096 values or more in
    8-bit blocks (arXiv 2110.02861) and compiles its step.
    """
    if bits == 8:
        from torchao.optim import AdamW8bit

        return AdamW8bit(groups, lr=config.lr, betas=config.betas)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group of parameters."""
    if isinstance(group["lr"], Tensor):  # torchao's step is compiled for a tensor
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps of a parameter; of moments in 8 bits their codes and scales."""
    found = {}
    for kind, value in optimizer.state.get(parameter, {}).items():
        if hasattr(value, "codes"):
            found |= {f"{kind}.codes": value.codes, f"{kind}.scale": value.scale}
        else:
            found[kind] = value
    return found
