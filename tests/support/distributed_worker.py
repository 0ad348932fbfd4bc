"""A worker process of the distributed tests: `python distributed_worker.py RANK WORLD STORE TASK`, where TASK is a pickled call."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from torch import distributed


def gradients(folder: Path, space_file: Path, decoder: Path, kind: str, steps: int) -> None:
    """Take steps as `finetune` does, and leave the first step's gradients, the history and the mean of the weights.

    Args:
        kind: `ddp` (DDP when there are several workers), `averaged`, or `sharded` (FSDP2).
    """
    import nas
    from nas import distributed
    from nas.data.batches import Batches
    from nas.diffusion.losses import batch_loss
    from nas.models import safetensors_io
    from nas.training.execution import ExecutionConfig
    from nas.training.learner import Learner, Optimization
    from nas.training.loop import _restore, run

    space = nas.SearchSpace.load(space_file)
    torch.manual_seed(0)
    model = nas.models.build(space, space.architecture({"down.0.0/0": "Conv1D", "up.1.1/0": "SelfAttention1D"}))
    execution = ExecutionConfig(accumulate=2, shard=kind == "sharded")
    learner = Learner(model, Optimization(lr=1e-3, warmup=1), 10, execution=execution, use_ddp=kind != "averaged")
    batches = Batches(decoder, 0, 8, 8, image_share=0.3)
    first = {}

    def step(number: int) -> dict[str, float]:
        batch = batches.joint(number)
        row = learner.train_step(lambda part: batch_loss(learner.model, part), batch, number)
        if not first:
            grads = {name: p.grad for name, p in learner.module.named_parameters() if p.grad is not None}
            first.update({name: getattr(g, "full_tensor", lambda g=g: g)().clone() for name, g in grads.items()})
        return row

    run("test", folder, steps, {"model": learner}, step, save_every=1)
    result = learner.result()
    assert bool(learner.state()) == distributed.is_main(), "only rank 0 holds what is saved"
    if distributed.is_main():
        again = Learner(result, Optimization(lr=1e-3, warmup=1), 10)  # what was saved is whole
        assert _restore(folder, {"model": again})[0] == steps
        safetensors_io.save(folder / "first.safetensors", first)
        safetensors_io.save(folder / "mean.safetensors", again.ema_state())


def gradients_of_kinds(folder: Path, space_file: Path, decoder: Path, kinds: tuple[str, ...], steps: int) -> None:
    for kind in kinds:
        gradients(folder / kind, space_file, decoder, kind, steps)


def stage(name: str, folder: Path, config: object, inputs: object) -> None:
    from nas.training import run_stage

    run_stage(name, folder, config, inputs)


if __name__ == "__main__":
    rank, world, store, task = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world))
    function, arguments = pickle.loads(Path(task).read_bytes())
    globals()[function](*arguments)
    distributed.destroy_process_group()
