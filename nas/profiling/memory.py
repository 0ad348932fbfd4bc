"""Peak activation memory of a torch computation, counted by the allocator."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_activation_bytes(run: Callable[[], object], device: torch.device) -> float:
    """Peak bytes that one call of `run` allocates at once, without what was allocated before.

    On a CPU it is the peak of the running sum of the profiler's allocation events, which include buffers of kernels but
    not what oneDNN allocates from the system directly. On CUDA it is torch's own counter.

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
    # torch.profiler.profile is this profiler, after an import of torch._inductor that takes two seconds.
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return float(peak)
