"""Reading ahead in worker processes, while the device computes."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nas import distributed
from nas.errors import NasError

Read = Callable[[int], Sequence[Tensor]]
"""(step) -> float32 tensors on the host; a function of the step alone."""


class StepLoader:
    """The inputs of a step, on the device of this process.

    Args:
        read: reads the inputs of a step.
        workers: processes that read ahead, for steps that are asked for in order; 0: reading waits until it is asked for.
    """

    def __init__(self, read: Read, workers: int = 0) -> None:
        self.read, self.workers = read, workers
        self._next, self._ahead = -1, iter(())

    def __call__(self, step: int) -> list[Tensor]:
        """
        Raises:
            NasError: whatever `read` raises of this kind.
        """
        device = distributed.device()
        if not self.workers:
            return distributed.move(self.read(step), device)
        if step != self._next:
            read = self.read
            packed = lambda number: distributed.pack(read(number))  # noqa: E731
            self._ahead = read_ahead(packed, _From(step), self.workers, device.type == "cuda")
        self._next = step + 1
        joined, shapes = next(self._ahead)
        return distributed.unpack(joined.to(device, non_blocking=True), shapes)


def read_ahead(
    read: Callable[[int], Any], items: Iterable[int], workers: int, pin_memory: bool = False
) -> Iterator[Any]:
    """`read(item)` of each item, in order, by worker processes.

    Args:
        read: returns tensors, which are passed in shared memory, or what can be pickled.
        workers: number of processes, at least 1.
        pin_memory: whether to pin the tensors, for a copy to a GPU that the host does not wait for.

    Raises:
        NasError: whatever `read` raises of this kind.
    """
    loader = DataLoader(
        _Items(read),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # what is read and trained must not depend on the global random state
        multiprocessing_context="fork",
    )
    for found in _forked(loader):
        if isinstance(found, _Failed):
            raise found.error
        yield found


def _forked(loader: DataLoader) -> Iterator[Any]:
    """Start the workers, in which the garbage collector leaves alone what was there before.

    FFmpeg's threads are not forked, so a worker that frees a decoded frame of this process would wait for them forever.
    """
    gc.collect()
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


class _Failed:
    """An error as a value: torch would add the worker's traceback to its message."""

    def __init__(self, error: NasError) -> None:
        self.error = error


class _Items:
    """Items as a data set of torch."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, item: int) -> Any:
        try:
            return self.read(item)
        except NasError as error:
            return _Failed(NasError(str(error)))


class _From:
    """The steps from a first one on, without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def _unchanged(value: Any) -> Any:
    return value
