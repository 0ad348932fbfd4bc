"""Carry lookup tables over to a new device from a few measurements on it (`nas transfer`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.costs import LookupTable, Row
from nas.costs.sources import without_transferred
from nas.costs.transfer import MIN_ROWS, Transfer, TransferReport
from nas.errors import ConfigError, TableError
from nas.locks import output_lock
from nas.profiling.measuring import profile, workloads_to_measure
from nas.profiling.protocol import Protocol
from nas.profiling.runtimes.base import Runtime
from nas.spaces import SearchSpace


def transfer(
    space: SearchSpace,
    sources: Sequence[LookupTable | str | Path],
    runtime: str | Runtime = "eager",
    device: str = "local",
    out: str | Path = "table.csv",
    measure: int = 10,
    protocol: Protocol | None = None,
    progress: bool = True,
    pipeline: bool = False,
    **options: Any,
) -> TransferReport:
    """Measure the few workloads that tell most about a device, and predict the others from tables of other devices.

    The measured rows are those that `nas.profile` writes, and are kept: a larger `measure` measures more of them, and an
    interrupted run measures those that are missing. The other rows have `source` transferred, and in `latency_ci_ms` half
    the width of the interval that holds their latency in 90% of cases.

    Args:
        space: with a backbone.
        sources: tables of the same space on other devices or runtimes.
        runtime, device, out, protocol, progress, pipeline, options: as of `nas.profile`.
        measure: number of workloads that are measured in the end, at least 3.

    Raises:
        TableError: a source does not fit the space, or too few measured workloads run on the device.
        ConfigError: `measure` is too small, `out` is one of the sources, or the runtime measures nothing.
        NasError: as of `nas.profile`. Finished rows are kept.
    """
    name = runtime if isinstance(runtime, str) else runtime.name
    if measure < MIN_ROWS:
        raise ConfigError(f"--measure: {measure} workloads are too few to transfer by; measure {MIN_ROWS} or more")
    if name == "roofline":
        raise ConfigError(
            "runtime 'roofline' estimates every workload itself; nas profile --runtime roofline fills its table"
        )
    workloads_to_measure(space, pipeline)  # a space without them is an error before tables are read
    tables = [source if isinstance(source, LookupTable) else LookupTable.load(source) for source in sources]
    for table in tables:
        if table.path is not None and table.path.resolve() == Path(out).resolve():
            raise ConfigError(
                f"{out}: is to be the new device's table, and a table to transfer from; give another --out"
            )
    problem = Transfer(space, tables, pipeline)
    if Path(out).is_dir():
        raise ConfigError(f"{out}: is a folder; give the table a file name, such as {Path(out) / 'table.csv'}")
    with output_lock(out):
        while picked := problem.plan_round(_measured(Path(out), name), measure, name):
            profile(space, runtime, device, out, protocol, progress, pipeline, picked, **options)
        report = problem.fill(LookupTable.load(out))
        report.table.path = Path(out)
        report.table.save(out)
        return report


def _measured(out: Path, runtime: str) -> dict[str, Row]:
    """The rows of the device that a table already has."""
    if not (out.exists() and out.stat().st_size):
        return {}
    table = LookupTable.load(out)
    found = (table.provenance.runtime or runtime).partition("+")[0]
    if found != runtime:
        raise TableError(f"{out}: was profiled with runtime='{found}', now it is '{runtime}'; give another --out")
    return replace(table, frame=without_transferred(table.frame)).rows()
