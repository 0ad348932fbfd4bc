"""Execution of a training step: gradient accumulation, mixed precision, activation checkpointing, compilation, sharding."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nas import distributed
from nas.errors import ConfigError, shown, suggestion
from nas.models.unet import ResnetBlock, SpatialTransformer
from nas.ranges import check_range
from nas.spaces import operator_kinds, resolve
from nas.training.telemetry.throughput import recomputation

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


MAX_SHAPES = 64
"""Times that the blocks of one class may be compiled."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How the steps of a stage are computed. Up to rounding, the result does not depend on it.

    Attributes:
        accumulate: number of equal parts of a batch that run one after another, with the memory of one part and the
            gradient of the whole. Learning rates and histories count whole steps. Not used by `adversarial`.
        precision: `fp32`, or autocast to `bf16` or `fp16`; weights stay float32. `fp16` uses loss scaling.
        checkpointing: recompute the activations of each block in the backward pass instead of storing them.
        compile: compile each block with `torch.compile`; the first steps take minutes. Not used by `decoder`.
        shard: with several workers, shard the trained module (FSDP2) instead of replicating it (DDP), and gather its
            parameters in `precision`. For `distill`, `supernet` and `finetune`.
        shard_size: with `shard`, number of workers that share one copy of the module, such as the GPUs of a machine; the
            others hold further copies (HSDP). None: all.
        optimizer_bits: 32, or 8: AdamW keeps its moments in a quarter of the memory; needs torchao, and excludes `shard`.
        keep: number of training states to keep; more than 1 to be able to go back, and to extend a finished stage.
        data_workers: processes of each worker that read and decode the data of the next steps. None: 2 with a CUDA GPU,
            otherwise none.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None: a CUDA GPU if there is one, otherwise the CPU. Float32 products
            are computed in TF32 on GPUs that have it.
        peak_tflops: dense peak of one device in this precision, for the share of it that is reached (MFU); None: that of
            known GPUs.
        loggers: `tensorboard`, `wandb`, `mlflow`; None: TensorBoard if it is installed.
        profile_steps: number of steps of which to write a trace; 0 for none.

    Raises:
        ConfigError: an unknown precision or logger, or a number out of range.
    """

    accumulate: int = 1
    precision: Precision = "fp32"
    checkpointing: bool = False
    compile: bool = False
    shard: bool = False
    shard_size: int | None = None
    optimizer_bits: int = 32
    keep: int = 1
    data_workers: int | None = None
    device: str | None = None
    peak_tflops: float | None = None
    loggers: tuple[str, ...] | None = None
    profile_steps: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision: unknown precision '{self.precision}'{suggestion(self.precision, PRECISIONS)}"
            )
        check_range(self, ("accumulate", "keep", "shard_size"), 1)
        check_range(self, ("data_workers",), 0)
        check_range(self, ("peak_tflops",), 0, above=True)
        check_range(self, ("profile_steps",), 0, 1000)
        if self.optimizer_bits not in (8, 32):
            raise ConfigError(f"optimizer_bits: must be 8 or 32, not {shown(self.optimizer_bits)}")
        if self.optimizer_bits == 8 and self.shard:
            raise ConfigError("optimizer_bits: 8 does not work with 'shard: true'; remove one of the two")
        if self.shard_size is not None and not self.shard:
            raise ConfigError("shard_size: is part of 'shard: true'; add that, or remove it")

    def check(self, device: torch.device) -> None:
        """
        Raises:
            ConfigError: the device does not support this precision, or a package is missing.
        """
        if self.optimizer_bits == 8 and importlib.util.find_spec("torchao") is None:
            raise ConfigError("optimizer_bits: 8 needs torchao; run: pip install torchao")
        if self.precision == "fp16" and device.type == "cpu":
            raise ConfigError("precision: fp16 needs a GPU; use bf16 or fp32 on this machine")
        emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        if self.precision == "bf16" and emulated:
            raise ConfigError("precision: this GPU does not support bf16, it can only emulate it; use fp16")

    @property
    def gathered_dtype(self) -> torch.dtype | None:
        """The type in which a sharded module's parameters are gathered; None: as they are."""
        return None if self.precision == "fp32" else PRECISIONS[self.precision]

    def loaders(self, device: torch.device) -> int:
        """The number of processes that read ahead for a device."""
        return self.data_workers if self.data_workers is not None else 2 if device.type == "cuda" else 0

    def check_workers(self, workers: int) -> None:
        """
        Raises:
            ConfigError: this many workers cannot form groups of `shard_size`.
        """
        if workers > 1 and workers % (self.shard_size or 1):
            sizes = ", ".join(str(size) for size in range(1, workers + 1) if workers % size == 0)
            raise ConfigError(f"shard_size: {self.shard_size} does not divide {workers} workers; choose one of {sizes}")

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context for forward passes on a device; raises as `check`."""
        self.check(device)
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, PRECISIONS[self.precision])


def check_device(execution: ExecutionConfig, where: str) -> None:
    """Check the device and the precision before other work.

    Args:
        where: what errors begin with, such as the file and the key that hold the options.

    Raises:
        ConfigError: this machine does not have the device, or it does not support the precision.
    """
    try:
        with distributed.use_device(execution.device):
            execution.check(distributed.device())
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def memory_advice(stage: str, config: object, execution: ExecutionConfig, device: torch.device) -> str:
    """Which options of a stage that ran out of memory need less of it, the cheapest first."""
    batch, workers = getattr(config, "batch", 1), distributed.world_size()
    denoises = stage in ("distill", "supernet", "finetune", "adversarial")
    advice = []
    if execution.precision == "fp32" and device.type == "cuda" and (denoises or stage == "decoder"):
        advice.append("set execution.precision: bf16")
    if denoises and not execution.checkpointing:
        advice.append("set execution.checkpointing: true")
    if stage != "adversarial" and batch // workers > execution.accumulate:
        advice.append(f"raise execution.accumulate (now {execution.accumulate})")
    if stage == "adversarial" and batch > workers:
        advice.append(f"lower stages.adversarial.batch (now {batch})")
    if denoises and stage != "adversarial" and workers > 1 and not execution.shard:
        advice.append("set execution.shard: true")
    if execution.optimizer_bits == 32 and not execution.shard:
        advice.append("set execution.optimizer_bits: 8")
    if stage == "decoder":
        advice.append("train on fewer frames (stages.decoder.frames)")
    return ", or ".join(advice) or "use a device with more memory"


def allow_tf32(device: torch.device) -> None:
    """Let a GPU compute float32 products in TF32: several times faster, with the mantissa of fp16."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a denoiser or supernet: resnets, spatial transformers and temporal layers."""
    kinds = (ResnetBlock, SpatialTransformer, *(resolve(spec.module) for spec in operator_kinds().values()))
    return (module for module in model.modules() if isinstance(module, kinds))


def compile_blocks(model: nn.Module) -> None:
    """Compile each block in place, before `checkpoint_blocks`; parameter names do not change.

    A whole supernet would be compiled again for every path through it.
    """
    # Blocks of one class share a limit, and each width and number of frames is compiled by itself.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_SHAPES)
    for block in blocks(model):
        # Not for dynamic shapes: the compiler fails on the backward pass of a `SpatialTransformer` with them.
        block.forward = torch.compile(block.forward, dynamic=False)


def checkpoint_blocks(model: nn.Module) -> None:
    """Enable activation checkpointing of each block, in place; parameter names do not change."""
    for block in blocks(model):
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, context_fn=recomputation
        )
