"""Execution of a training step: gradient accumulation, mixed precision, activation checkpointing, sharding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nas.errors import ConfigError, suggestion
from nas.models.unet import ResnetBlock, SpatialTransformer
from nas.ranges import check_range
from nas.spaces import operator_kinds, resolve

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ExecutionConfig:
    """How the steps of a stage are computed. Up to rounding, the result does not depend on it.

    Attributes:
        accumulate: number of equal parts of a batch that run one after another, with the memory of one part and the
            gradient of the whole. Learning rates and histories count whole steps. Not used by `adversarial`.
        precision: `fp32`, or autocast to `bf16` or `fp16`; weights stay float32. `fp16` uses loss scaling.
        checkpointing: recompute the activations of each block in the backward pass instead of storing them.
        shard: with several workers, shard the trained module (FSDP2) instead of replicating it (DDP). For `distill`,
            `supernet` and `finetune`.
        keep: number of training states to keep; more than 1 to be able to go back.

    Raises:
        ConfigError: an unknown precision, or a number below 1.
    """

    accumulate: int = 1
    precision: Precision = "fp32"
    checkpointing: bool = False
    shard: bool = False
    keep: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision: unknown precision '{self.precision}'{suggestion(self.precision, PRECISIONS)}"
            )
        check_range(self, ("accumulate", "keep"), 1)

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context for forward passes on a device.

        Raises:
            ConfigError: the device does not support this precision.
        """
        if self.precision == "fp32":
            return contextlib.nullcontext()
        if self.precision == "fp16" and device.type == "cpu":
            raise ConfigError("precision: fp16 needs a GPU; use bf16 or fp32 on this machine")
        if self.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("precision: this GPU does not support bf16; use fp16")
        return torch.autocast(device.type, PRECISIONS[self.precision])


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a denoiser or supernet: resnets, spatial transformers and temporal layers."""
    kinds = (ResnetBlock, SpatialTransformer, *(resolve(spec.module) for spec in operator_kinds().values()))
    return (module for module in model.modules() if isinstance(module, kinds))


def checkpoint_blocks(model: nn.Module) -> None:
    """Enable activation checkpointing of each block, in place; parameter names do not change."""
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
