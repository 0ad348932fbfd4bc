"""A worker process of the distributed tests: `python distributed_worker.py RANK WORLD STORE TASK`, where TASK is a pickled call."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed, nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter


def denoiser(space: Any) -> nn.Module:
    """The model that `gradients` trains."""
    import nas

    torch.manual_seed(0)
    return nas.models.build(space, space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "SelfAttention1D"}))


def learner_of(space: Any, kind: str) -> Any:
    """A learner of the model.

    Args:
        kind: `ddp` (DDP when there are several workers), `averaged`, `sharded` (FSDP2), `hybrid` (HSDP), or `bf16` (FSDP2).
    """
    from nas.training.execution import ExecutionConfig
    from nas.training.learner import Learner
    from nas.training.optimization import Optimization

    shard = kind in ("sharded", "hybrid", "bf16")
    execution = ExecutionConfig(
        accumulate=2,
        precision="bf16" if kind == "bf16" else "fp32",
        shard=shard,
        shard_size=1 if kind == "hybrid" else None,
    )
    optimization = Optimization(lr=1e-3, warmup=1)
    return Learner(denoiser(space), optimization, 10, execution=execution, use_ddp=kind != "averaged", unused=True)


def gradients(folder: Path, space_file: Path, decoder: Path, kind: str, steps: int) -> None:
    """Take steps as `finetune` does, and leave the first step's gradients, the history and the mean of the weights."""
    import nas
    from nas.data.batches import Batches
    from nas.diffusion.losses import batch_loss
    from nas.distributed import full_tensor, is_main
    from nas.models import safetensors_io
    from nas.training.loop import run

    learner, batches, first = learner_of(nas.SearchSpace.load(space_file), kind), Batches(decoder, 0, 8, 8, 0.5), {}

    def step(number: int) -> dict[str, float]:
        batch = batches.joint(number)
        row = learner.train_step(lambda part: batch_loss(learner.model, part), batch, number)
        if not first:
            grads = {name: p.grad for name, p in learner.module.named_parameters() if p.grad is not None}
            first.update({name: full_tensor(grad).clone() for name, grad in grads.items()})
        return row

    run("test", folder, steps, {"model": learner}, step, save_every=steps)
    if kind == "bf16":
        check_half_precision(learner, batches.joint(0))
    mean = learner.ema_state()
    if distributed.is_initialized():
        check_memory(folder, learner)
    if is_main():
        safetensors_io.save(folder / "first.safetensors", first)
        safetensors_io.save(folder / "mean.safetensors", mean)


def check_half_precision(learner: Any, batch: Any) -> None:
    """Parameters are gathered in bfloat16, and the module runs without a context for it; it keeps them in float32."""
    from nas.diffusion.losses import batch_loss

    seen, conv = [], learner.module.conv_in
    hook = conv.register_forward_pre_hook(lambda module, inputs: seen.append((module.weight.dtype, inputs[0].dtype)))
    with hook, torch.no_grad():
        assert batch_loss(learner.module, batch).isfinite()
    assert set(seen) == {(torch.bfloat16, torch.float32)}, seen
    learner.module.reshard()
    assert {parameter.dtype for parameter in learner.module.parameters()} == {torch.float32}


def check_memory(folder: Path, learner: Any) -> None:
    """While a state is written, a worker holds a copy of its share of it and no more."""
    from nas.training.states import StateWriter

    seen, write = [], HuggingFaceStorageWriter.write_data
    state = learner.state().values()
    whole = sum(value.numel() * value.element_size() for value in state)
    own = held()

    def measured(self, *arguments):
        seen.append(held() - own)
        return write(self, *arguments)

    patch = mock.patch.object(HuggingFaceStorageWriter, "write_data", measured)
    with patch, StateWriter(folder, {"model": learner}) as writer:
        writer.save(100, 0.0)
    assert 0.4 * whole < seen[0] < 0.6 * whole, (seen, whole)


def held() -> int:
    """Bytes of all tensors in this process, without the messages of its workers."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    parts = [getattr(value, "_local_tensor", value) for value in tensors if value.dtype != torch.uint8]
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    return sum(storages.values())


def like_one_process(
    folder: Path, space_file: Path, decoder: Path, kinds: tuple[str, ...], steps: int, stages: Iterable, prepared: tuple
) -> None:
    """Everything that two workers do as one process does.

    Args:
        kinds: for `gradients`.
        stages: arguments of `run_stage`.
        prepared: arguments of `prepare`.
    """
    import nas
    from nas.data import latent_cache
    from nas.distributed import is_main
    from nas.models import safetensors_io
    from nas.training import run_stage, states
    from nas.training.stages.prepare import prepare

    for kind in kinds:
        gradients(folder / kind, space_file, decoder, kind, steps)
    for kind in ("ddp", "sharded"):  # what one process has saved
        learner = learner_of(nas.SearchSpace.load(space_file), kind)
        assert states.restore(folder / "alone", {"model": learner})[0] == steps
        mean = learner.ema_state()
        if is_main():
            safetensors_io.save(folder / kind / "reread.safetensors", mean)
    for arguments in stages:
        run_stage(*arguments)
    latent_cache.SHARD = 2
    prepare(*prepared)


def stage(name: str, folder: Path, config: object, inputs: object, killed: tuple[int, int] | None = None) -> None:
    """Run a stage.

    Args:
        killed: the worker, and the step in whose save it gets SIGKILL, with its file half written.
    """
    from nas.training import run_stage

    write = HuggingFaceStorageWriter.write_data

    def dies(self, plan, planner):
        if killed == (distributed.get_rank(), self.index.step):
            (self.partial / "half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, plan, planner)

    with mock.patch.object(HuggingFaceStorageWriter, "write_data", dies):
        run_stage(name, folder, config, inputs)


if __name__ == "__main__":
    rank, world, store, task = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    function, arguments = pickle.loads(Path(task).read_bytes())
    globals()[function](*arguments)
    distributed.destroy_process_group()
