"""Peak activation memory of a torch computation, exact where the allocator tells."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_activation_bytes(run: Callable[[], object], device: torch.device) -> float:
    """The most bytes that one call of `run` holds at once above what was allocated before it.

    On a CPU the profiler reports every allocation and release of torch's allocator, kernels' own buffers included (but
    not what oneDNN takes from the system directly); their running sum peaks at the answer. CUDA counts by itself.

    Returns:
        bytes; NaN on MPS, which has no such counter.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu":
        return float("nan")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return float(peak)
