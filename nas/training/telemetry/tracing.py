"""A trace of a few training steps by torch's profiler, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

FOLDER = "profile"
FIRST = 3
"""Steps before those that are traced: the first ones allocate, compile and fill caches."""


class Tracer:
    """Writes `profile/step-NUMBER.json` to the folder, after the last traced step.

    Args:
        steps: how many to trace; 0 for none.
        numbers: the steps that will be taken; in a short run its last ones are traced.
    """

    def __init__(self, folder: Path, steps: int, numbers: range, device: torch.device) -> None:
        first = max(numbers.start, min(numbers.start + FIRST, numbers.stop - steps))
        self._traced = range(first, min(first + steps, numbers.stop))
        self._folder, self._profile = folder / FOLDER, None
        self._activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Trace the step that is taken inside, if it is to be."""
        if number not in self._traced:
            yield
            return
        if number == self._traced.start:
            self._profile = profile(activities=self._activities, record_shapes=True, profile_memory=True)
            self._profile.start()
        yield
        if number + 1 == self._traced.stop:
            self._profile.stop()
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"step-{number + 1:07d}.json"
            self._profile.export_chrome_trace(str(path))
            self._profile = None
            tqdm.write(f"{path}: the trace of {len(self._traced)} steps; open it at ui.perfetto.dev", file=sys.stderr)
