"""Parse the output and the exit code of LiteRT's `benchmark_model`.

The tool prints to stdout, older builds without the `INFO: ` before each line:

    INFO: Initialized session in 18.777ms.
    INFO: count=9 first=64791 curr=56295 min=54873 max=65831 avg=57758.2 std=4065 p5=54873 median=56801 p95=65831
    INFO: count=50 first=58154 ... median=54870 p95=58101
    INFO: Inference timings in us: Init: 18777, First inference: 64791, Warmup (avg): 57758.2, Inference (avg): 55043.2
    INFO: Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227

The first line of counts is the warm-up, the last one the timed runs, in microseconds. When all runs took the same time it
is just `count=1 curr=31` (with percentiles in newer builds). The footprint is the growth of the peak resident set in 2^20
bytes, including pages of files. The times of single runs are not printed: a sample is the median of one call.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

from nas.errors import NasError
from nas.failures import NO_MEMORY, UNSUPPORTED, Infeasible, OutOfMemory, ToolError
from nas.profiling.compile import CompiledWorkload
from nas.profiling.runtimes.base import WorkloadStats

MIB = 2**20 / 1e6
DOWNLOAD_URL = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "android_aarch64_benchmark_model"
)
"""The prebuilt tool for 64-bit Android of LiteRT's documentation."""


NO_DELEGATE = re.compile(
    r"^[^\n]*(\b(fail(ed|s|ure)?|could not|couldn't|cannot|can't|unable to|not able to)\b[^\n]*\bdelegate|"
    r"\bdelegate\b[^\n]*\b(fail(ed|s|ure)?|could not|couldn't|cannot|can't|unable to|unsupported|isn't|is not|was not|"
    r"not (be )?(applied|executed|created|linked|supported|available)))[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
"""A line which says that the model does not run on the delegate, such as 'Failed to apply XNNPACK delegate.' or 'Though
XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.'"""


@dataclass(frozen=True)
class Benchmark:
    """One call of the tool.

    Attributes:
        runs: number of timed runs.
        median_ms: of their times.
        init_ms: time to load and prepare the model.
        overall_mb: growth of the peak resident set until the end, in 10^6 bytes; NaN if it was not printed.
    """

    runs: int
    median_ms: float
    init_ms: float
    overall_mb: float


def parse(output: str) -> Benchmark:
    """Read the tool's output.

    Raises:
        NasError: it is not output of the tool, or of a build that does not print medians.
        Infeasible: XNNPACK was not applied, so the times are of other kernels. If this also happens with the reference
            workload, the tool was built without it.
    """
    counts = re.findall(r"\bcount=(\d+)([^\n]*)", output)
    started = re.search(r"Initialized session in (\S+?)ms", output)
    if not counts or started is None:
        raise NasError(f"benchmark_model printed no timings: {_last_line(output)}")
    refused = NO_DELEGATE.search(output)
    if refused is not None:
        raise Infeasible(f"the XNNPACK delegate is not applied: {refused[0].strip()}"[:300])
    runs, rest = counts[-1][0], dict(re.findall(r"(\w+)=([^\s(,]+)", counts[-1][1]))
    micros = rest.get("median") or (rest.get("curr") if "first" not in rest else None)
    if micros is None:
        raise NasError(
            f"this benchmark_model does not print medians because it is older than 2023; get a newer one from {DOWNLOAD_URL}"
        )
    memory = re.search(r"[Mm]emory footprint[^\n]*\boverall=(\S+)", output)
    overall_mb = _number(memory[1], "overall memory") * MIB if memory else float("nan")
    return Benchmark(
        int(_number(runs, "count")), _number(micros, "median") / 1e3, _number(started[1], "init"), overall_mb
    )


def _number(text: str, what: str) -> float:
    """A number in the tool's output, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value < 1e15:
        raise NasError(f"benchmark_model printed '{text[:40]}' as {what}; expected a number of at least 0")
    return value


def tool_overhead_mb(call: Benchmark, reference: CompiledWorkload) -> float:
    """Memory of the tool itself, from a call on a workload whose activation memory is known from its shapes."""
    return _without_data_mb(call, reference) - reference.activations_mb


def workload_stats(package: CompiledWorkload, calls: Sequence[Benchmark], tool_overhead_mb: float) -> WorkloadStats:
    """The stats of a workload from calls on each of its files. The memory is the estimate if the tool printed none.

    The growth of memory since the start is used, because XNNPACK allocates its workspace while the model is prepared.
    """
    one_mb = _without_data_mb(calls[0], package)
    memory_mb = package.activations_mb if isnan(one_mb - tool_overhead_mb) else max(0.0, one_mb - tool_overhead_mb)
    one = WorkloadStats(memory_mb, package.weights_mb, package.params, calls[0].init_ms, package.variant)
    if len(calls) == 1 or isnan(one_mb):
        return one
    return one.with_kept_memory((_without_data_mb(calls[1], package, 1 + package.copies) - one_mb) / package.copies)


def _without_data_mb(call: Benchmark, package: CompiledWorkload, copies: int = 1) -> float:
    """The resident set without inputs and weights, in 10^6 bytes.

    Both exist twice: the tool has its own copy of the inputs; the weights are in pages of the model's file and in
    XNNPACK's packed form.
    """
    return call.overall_mb - 2 * (package.inputs_mb + copies * package.weights_mb)


def check(code: int, output: str) -> None:
    """Raise the error that the tool's exit code stands for.

    Raises:
        NasError: the tool itself cannot run.
        Infeasible: the workload needs too much memory, crashes, or has an operation that the tool cannot run.
    """
    message = _last_line(output)
    if code == 0:
        return
    if code in (126, 127):
        raise NasError(
            f"benchmark_model cannot run on this device ({message}); get the one for its processor from {DOWNLOAD_URL}"
        )
    if code == 128 + signal.SIGKILL:
        raise OutOfMemory("killed (signal SIGKILL): the phone ran out of memory")
    if code > 128:
        number = code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        raise Infeasible(f"crashed (signal {name}): {message}"[:300])
    if NO_MEMORY.search(output):
        raise OutOfMemory(f"out of memory: {message}"[:300])
    if UNSUPPORTED.search(output) or NO_DELEGATE.search(output):
        raise Infeasible(f"benchmark_model ended with {code}: {message}"[:300])
    raise ToolError(f"benchmark_model ended with {code}: {message}"[:300])


def _last_line(output: str) -> str:
    """The last line that is not the final `Benchmarking failed.`."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    messages = [line for line in lines if not line.endswith("Benchmarking failed.")]
    return (messages or lines or ["it printed nothing"])[-1][:200]
