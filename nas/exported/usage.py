"""Time and memory that each part of an exported pipeline takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from nas.process_memory import peak_resident_bytes, release_free_memory, reset_peak

T = TypeVar("T")
NOISE_BYTES = 1e6
"""Growth of a process's memory that says nothing about a part."""


@dataclass
class Usage:
    """What one part took.

    Attributes:
        part: `text encoder`, `denoiser` or `decoder`.
        load_s: time to load its models.
        runs: number of runs; of a denoiser in several models, of all of them in order.
        run_s: time of all runs.
        memory_mb: peak resident memory of this process while the part was loaded and run, less that before, in 10^6
            bytes: weights and activations. None if the system does not show it, because an earlier peak was higher.
    """

    part: str
    load_s: float = 0.0
    runs: int = 0
    run_s: float = 0.0
    memory_mb: float | None = None

    def loading(self, load: Callable[[], T]) -> T:
        """The result of `load()`, whose time is counted."""
        start = time.perf_counter()
        result = load()
        self.load_s += time.perf_counter() - start
        return result

    def running(self, run: Callable[[], T]) -> T:
        """The result of `run()`, whose time is counted."""
        start = time.perf_counter()
        result = run()
        self.run_s += time.perf_counter() - start
        self.runs += 1
        return result


@dataclass
class UsageReport:
    """The parts of a pipeline in the order in which they ran."""

    parts: list[Usage] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[Usage]:
        """The usage of a part, whose models must be loaded and released inside the block."""
        usage = Usage(name)
        release_free_memory()
        before = reset_peak()
        earlier_peak = peak_resident_bytes()
        yield usage
        peak = peak_resident_bytes()
        if peak > earlier_peak or earlier_peak <= before + NOISE_BYTES:
            usage.memory_mb = max(0.0, peak - before) / 1e6
        self.parts.append(usage)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `parts`, and `seconds` of all of them, with loading."""
        seconds = sum(usage.load_s + usage.run_s for usage in self.parts)
        return {"seconds": seconds, "parts": [asdict(usage) for usage in self.parts]}

    def table(self) -> str:
        """A text table, with a line for the whole."""
        lines = [f"{'part':<14}{'load':>10}{'runs':>7}{'one run':>12}{'all runs':>12}{'peak memory':>14}"]
        for usage in self.parts:
            one = f"{usage.run_s / usage.runs * 1e3:.2f} ms" if usage.runs else ""
            lines.append(_line(usage.part, usage.load_s, str(usage.runs), one, usage.run_s, usage.memory_mb))
        known = [usage.memory_mb for usage in self.parts if usage.memory_mb is not None]
        load_s, run_s = (sum(getattr(usage, name) for usage in self.parts) for name in ("load_s", "run_s"))
        lines.append(_line("whole", load_s, "", "", run_s, max(known) if len(known) == len(self.parts) else None))
        return "\n".join(lines)


def _line(part: str, load_s: float, runs: str, one: str, run_s: float, memory_mb: float | None) -> str:
    memory = "unknown" if memory_mb is None else f"{memory_mb:.1f} MB"
    return f"{part:<14}{load_s:>8.3f} s{runs:>7}{one:>12}{run_s:>10.3f} s{memory:>14}"
