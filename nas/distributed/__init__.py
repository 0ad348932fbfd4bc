"""Data-parallel training: ranks, batch shares, gradient averaging, DDP and FSDP2 wrappers.

Every worker runs the same stage on its share of each step's batch; gradients are averaged, so W workers with B / W clips
each take the same step as one worker with B. Rank 0 writes all files; all workers must see the folder. In a single
process these functions do nothing, and Ray is not needed.

`nas.distributed.launch` starts the workers, or joins those that `torchrun` has started.

Gradients are averaged in one of two ways. Denoisers are wrapped in torch's DistributedDataParallel, or in FSDP2 when
sharded. Modules that are trained through other methods than `forward` (autoencoder, discriminator heads), and the
supernet, for which DDP would send the gradients of all paths although one was trained, have their gradients averaged
after the backward pass.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn

from nas.errors import ConfigError

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
    joined, shapes = pack(values)
    return unpack((joined.pin_memory() if target.type == "cuda" else joined).to(target, non_blocking=True), shapes)


def pack(values: Sequence[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    """Float32 tensors as one, and the shapes that `unpack` needs."""
    return torch.cat([value.reshape(-1) for value in values]), [value.shape for value in values]


def unpack(joined: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of the tensors that `pack` has joined."""
    parts = joined.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes)]


def share(count: int) -> slice:
    """This worker's part of a batch of `count` samples; raises as `shares`."""
    return shares(count)[rank()]


def shares(count: int) -> list[slice]:
    """The parts of a batch of `count` samples that the workers have.

    Raises:
        ConfigError: the batch cannot be divided evenly; the mean of the workers' gradients would not be the batch's.
    """
    workers = world_size()
    if count % workers:
        raise ConfigError(
            f"batch: {count} cannot be shared evenly by {workers} workers; choose a multiple of {workers}"
        )
    size = count // workers
    return [slice(start, start + size) for start in range(0, count, size)]


def mean_over_workers(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over the workers of each value."""
    if world_size() == 1:
        return dict(values)
    numbers = torch.tensor([float(value) for value in values.values()], dtype=torch.float64, device=device())
    distributed.all_reduce(numbers)
    kinds = [int if isinstance(value, int) else float for value in values.values()]
    return {name: kind(x) for name, kind, x in zip(values, kinds, (numbers / world_size()).tolist())}


def sum_over_workers(value: Tensor) -> Tensor:
    """The sum of a tensor over the workers, on its device; not differentiable."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total


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


def wrap_ddp(module: nn.Module, unused: bool = False) -> nn.Module:
    """The module in DistributedDataParallel; the module itself if there is one worker.

    Args:
        unused: whether some steps leave parameters without a gradient; to find them takes time in each step.
    """
    if world_size() == 1:
        return module
    device_ids = [device()] if device().type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        module, device_ids=device_ids, find_unused_parameters=unused, forward_sync_buffers=False
    )


def shard_fsdp(
    module: nn.Module, blocks: Iterable[nn.Module], size: int | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Shard parameters, gradients and optimizer state over the workers, in place (FSDP2's `fully_shard`).

    Args:
        blocks: submodules that are sharded as separate groups, each gathered while it runs; the rest is one group.
        size: number of workers that share one copy of the module (HSDP), a divisor of all; None: all.
        dtype: parameters are gathered in this type, half as many bytes, and the module then always runs under autocast
            to it; gradients are averaged in float32. None: as they are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = None
    if size is not None:
        mesh = init_device_mesh(device().type, (world_size() // size, size), mesh_dim_names=("copies", "shards"))
    # Inputs stay as they are: in half precision, times of a schedule would fall together.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    if dtype is not None:
        module.forward = torch.autocast(device().type, dtype)(module.forward)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(module, mesh=mesh, mp_policy=policy)


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


def local_tensor(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor that may be sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def copies(tensor: Tensor) -> tuple[int, int]:
    """How many workers hold the same part of a tensor as this one, and the place of this one among them."""
    if not hasattr(tensor, "placements"):
        return world_size(), rank()
    count, place = 1, 0
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            size = tensor.device_mesh.size(dimension)
            count, place = count * size, place * size + tensor.device_mesh.get_local_rank(dimension)
    return count, place


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


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
