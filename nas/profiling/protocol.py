"""The measurement protocol: who is timed when, how often, and when a number is good enough to keep.

Workloads are visited in shuffled rounds, a short block of runs at a time, so that slow drift of the machine touches all
of them alike. Between two blocks a reference workload is timed: where it ran slow, the block beside it is repeated.
A workload is done when the 95% interval of its median is narrow enough, or its time is used up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, isfinite

import numpy as np

from nas.costs import Row
from nas.failures import Infeasible, ToolError
from nas.profiling.runtimes.base import Loaded, Session


@dataclass(frozen=True)
class Protocol:
    """How long and how carefully to measure.

    Attributes:
        processes: a workload is timed in so many processes at once, where `reload_s` allows it: one, or six at least,
            since their medians make the interval (see `Samples.medians`).
        reload_s: a workload that takes longer to load in all its processes is timed in one.
        interval: a workload is done when half the 95% interval of its median is below this share of the median...
        min_samples, min_blocks: ...and it has so many samples, in so many blocks (an order-statistic interval of 95%
            exists from six on).
        cap_s: ...or when so many seconds went into it, and `min_blocks` blocks. They are seconds on the wall, whatever
            clock times the runs, the reference included: the cap is there for whoever waits.
        slow_cap_s: the cap where `min_samples` do not fit into `cap_s`. From `cap_s` on the interval alone decides.
        drift: a block is repeated when the reference beside it is slower than its median by more than this share.
        cooldown_s: pause after such a block, and again, twice as long each time, while the reference is still slow...
        patience: ...and the pauses have not taken more than this share of the time that all blocks took.
        in_place_below_ms: operators are timed inside the denoiser (see `InPlace`) where the backbone takes less than
            so many ms, and alone where it takes more: there the difference is lost in the backbone's own noise, and
            what surrounds an operator matters less to it.
        seed: of the order of the visits.
    """

    processes: int = 6
    reload_s: float = 12.0
    interval: float = 0.02
    min_samples: int = 20
    min_blocks: int = 6
    cap_s: float = 4.0
    slow_cap_s: float = 60.0
    drift: float = 0.10
    cooldown_s: float = 0.05
    patience: float = 0.25
    in_place_below_ms: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """Latencies of runs that followed one another, and which of the workload's processes they ran in."""

    latencies_ms: list[float]
    process: int = 0

    @cached_property
    def median_ms(self) -> float:
        return float(np.median(self.latencies_ms))


@dataclass
class Samples:
    """What has been timed of one workload: blocks, those beside a slow reference apart."""

    kept: list[Block] = field(default_factory=list)
    drifted: list[Block] = field(default_factory=list)
    spent_s: float = 0.0
    min_blocks: int = Protocol.min_blocks

    @property
    def blocks(self) -> list[Block]:
        """The blocks that count: all of them if the machine was too seldom at rest for an interval."""
        return self.kept if len(self.kept) >= self.min_blocks else self.kept + self.drifted

    def medians(self) -> np.ndarray:
        """The independent numbers that median and interval are taken from: of processes, if there are several."""
        by_process: dict[int, list[float]] = {}
        for block in self.blocks:
            by_process.setdefault(block.process, []).append(block.median_ms)
        if len(by_process) > 1:
            return np.array([np.median(medians) for medians in by_process.values()])
        return np.array([block.median_ms for block in self.blocks])

    def done(self, protocol: Protocol, tolerance_ms: float) -> bool:
        if len(self.kept) + len(self.drifted) < self.min_blocks:
            return False
        few = sum(len(block.latencies_ms) for block in self.blocks) < protocol.min_samples
        if self.spent_s >= (max(protocol.cap_s, protocol.slow_cap_s) if few else protocol.cap_s):
            return True
        if len(self.kept) < self.min_blocks or (few and self.spent_s < protocol.cap_s):
            return False
        medians = self.medians()
        return half_interval(medians) <= max(protocol.interval * np.median(medians), tolerance_ms)

    def row(self, workload: str, loaded: Loaded, source: str) -> Row:
        """The table's row: median of `medians()`; percentiles over all samples.

        A cheap operator timed in place is a difference of two noisy times, whose median may fall below zero on a busy
        machine. It is written as 0 then; its interval, which spans more than that, tells how little is known.

        Raises:
            ToolError: there is no sample, or one is no number.
        """
        for block in self.blocks or [Block([])]:
            _finite(workload, block.latencies_ms)
        medians, samples = self.medians(), np.concatenate([block.latencies_ms for block in self.blocks])
        p10, p90 = np.percentile(samples, [10, 90])
        return Row(
            workload=workload,
            latency_ms=_round(max(0.0, np.median(medians))),
            memory_mb=loaded.memory_mb,
            weights_mb=loaded.weights_mb,
            params=loaded.params,
            latency_p10_ms=_round(p10),
            latency_p90_ms=_round(p90),
            latency_ci_ms=_round(half_interval(medians)),
            count=len(samples),
            load_ms=_round(loaded.load_ms),
            variant=loaded.form,
            source=source,
        )


def half_interval(values: np.ndarray) -> float:
    """Half the width of the narrowest central order-statistic interval that covers the median with 95%.

    Distribution-free: the interval between the k-th smallest and k-th largest of n values misses the median with
    probability 2 * P(Binomial(n, 1/2) < k). NaN below six values, where none reaches 95%.
    """
    from scipy.stats import binom  # half a second, which a table that is complete already need not wait for

    values = np.sort(values)
    k = int(binom.ppf(0.025, len(values), 0.5)) if len(values) else 0
    return float(values[-k] - values[k - 1]) / 2 if k else float("nan")


def measure(
    sessions: Mapping[str, Session],
    beside: Reference,
    protocol: Protocol,
    block_ms: float,
    finished: Callable[[Row], None],
    source: str = "measured",
) -> None:
    """Time all sessions in shuffled rounds; each session's row goes to `finished` as soon as it is done."""
    order = random.Random(protocol.seed)
    samples = {name: Samples(min_blocks=protocol.min_blocks) for name in sessions}
    runs = {name: 1 for name in sessions}
    while samples:
        names = list(samples)
        order.shuffle(names)
        for name in names:
            try:
                start = time.perf_counter()
                block = Block(_finite(name, sessions[name].block(runs[name])), sessions[name].process)
            except Infeasible as error:
                del samples[name]
                finished(infeasible(name, str(error), sessions[name].loaded))
                continue
            mine = samples[name]
            first = not mine.spent_s
            elapsed_ms = (time.perf_counter() - start) * 1e3 / runs[name]
            runs[name] = _runs(block_ms, elapsed_ms)
            slow = beside.slow()
            visit_s = time.perf_counter() - start
            mine.spent_s += visit_s
            beside.rest(visit_s)
            if first and runs[name] > 1:  # one run told how long a block is; it is no sample
                continue
            (mine.drifted if slow else mine.kept).append(block)
            if mine.done(protocol, sessions[name].loaded.tolerance_ms):
                finished(mine.row(name, sessions[name].loaded, source))
                sessions[name].close()
                del samples[name]


def infeasible(workload: str, reason: str, loaded: Loaded | None = None) -> Row:
    """The row of a workload that cannot run."""
    nan = float("nan")
    memory_mb, weights_mb, params = (loaded.memory_mb, loaded.weights_mb, loaded.params) if loaded else (nan, nan, 0)
    return Row(workload, float("inf"), memory_mb, weights_mb, params, status="infeasible", reason=reason)


class Reference:
    """The fixed workload between the others: has the machine become slower since the last look, or just now?

    One for all that is measured, however many workloads are in memory at a time: what begins in a slow phase is then
    seen to be slow.
    """

    def __init__(self, session: Session, block_ms: float, protocol: Protocol) -> None:
        self.session, self.protocol = session, protocol
        self.runs = _runs(block_ms, float(np.median(_finite("the reference workload", session.block(3)))))
        self.history = [self._look() for _ in range(3)]
        self.slow_before = False
        self.looks = self.slow_looks = 0
        self.may_wait_s = protocol.cooldown_s

    @property
    def median_ms(self) -> float:
        return float(np.median(self.history))

    @property
    def quality(self) -> dict[str, float]:
        """For a table's metadata: `reference_ms`, the median; and `repeated`, the share of slow looks."""
        return {"reference_ms": _round(self.median_ms), "repeated": round(self.slow_looks / max(1, self.looks), 3)}

    def slow(self) -> bool:
        """Time the reference; True if it runs slow now or did at the look before."""
        now_ms = self._look()
        slow_now = self._is_slow(now_ms)
        self.history.append(now_ms)
        result = slow_now or self.slow_before
        self.looks, self.slow_looks, self.slow_before = self.looks + 1, self.slow_looks + result, slow_now
        return result

    def rest(self, spent_s: float) -> None:
        """Wait, if the last look was slow, until one no longer is: a phase of it is better waited out than measured.

        Args:
            spent_s: what has been measured since; a share of it may be waited, now or later.
        """
        self.may_wait_s += self.protocol.patience * spent_s
        slow, pause_s = self.slow_before, self.protocol.cooldown_s
        while slow and pause_s <= self.may_wait_s:
            time.sleep(pause_s)
            self.may_wait_s -= pause_s
            slow, pause_s = self._is_slow(self._look()), 2 * pause_s

    def _look(self) -> float:
        return float(np.median(self.session.block(self.runs)))

    def _is_slow(self, now_ms: float) -> bool:
        return now_ms > (1 + self.protocol.drift) * self.median_ms


def _finite(name: str, latencies_ms: list[float]) -> list[float]:
    """The latencies of a block, all of which are numbers.

    Raises:
        ToolError: one is not.
    """
    odd = [ms for ms in latencies_ms if not isfinite(ms)]
    if odd or not latencies_ms:
        raise ToolError(f"{name}: the runtime gave {odd[0] if odd else 'nothing'} as a latency, which is no number")
    return latencies_ms


def _runs(block_ms: float, run_ms: float) -> int:
    """How many runs make a block: three at least of what is quick, one of what takes longer than a block."""
    if run_ms >= block_ms * 4:
        return 1
    return max(3, min(1000, ceil(block_ms / run_ms)))


def _round(value: float) -> float:
    """To five significant digits: no measurement here knows more."""
    return float(f"{value:.5g}")
