"""MIL's attention operation, available from iOS 18."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.conversion.mil.registry import Arguments, operation


@operation("scaled_dot_product_attention")
def scaled_dot_product_attention(a: Arguments) -> Tensor:
    """A boolean mask selects the keys; a floating-point mask is added to the scores."""
    query, key, value = a["query"], a["key"], a["value"]
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    a.note(scores.abs().max().item())
    if "attn_mask" in a:
        mask = a["attn_mask"]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value
