"""LoRA (Hu et al. 2021, arXiv 2106.09685): linear layers with a trainable low-rank addition, which is merged at the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION = ("to_q", "to_k", "to_v", "to_k_anchor", "to_v_anchor", "to_out.0")
"""The linear layers of attention, by the end of their name."""


class LoraLinear(nn.Linear):
    """W x + b + scale B A x. A linear layer becomes one in place, so the names of its weights stay.

    Attributes:
        lora_down: A, `(rank, in)`. lora_up: B, `(out, rank)`, zero at first.
    """

    lora_down: nn.Parameter
    lora_up: nn.Parameter
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_down), self.lora_up)


def add_lora(module: nn.Module, rank: int, alpha: float, attention_only: bool = True) -> int:
    """Give the linear layers of attention, or all linear layers, a low-rank addition of scale `alpha / rank`.

    Returns:
        The number of these layers.
    """
    count = 0
    for name, layer in module.named_modules():
        if type(layer) is not nn.Linear or (attention_only and not name.endswith(ATTENTION)):
            continue
        like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        layer.__class__ = LoraLinear
        layer.lora_down = nn.Parameter(torch.empty(rank, layer.in_features, **like))
        layer.lora_up = nn.Parameter(torch.zeros(layer.out_features, rank, **like))
        layer.scale = alpha / rank
        nn.init.kaiming_uniform_(layer.lora_down, a=math.sqrt(5))
        count += 1
    return count


def is_lora(name: str) -> bool:
    """Whether the parameter of this name is part of a low-rank addition."""
    return name.endswith((".lora_down", ".lora_up"))


@torch.no_grad()
def merge_lora(module: nn.Module) -> nn.Module:
    """Add the low-rank additions to the weights, in place; the layers are plain linear ones again."""
    for layer in module.modules():
        if isinstance(layer, LoraLinear):
            layer.weight += layer.scale * (layer.lora_up @ layer.lora_down)
            del layer.lora_down, layer.lora_up, layer.scale
            layer.__class__ = nn.Linear
    return module
