"""Starting the workers of a distributed run: by Ray Train, or by `torchrun`, which has started them already."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed as torch_distributed

from nas.distributed import TIMEOUT_S, device, launched_workers
from nas.errors import ConfigError, NasError


def check_workers(workers: int) -> None:
    """
    Raises:
        ConfigError: no number of workers that can be started.
    """
    if workers < 1:
        raise ConfigError(f"workers: must be at least 1, not {workers}")
    if launched_workers() > 1 and workers > 1:
        raise ConfigError(f"workers: torchrun has started {launched_workers()} processes; leave out --workers")


@contextlib.contextmanager
def launched_group() -> Iterator[None]:
    """Join the process group of the processes that `torchrun` has started, each with the GPU of its local rank.

    On the CPU if `device` is it.
    """
    gpus = device().type == "cuda"
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch_distributed.init_process_group("nccl" if gpus else "gloo", timeout=datetime.timedelta(seconds=TIMEOUT_S))
    try:
        yield
    finally:
        torch_distributed.destroy_process_group()


def start(function: Callable[..., Any], arguments: tuple, workers: int, storage: Path) -> None:
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
        train_loop_config={"function": function, "arguments": arguments, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(name=f"{time.time_ns()}", storage_path=str(storage.resolve())),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=TIMEOUT_S),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise NasError(f"the run on {workers} workers stopped: {_reason(error)}") from error
    finally:
        if owner:
            ray.shutdown()


def _worker(task: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    with contextlib.suppress(OSError):  # another machine may not have it
        os.chdir(task["folder"])  # Ray has another, and paths may be relative
    task["function"](*task["arguments"])


def _reason(error: BaseException) -> str:
    """The last line of a worker's traceback, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else repr(error))[:300]
