"""Data-parallel training: ranks, batch shares, gradient averaging, DDP and FSDP2 wrappers, and launch through Ray Train.

Every worker runs the same stage on its share of each step's batch; gradients are averaged, so W workers with B / W clips
each take the same step as one worker with B. Rank 0 writes all files; all workers must see the folder. In a single
process these functions do nothing, and Ray is not needed.

The workers are started by Ray Train (`launch`), or by `torchrun` (`launched_group`).

Gradients are averaged in one of two ways. Denoisers are wrapped in torch's DistributedDataParallel, or in FSDP2 when
sharded. Modules that are trained through other methods than `forward` (autoencoder, discriminator heads), and the
supernet, for which DDP would send the gradients of all paths although one was trained, have their gradients averaged
after the backward pass.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from nas.errors import ConfigError, NasError

TIMEOUT_S = 6 * 3600
"""Rank 0 may evaluate a finished stage for a long time while the other workers wait."""

_in_use: list[torch.device] = []


def world_size() -> int:
    """The number of workers; 1 without torch.distributed."""
    return distributed.get_world_size() if _initialized() else 1


def rank() -> int:
    """The index of this worker; 0 without torch.distributed."""
    return distributed.get_rank() if _initialized() else 0


def is_main() -> bool:
    """Whether this is rank 0, the worker that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until all workers are here."""
    if _initialized():
        distributed.barrier()


def device() -> torch.device:
    """The device that this process computes on: that of `use_device`; by default its CUDA device, or the CPU."""
    if _in_use:
        return _in_use[-1]
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextlib.contextmanager
def use_device(name: str | None) -> Iterator[None]:
    """Compute on the device of this name inside the block; None changes nothing.

    Raises:
        ConfigError: as `find_device`.
    """
    if name is None:
        yield
        return
    _in_use.append(find_device(name))
    try:
        yield
    finally:
        _in_use.pop()


def find_device(name: str) -> torch.device:
    """The device of a name such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        ConfigError: an unknown name, a device that this machine lacks, or one GPU for several workers.
    """
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: unknown device {name!r}; give cpu, cuda, cuda:1 or mps") from None
    if found.type == "cpu":
        return torch.device("cpu")
    kind = getattr(torch, found.type, None)
    count = kind.device_count() if hasattr(kind, "device_count") and kind.is_available() else 0
    if (found.index or 0) >= count:
        here = f"this machine has {count}" if count else "this machine has none"
        raise ConfigError(f"device: '{name}': {here} of this kind that torch {torch.__version__} can use; give cpu")
    if found.index is None:
        return torch.device(found.type, kind.current_device() if hasattr(kind, "current_device") else 0)
    if max(world_size(), launched_workers()) > 1:
        raise ConfigError(f"device: '{name}': several workers each use a GPU of their own; give '{found.type}'")
    return found


def move(values: Sequence[Tensor], target: torch.device) -> list[Tensor]:
    """Float32 tensors on a device, after one copy of all of them, which the host does not wait for."""
    if target.type == "cpu":
        return list(values)
    joined = torch.cat([value.reshape(-1) for value in values])
    joined = (joined.pin_memory() if target.type == "cuda" else joined).to(target, non_blocking=True)
    parts = joined.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values)]


def share(count: int) -> slice:
    """This worker's part of a batch of `count` samples.

    Raises:
        ConfigError: the batch cannot be divided evenly; the mean of the workers' gradients would not be the batch's.
    """
    workers = world_size()
    if count % workers:
        raise ConfigError(
            f"batch: {count} cannot be shared evenly by {workers} workers; choose a multiple of {workers}"
        )
    size = count // workers
    return slice(rank() * size, (rank() + 1) * size)


def mean_over_workers(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over the workers of each value."""
    if world_size() == 1:
        return dict(values)
    numbers = torch.tensor([float(value) for value in values.values()], dtype=torch.float64, device=device())
    distributed.all_reduce(numbers)
    kinds = [int if isinstance(value, int) else float for value in values.values()]
    return {name: kind(x) for name, kind, x in zip(values, kinds, (numbers / world_size()).tolist())}


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average gradients over the workers in place; the same parameters must have a gradient on every worker."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(part.view_as(gradient))


def wrap_ddp(module: nn.Module) -> nn.Module:
    """The module in DistributedDataParallel; the module itself if there is one worker."""
    if world_size() == 1:
        return module
    device_ids = [device()] if device().type == "cuda" else None
    # An image step skips the temporal layers, so not every parameter has a gradient in every step.
    return nn.parallel.DistributedDataParallel(
        module, device_ids=device_ids, find_unused_parameters=True, forward_sync_buffers=False
    )


def shard_fsdp(module: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """Shard parameters, gradients and optimizer state over the workers, in place (FSDP2's `fully_shard`).

    Args:
        blocks: submodules that are sharded as separate groups, each gathered while it runs; the rest is one group.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block)
    return fully_shard(module)


@contextlib.contextmanager
def no_gradient_sync(model: nn.Module):
    """A context without gradient synchronization, for all but the last part of an accumulated batch."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    elif hasattr(model, "set_requires_gradient_sync"):  # FSDP2
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    else:
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, by a collective call of all workers; an ordinary tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The full tensors, in the memory of rank 0's host; {} on the other workers. A collective call.

    No device holds more than one of them whole at a time.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor)
        if is_main():
            gathered[name] = full.detach().cpu()
    return gathered


def copy_full_tensor(target: Tensor, state: Mapping[str, Tensor], name: str) -> None:
    """Copy the full tensor `state[name]` into one that may be sharded, whose shards come from rank 0's copy."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        full = state[name] if is_main() else torch.empty(target.shape, dtype=target.dtype)
        value = distribute_tensor(full.to(target.device), target.device_mesh, target.placements)
    else:
        value = state[name]
    with torch.no_grad():
        target.copy_(value)


def launched_workers() -> int:
    """The number of processes that `torchrun`, or a launcher that sets the same variables, has started; else 1."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in names) else 1


def launched_rank() -> int:
    """The rank of this process among those that `launched_workers` counts; else 0."""
    return int(os.environ["RANK"]) if launched_workers() > 1 else 0


@contextlib.contextmanager
def launched_group() -> Iterator[None]:
    """Join the process group of the processes that `torchrun` has started, each with the GPU of its local rank.

    On the CPU if `device` is it.
    """
    gpus = device().type == "cuda"
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group("nccl" if gpus else "gloo", timeout=datetime.timedelta(seconds=TIMEOUT_S))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def launch(function: Callable[..., Any], arguments: tuple, workers: int, storage: Path) -> None:
    """Run `function(*arguments)` on the workers of a Ray cluster, by default one started on this machine.

    They have a GPU each if `device` is one.

    Args:
        storage: folder for the state of Ray Train.

    Raises:
        NasError: a worker failed; the message gives the reason.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus, owner = device().type == "cuda", not ray.is_initialized()
    if owner:
        ray.init(log_to_driver=True, include_dashboard=False, logging_level="ERROR")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"function": function, "arguments": arguments},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(name=f"{time.time_ns()}", storage_path=str(storage.resolve())),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=TIMEOUT_S),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise NasError(f"training on {workers} workers stopped: {_reason(error)}") from error
    finally:
        if owner:
            ray.shutdown()


def _worker(task: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    task["function"](*task["arguments"])


def _reason(error: BaseException) -> str:
    """The last line of a worker's traceback, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else repr(error))[:300]


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
