"""What LiteRT's `benchmark_model` prints, and what its end says of a workload.

The tool prints to stdout, older builds without the `INFO: ` before each line:

    INFO: Initialized session in 18.777ms.
    INFO: count=9 first=64791 curr=56295 min=54873 max=65831 avg=57758.2 std=4065 p5=54873 median=56801 p95=65831
    INFO: count=50 first=58154 ... median=54870 p95=58101
    INFO: Inference timings in us: Init: 18777, First inference: 64791, Warmup (avg): 57758.2, Inference (avg): 55043.2
    INFO: Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227

The first line of counts is the warm-up, the last the timed runs, in microseconds. When all runs took the same time it
has no more than `count=1 curr=31` (with percentiles, in newer builds). The footprint is the growth of the largest
resident set, in 2^20 bytes, pages of files included. There is no time of each run: a sample is the median of one call of
the tool.
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
from nas.profiling.runtimes.base import Loaded

MIB = 2**20 / 1e6
GET = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "android_aarch64_benchmark_model"
)
"""Where LiteRT's documentation has the prebuilt tool for 64-bit Android."""


NO_DELEGATE = re.compile(
    r"^[^\n]*(\b(fail(ed|s|ure)?|could not|couldn't|cannot|can't|unable to|not able to)\b[^\n]*\bdelegate|"
    r"\bdelegate\b[^\n]*\b(fail(ed|s|ure)?|could not|couldn't|cannot|can't|unable to|unsupported|isn't|is not|was not|"
    r"not (be )?(applied|executed|created|linked|supported|available)))[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that says that the model does not run on the delegate, such as 'Failed to apply XNNPACK delegate.' or 'Though
XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.'"""


@dataclass(frozen=True)
class Benchmark:
    """One call of the tool.

    Attributes:
        runs: timed runs.
        median_ms: of those.
        init_ms: time to load and prepare the model.
        overall_mb: growth of the largest resident set until the end, in 10^6 bytes; NaN if the tool does not know.
    """

    runs: int
    median_ms: float
    init_ms: float
    overall_mb: float


def parse(output: str) -> Benchmark:
    """Read the tool's output.

    Raises:
        NasError: it is not such an output, or of a build that prints no median.
        Infeasible: XNNPACK was not applied, so that the times are of other kernels. Where that is so of the reference
            workload as well, it is the tool that lacks it.
    """
    counts = re.findall(r"\bcount=(\d+)([^\n]*)", output)
    started = re.search(r"Initialized session in (\S+?)ms", output)
    if not counts or started is None:
        raise NasError(f"benchmark_model printed no timings: {last_line(output)}")
    refused = NO_DELEGATE.search(output)
    if refused is not None:
        raise Infeasible(f"the XNNPACK delegate is not applied: {refused[0].strip()}"[:300])
    runs, rest = counts[-1][0], dict(re.findall(r"(\w+)=([^\s(,]+)", counts[-1][1]))
    micros = rest.get("median") or (rest.get("curr") if "first" not in rest else None)
    if micros is None:
        raise NasError(f"benchmark_model prints no median: it is older than 2023; get a newer one from {GET}")
    memory = re.search(r"[Mm]emory footprint[^\n]*\boverall=(\S+)", output)
    overall_mb = _number(memory[1], "overall memory") * MIB if memory else float("nan")
    return Benchmark(
        int(_number(runs, "count")), _number(micros, "median") / 1e3, _number(started[1], "init"), overall_mb
    )


def _number(text: str, what: str) -> float:
    """A number of the tool's output, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value < 1e15:
        raise NasError(f"benchmark_model printed '{text[:40]}' as {what}, which is no such number")
    return value


def tool_mb(found: Benchmark, reference: CompiledWorkload) -> float:
    """What the tool takes whatever it runs, by a call on a workload whose activations are known from its shapes."""
    return _without_data_mb(found, reference) - reference.activations_mb


def loaded(package: CompiledWorkload, found: Sequence[Benchmark], tool_mb: float) -> Loaded:
    """What is known of a workload by calls on its files. Memory is what is counted from its shapes if the tool knows none.

    XNNPACK takes its workspace while the model is prepared, so that what is taken from then on is no measure of it.
    """
    one_mb = _without_data_mb(found[0], package)
    memory_mb = package.activations_mb if isnan(one_mb - tool_mb) else max(0.0, one_mb - tool_mb)
    one = Loaded(memory_mb, package.weights_mb, package.params, found[0].init_ms, package.form)
    if len(found) == 1 or isnan(one_mb):
        return one
    return one.less_kept((_without_data_mb(found[1], package, 1 + package.copies) - one_mb) / package.copies)


def _without_data_mb(found: Benchmark, package: CompiledWorkload, copies: int = 1) -> float:
    """The resident set less two copies of the inputs, of which the tool holds its own, and of the weights: the pages of the
    model's file, which the system can drop, and what XNNPACK packs them into."""
    return found.overall_mb - 2 * (package.inputs_mb + copies * package.weights_mb)


def check(code: int, output: str) -> None:
    """Turn the tool's exit code into what it means.

    Raises:
        NasError: the tool itself cannot run.
        Infeasible: the workload ended it: it needs too much memory, crashes, or holds what the tool cannot run.
    """
    said = last_line(output)
    if code == 0:
        return
    if code in (126, 127):
        raise NasError(f"benchmark_model cannot run on this device ({said}); get the one for its processor from {GET}")
    if code == 128 + signal.SIGKILL:
        raise OutOfMemory("killed (signal SIGKILL): the phone ran out of memory")
    if code > 128:
        number = code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        raise Infeasible(f"crashed (signal {name}): {said}"[:300])
    if NO_MEMORY.search(output):
        raise OutOfMemory(f"out of memory: {said}"[:300])
    if UNSUPPORTED.search(output) or NO_DELEGATE.search(output):
        raise Infeasible(f"benchmark_model ended with {code}: {said}"[:300])
    raise ToolError(f"benchmark_model ended with {code}: {said}"[:300])


def last_line(output: str) -> str:
    """The line that tells most: the last that is not the tool's own farewell."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("Benchmarking failed.")]
    return (telling or lines or ["it printed nothing"])[-1][:200]
