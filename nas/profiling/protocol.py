"""The measurement protocol: the order of timing, the number of repetitions, and the stopping rule.

Workloads are visited in shuffled rounds, a short block of runs at a time, so that slow drift of the machine affects all
of them equally. Between two blocks a reference workload is timed; a block next to a slow reference is repeated. A
workload is done when the 95% interval of its median is narrow enough, or when its time is used up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, isfinite

import numpy as np

from nas.costs import Row
from nas.failures import Infeasible, ToolError
from nas.profiling.runtimes.base import Session, WorkloadStats
from nas.ranges import check_range


@dataclass(frozen=True)
class Protocol:
    """How long and how carefully to measure.

    Attributes:
        processes: number of processes that time a workload in turn: 1, or at least 6, because the interval is computed
            from their medians (see `Samples.medians`).
        reload_s: a workload that takes longer than this to load in all processes is timed in one.
        interval: a workload is done when half the 95% interval of its median is below this fraction of the median
            and it has `min_samples` samples in `min_blocks` blocks.
        min_samples: see `interval`.
        min_blocks: see `interval`; a 95% order-statistic interval needs six.
        cap_s: a workload with `min_blocks` blocks is also done after this wall-clock time, which includes the reference.
        slow_cap_s: the cap for a workload of which `min_samples` samples take longer than `cap_s`; from `cap_s` on only
            the interval must be narrow.
        single_run_s: a workload of which a sample takes longer than this is timed once, in one process; its row has a count of
            1, no interval, and says so in `reason`. An operator's sample may be runs of two graphs, four of its own.
        drift: a block is repeated when the reference next to it is slower than its median by more than this fraction.
        cooldown_s: first pause after such a block; the pause doubles while the reference is still slow.
        max_wait_fraction: the pauses take at most this fraction of the time that all blocks took.
        in_model_below_ms: operators are timed inside the denoiser (`InModelWorkload`) if the backbone takes less than
            this, else alone: in a large backbone the difference is lost in noise.
        seed: of the order of the visits.
    """

    processes: int = 6
    reload_s: float = 12.0
    interval: float = 0.02
    min_samples: int = 20
    min_blocks: int = 6
    cap_s: float = 4.0
    slow_cap_s: float = 60.0
    single_run_s: float = 10.0
    drift: float = 0.10
    cooldown_s: float = 0.05
    max_wait_fraction: float = 0.25
    in_model_below_ms: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("processes", "min_samples", "min_blocks"), 1)
        check_range(self, ("reload_s", "interval", "cap_s", "slow_cap_s", "single_run_s", "drift", "cooldown_s"), 0)
        check_range(self, ("max_wait_fraction", "in_model_below_ms", "seed"), 0)


@dataclass(frozen=True)
class Block:
    """Latencies of consecutive runs, and the index of the process that they ran in."""

    latencies_ms: list[float]
    process: int = 0

    @cached_property
    def median_ms(self) -> float:
        """The median latency."""
        return float(np.median(self.latencies_ms))


@dataclass
class Samples:
    """The blocks of one workload.

    Attributes:
        kept: blocks next to a reference of normal speed.
        drifted: blocks next to a slow reference.
        spent_s: wall-clock time that they took.
        min_blocks: see `Protocol`.
    """

    kept: list[Block] = field(default_factory=list)
    drifted: list[Block] = field(default_factory=list)
    spent_s: float = 0.0
    min_blocks: int = Protocol.min_blocks

    @property
    def blocks(self) -> list[Block]:
        """The blocks that count: `kept`, or all if `kept` has too few for an interval."""
        return self.kept if len(self.kept) >= self.min_blocks else self.kept + self.drifted

    def medians(self) -> np.ndarray:
        """The independent values that median and interval are computed from: of processes if there are several, else of blocks."""
        by_process: dict[int, list[float]] = {}
        for block in self.blocks:
            by_process.setdefault(block.process, []).append(block.median_ms)
        if len(by_process) > 1:
            return np.array([np.median(medians) for medians in by_process.values()])
        return np.array([block.median_ms for block in self.blocks])

    def done(self, protocol: Protocol, tolerance_ms: float) -> bool:
        """Whether the workload needs no more blocks; `tolerance_ms` as in `WorkloadStats`."""
        if len(self.kept) + len(self.drifted) < self.min_blocks:
            return False
        few = sum(len(block.latencies_ms) for block in self.blocks) < protocol.min_samples
        if self.spent_s >= (max(protocol.cap_s, protocol.slow_cap_s) if few else protocol.cap_s):
            return True
        if len(self.kept) < self.min_blocks or (few and self.spent_s < protocol.cap_s):
            return False
        medians = self.medians()
        return interval_half_width(medians) <= max(protocol.interval * np.median(medians), tolerance_ms)

    def row(self, workload: str, stats: WorkloadStats, source: str) -> Row:
        """The table row: the median of `medians()`, and percentiles over all samples.

        A cheap operator timed inside a model is a difference of two noisy times, whose median may be negative on a busy
        machine. Then the latency is 0, and the interval shows how uncertain it is.

        Raises:
            ToolError: there is no sample, or one is not finite.
        """
        for block in self.blocks or [Block([])]:
            _finite(workload, block.latencies_ms)
        medians, samples = self.medians(), np.concatenate([block.latencies_ms for block in self.blocks])
        p10, p90 = np.percentile(samples, [10, 90])
        return Row(
            workload=workload,
            latency_ms=_round(max(0.0, np.median(medians))),
            memory_mb=stats.memory_mb,
            weights_mb=stats.weights_mb,
            params=stats.params,
            latency_p10_ms=_round(p10),
            latency_p90_ms=_round(p90),
            latency_ci_ms=_round(interval_half_width(medians)),
            count=len(samples),
            load_ms=_round(stats.load_ms),
            variant=stats.variant,
            source=source,
        )


def interval_half_width(values: np.ndarray) -> float:
    """Half the width of the narrowest central order-statistic interval that covers the median with 95%.

    Distribution-free: the interval between the k-th smallest and k-th largest of n values misses the median with
    probability 2 * P(Binomial(n, 1/2) < k). NaN below six values, where none reaches 95%.
    """
    from scipy.stats import binom  # takes half a second, which a complete table does not need

    values = np.sort(values)
    k = int(binom.ppf(0.025, len(values), 0.5)) if len(values) else 0
    return float(values[-k] - values[k - 1]) / 2 if k else float("nan")


def measure(
    sessions: Mapping[str, Session],
    reference: Reference,
    protocol: Protocol,
    block_ms: float,
    on_row: Callable[[Row], None],
    source: str = "measured",
) -> None:
    """Time all sessions in shuffled rounds.

    Args:
        sessions: by workload key.
        reference: timed between the blocks.
        block_ms: target duration of a block.
        on_row: called with each row as soon as it is known.
        source: of the rows.
    """
    order = random.Random(protocol.seed)
    samples = {name: Samples(min_blocks=protocol.min_blocks) for name in sessions}
    runs = {name: session.runs_per_block or 1 for name, session in sessions.items()}
    while samples:
        names = list(samples)
        order.shuffle(names)
        for name in names:
            try:
                start = time.perf_counter()
                block = Block(_finite(name, sessions[name].block(runs[name])), sessions[name].process)
            except Infeasible as error:
                del samples[name]
                on_row(infeasible(name, str(error), sessions[name].stats))
                continue
            blocks = samples[name]
            first = not blocks.spent_s
            elapsed_ms = (time.perf_counter() - start) * 1e3 / runs[name]
            if first and elapsed_ms > protocol.single_run_s * 1e3:
                blocks.kept.append(block)
                reason = f"timed once: a sample takes longer than {protocol.single_run_s:g} s"
                on_row(replace(blocks.row(name, sessions[name].stats, source), reason=reason))
                sessions[name].close()
                del samples[name]
                continue
            fixed = sessions[name].runs_per_block is not None
            if not fixed:
                runs[name] = _runs(block_ms, elapsed_ms)
            slow = reference.slow()
            visit_s = time.perf_counter() - start
            blocks.spent_s += visit_s
            reference.cool_down(visit_s)
            if first and not fixed and runs[name] > 1:  # a single run that only sets the length of a block
                continue
            (blocks.drifted if slow else blocks.kept).append(block)
            if blocks.done(protocol, sessions[name].stats.tolerance_ms):
                on_row(blocks.row(name, sessions[name].stats, source))
                sessions[name].close()
                del samples[name]


def infeasible(workload: str, reason: str, stats: WorkloadStats | None = None) -> Row:
    """The row of a workload that cannot run."""
    nan = float("nan")
    memory_mb, weights_mb, params = (stats.memory_mb, stats.weights_mb, stats.params) if stats else (nan, nan, 0)
    return Row(workload, float("inf"), memory_mb, weights_mb, params, status="infeasible", reason=reason)


class Reference:
    """The reference workload, timed between blocks of the others to detect that the machine is slow.

    One reference serves the whole run, so that a group of workloads that begins in a slow phase is recognized.

    Args:
        session: on the reference workload.
        block_ms: target duration of a probe.
    """

    def __init__(self, session: Session, block_ms: float, protocol: Protocol) -> None:
        self.session, self.protocol = session, protocol
        self.runs = _runs(block_ms, float(np.median(_finite("the reference workload", session.block(3)))))
        self.history = [self._probe() for _ in range(3)]
        self.slow_before = False
        self.probes = self.slow_probes = 0
        self.may_wait_s = protocol.cooldown_s

    @property
    def median_ms(self) -> float:
        """The median latency of all probes."""
        return float(np.median(self.history))

    @property
    def quality(self) -> dict[str, float]:
        """For a table's metadata: `reference_ms`, the median, and `repeated`, the fraction of slow probes."""
        return {"reference_ms": _round(self.median_ms), "repeated": round(self.slow_probes / max(1, self.probes), 3)}

    def slow(self) -> bool:
        """Time the reference; True if it is slow now or was slow at the previous probe."""
        now_ms = self._probe()
        slow_now = self._is_slow(now_ms)
        self.history.append(now_ms)
        result = slow_now or self.slow_before
        self.probes, self.slow_probes, self.slow_before = self.probes + 1, self.slow_probes + result, slow_now
        return result

    def cool_down(self, spent_s: float) -> None:
        """Pause while the reference is slow, within the limit of `Protocol.max_wait_fraction`.

        Args:
            spent_s: measuring time since the last call, a fraction of which may be spent on pauses now or later.
        """
        self.may_wait_s += self.protocol.max_wait_fraction * spent_s
        slow, pause_s = self.slow_before, self.protocol.cooldown_s
        while slow and pause_s <= self.may_wait_s:
            time.sleep(pause_s)
            self.may_wait_s -= pause_s
            slow, pause_s = self._is_slow(self._probe()), 2 * pause_s

    def _probe(self) -> float:
        return float(np.median(self.session.block(self.runs)))

    def _is_slow(self, now_ms: float) -> bool:
        return now_ms > (1 + self.protocol.drift) * self.median_ms


def _finite(name: str, latencies_ms: list[float]) -> list[float]:
    """The latencies of a block, if all are finite.

    Raises:
        ToolError: one is not, or there is none.
    """
    odd = [ms for ms in latencies_ms if not isfinite(ms)]
    if odd or not latencies_ms:
        raise ToolError(f"{name}: the runtime returned {odd[0] if odd else 'nothing'} instead of a finite latency")
    return latencies_ms


def _runs(block_ms: float, run_ms: float) -> int:
    """Runs per block: at least three, but one if a run takes as long as four blocks."""
    if run_ms >= block_ms * 4:
        return 1
    return max(3, min(1000, ceil(block_ms / run_ms)))


def _round(value: float) -> float:
    """Round to five significant digits; no measurement is more accurate."""
    return float(f"{value:.5g}")
