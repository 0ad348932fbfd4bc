"""Functions that the compiling process executes. Importing this module imports torch; converters load when needed."""

from __future__ import annotations

import math
from pathlib import Path

from nas.caches import user_cache
from nas.conversion.convert import Unconvertible, to_coreml
from nas.costs.workload_counts import count_ops
from nas.failures import Infeasible
from nas.files import short_hash
from nas.profiling.compile import CompiledWorkload
from nas.profiling.runtimes.base import Runnable
from nas.profiling.workers.litert_convert import convert_cached, module_and_inputs
from nas.spaces import TextEncoder, Workload

MB = 1e6
BYTES = {"coreml": 2, "litert": 4}
"""Bytes per number, as each runtime stores and computes it here."""


def compile_workload(workload: Runnable, copies: int, runtime: str, target: str, folder: Path) -> CompiledWorkload:
    """Write a workload, with random weights, as files of the runtime; see `Compiler.package`.

    Core ML packages go to `folder`; LiteRT models to the cache that the local runtime has too.
    """
    module, inputs = module_and_inputs(workload, "", 1)
    counts = [1, copies] if copies > 1 else [1]
    if runtime == "coreml":
        paths = [_coreml(workload, count, target, folder) for count in counts]
    else:
        paths = [convert_cached(workload, "", count, user_cache("litert")).path for count in counts]
    numbers = sum(p.numel() for p in module.parameters())
    return CompiledWorkload(
        workload=str(workload),
        path=paths[0],
        several=paths[1] if copies > 1 else None,
        copies=copies - 1,
        params=numbers,
        weights_mb=(numbers + sum(b.numel() for b in module.buffers())) * BYTES[runtime] / MB,
        inputs_mb=sum(x.numel() for x in inputs.values()) * BYTES[runtime] / MB,
        activations_mb=count_ops(workload).peak * BYTES[runtime] / MB if isinstance(workload, Workload) else math.nan,
        variant="reference",
        target=target,
    )


def _coreml(workload: Runnable, copies: int, target: str, folder: Path) -> Path:
    module, inputs = module_and_inputs(workload, "", copies)
    path = folder / f"{short_hash([str(workload), copies, target])}.mlpackage"
    try:
        is_text = isinstance(workload, Workload) and isinstance(workload.part, TextEncoder)
        float32 = {"timestep"} & set(inputs)
        model = to_coreml(module, inputs, "output", target, float32, float32_residual=is_text)
    except Unconvertible as error:
        raise Infeasible(str(error)) from None
    model.save(str(path))
    return path
