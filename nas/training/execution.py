"""How a step is computed: in how many parts, in what precision, and what is kept for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nas.errors import ConfigError, suggestion
from nas.models.unet import ResnetBlock, SpatialTransformer
from nas.ranges import check_range
from nas.spaces import operator_kinds, resolve

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ExecutionConfig:
    """How the steps of a stage are computed. Up to rounding the result does not depend on it.

    Attributes:
        accumulate: a step's batch is cut into so many parts that run one after the other: the memory of one part, the
            gradient of the whole. Learning rates and histories count whole steps. `adversarial` takes its batch whole.
        precision: `fp32`, or `bf16` or `fp16` for what autocast runs in half precision; weights stay float32. `fp16`
            scales the loss.
        checkpointing: run each block again in the backward pass instead of keeping what is inside it.
        shard: with several workers, shard what is trained over them (FSDP2) instead of keeping it whole on each (DDP).
            For `distill`, `supernet` and `finetune`.
        keep: how many of the newest training states to keep; more than 1 to be able to go back.

    Raises:
        ConfigError: an unknown precision, or a number below 1.
    """

    accumulate: int = 1
    precision: str = "fp32"
    checkpointing: bool = False
    shard: bool = False
    keep: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: there is no '{self.precision}'{suggestion(self.precision, PRECISIONS)}")
        check_range(self, ("accumulate", "keep"), 1)

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context for forward passes on a device.

        Raises:
            ConfigError: the device does not compute in this precision.
        """
        if self.precision == "fp32":
            return contextlib.nullcontext()
        if self.precision == "fp16" and device.type == "cpu":
            raise ConfigError("precision: fp16 needs a GPU; use bf16 or fp32 on this machine")
        if self.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("precision: this GPU has no bf16; use fp16")
        return torch.autocast(device.type, PRECISIONS[self.precision])


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a denoiser or supernet: resnets, spatial transformers and temporal layers."""
    kinds = (ResnetBlock, SpatialTransformer, *(resolve(spec.module) for spec in operator_kinds().values()))
    return (module for module in model.modules() if isinstance(module, kinds))


def checkpoint_blocks(model: nn.Module) -> None:
    """Gradient checkpointing of each block, in place; names of parameters stay."""
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
