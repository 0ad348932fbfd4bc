"""Fill a lookup table (`nas.profile`), and measure whole models by the same protocol to check its predictions."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nas.costs import LookupTable, Row, TableWriter
from nas.costs.provenance import Provenance, meta_path
from nas.errors import ConfigError, NasError, SpaceError, TableError
from nas.failures import Infeasible, OutOfMemory, ToolError
from nas.files import write_json
from nas.locks import output_lock
from nas.profiling import runtimes
from nas.profiling.host import available_mb, commit
from nas.profiling.protocol import Protocol, Reference, infeasible, measure
from nas.profiling.runtimes.base import InModelWorkload, MultiProcessSession, Runnable, Runtime, Session, WholeModel
from nas.spaces import NONE, Architecture, Operator, SearchSpace, Workload

IN_MODEL, ALONE = "in place", "alone"
"""How operators were timed, as the `operators` key of a table's metadata says."""


def profile(
    space: SearchSpace,
    runtime: str | Runtime = "eager",
    device: str = "local",
    out: str | Path = "table.csv",
    protocol: Protocol | None = None,
    progress: bool = True,
    pipeline: bool = False,
    only: Collection[Workload] | None = None,
    **options: Any,
) -> LookupTable:
    """Measure every workload of a space on a device, into a lookup table.

    Each row is written to the disk as soon as it is known. If `out` exists, the profile resumes, and the table's metadata
    list under `continued` what has changed since the beginning, such as date and load.

    Args:
        space: with a backbone.
        runtime: a name in `nas.profiling.RUNTIMES`, or a runtime.
        device: the device that the runtime runs on; `local` is this machine.
        out: the table's CSV; its provenance goes beside it.
        protocol: number of repetitions and stopping rule.
        progress: show a bar on a terminal, or print a line per workload into a log file.
        pipeline: also measure the text encoder and the decoder, which generation time needs.
        only: measure no others of the space's workloads.
        options: for the runtime, such as `threads`.

    Raises:
        NasError: the runtime or the device is missing, a tool failed, `out` was measured under other conditions, or
            another process writes to it. Finished rows are kept.

    Example:
        >>> table = nas.profile(nas.SearchSpace.load("demo"), out="table.csv")  # doctest: +SKIP
    """
    workloads, protocol = workloads_to_measure(space, pipeline), protocol or Protocol()
    workloads = [workload for workload in workloads if only is None or workload in only]
    if Path(out).is_dir():
        raise ConfigError(f"{out}: is a folder; give the table a file name, such as {Path(out) / 'table.csv'}")
    # the lock comes first, so that a folder that cannot be written is an error before anything is measured
    with output_lock(out), runtimes.make(runtime, device, **options) as chosen:
        timing = _operator_timing(chosen, space, protocol, Path(out))
        meta = {
            **chosen.describe(),
            "operators": timing,
            "space": space.name,
            "space_hash": space.hash,
            "dtype": space.dtype,
            "protocol": asdict(protocol) if chosen.source == "measured" else None,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
        }
        writer = TableWriter(out, meta)
        missing = [workload for workload in workloads if str(workload) not in writer.done]
        if missing:
            runnable = [
                InModelWorkload(space, w) if timing == IN_MODEL and isinstance(w.part, Operator) else w for w in missing
            ]
            stored = current = Provenance.read(out).to_dict()
            if writer.done:
                current = {"workloads": len(missing), **{k: v for k, v in meta.items() if stored.get(k) != v}}
                stored["continued"] = [*stored.get("continued", []), current]
                _write_provenance(Path(out), stored, len(writer.done))
            title = f"profile {space.name}"
            done = len(workloads) - len(missing)
            with closing(Progress(len(workloads), done, progress, title, chosen.progressed)) as bar:
                current |= measure_all(chosen, runnable, protocol, lambda row: (writer.append(row), bar.finished(row)))
            _write_provenance(Path(out), stored, len(writer.done))
        return LookupTable.load(out)


def measure_architectures(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    runtime: str | Runtime = "eager",
    device: str = "local",
    protocol: Protocol | None = None,
    progress: bool = False,
    table: LookupTable | None = None,
    **options: Any,
) -> list[Row]:
    """Measure one denoising step of whole models by the protocol that fills tables; one row per architecture.

    `memory_mb` of a row is its activations only; add `weights_mb` to compare with `CostModel.predict`. If `table` is
    given, operators use the variants that its rows name.

    Raises:
        NasError: the runtime or the device is missing, or an architecture belongs to another space.
    """
    wholes = [WholeModel(space, space.check(arch), _variants(space, arch, table)) for arch in architectures]
    rows: dict[str, Row] = {}
    total = len(set(map(str, wholes)))
    with (
        runtimes.make(runtime, device, **options) as chosen,
        closing(Progress(total, 0, progress, "whole models", chosen.progressed)) as bar,
    ):

        def finished(row: Row) -> None:
            rows[row.workload] = row
            bar.finished(row)

        measure_all(chosen, dict.fromkeys(wholes), protocol or Protocol(), finished)
    return [rows[str(whole)] for whole in wholes]


def measure_architecture(space: SearchSpace, arch: Architecture, *arguments: Any, **options: Any) -> Row:
    """Measure one architecture; see `measure_architectures`."""
    return measure_architectures(space, [arch], *arguments, **options)[0]


def measure_all(
    runtime: Runtime, workloads: Iterable[Runnable], protocol: Protocol, on_row: Callable[[Row], object]
) -> dict[str, float]:
    """Time every workload; `on_row` is called with each row as soon as it is known.

    All open workloads are timed in turn. When they fill half of the memory that was free, or the next one runs out of
    memory, they are measured to the end and closed before more are opened: a workload must not be infeasible because
    of the memory of others.

    Returns:
        how steady the machine was, see `Reference.quality`; empty for estimates.
    """
    if runtime.source != "measured":
        for workload in workloads:
            on_row(_estimate(runtime, workload))
        return {}
    protocol = replace(protocol, cap_s=protocol.cap_s * runtime.cap_factor)
    sessions: dict[str, Session] = {}
    reference_session = _open_reference(runtime)

    def measure_open() -> None:
        measure(sessions, reference, protocol, runtime.block_ms, on_row, runtime.source)
        sessions.clear()

    def opened(workload: Runnable) -> Session:
        try:
            return open_in_processes(runtime, workload, protocol)
        except OutOfMemory:
            if not sessions:
                raise
        measure_open()
        return open_in_processes(runtime, workload, protocol)

    try:
        reference = Reference(reference_session, runtime.block_ms / 4, protocol)
        free_mb = available_mb()
        for workload in workloads:
            try:
                sessions[str(workload)] = opened(workload)
            except Infeasible as error:
                on_row(infeasible(str(workload), str(error)))
            except ToolError as error:
                measure_open()
                raise ToolError(
                    f"{workload}: cannot be measured here: {error}; then run the same command again: finished rows are kept"
                ) from None
            if free_mb is not None and available_mb() < free_mb / 2:
                measure_open()
        measure_open()
        return reference.quality
    finally:
        for session in [*sessions.values(), reference_session]:
            session.close()


def open_in_processes(runtime: Runtime, workload: Runnable, protocol: Protocol) -> Session:
    """A session in as many processes as the protocol says; in one if they would take long to load or to run once, or do
    not fit into memory.

    A whole model is timed in one process: its weights are large, and the differences between processes average out over
    its many layers.
    """
    first = runtime.open(workload)
    several = runtime.separate and protocol.processes > 1 and not isinstance(workload, WholeModel)
    if not several or first.stats.load_ms * protocol.processes > protocol.reload_s * 1e3:
        return first
    others: list[Session] = []
    try:
        while len(others) < protocol.processes - 1:
            start = time.monotonic()
            others.append(runtime.reopen(workload, first.stats))
            if time.monotonic() - start > protocol.single_run_s:  # it warms up with at least one run
                break
        else:
            return MultiProcessSession([first, *others])
    except Infeasible:
        pass
    for session in others:
        session.close()
    return first


class Progress:
    """A progress bar on a terminal; else one line per workload.

    Args:
        total: number of workloads.
        done: of them that are finished already.
        enabled: whether anything is printed.
        title: of the bar.
        told: called with `done` and `total` whenever `done` changes, see `Runtime.progressed`.
    """

    def __init__(
        self, total: int, done: int, enabled: bool, title: str, told: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self.enabled, self.terminal = enabled, sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=title, unit="workload", disable=not (enabled and self.terminal))
        self.total, self.done, self.told = total, done, told
        told(done, total)

    def finished(self, row: Row) -> None:
        """Count a finished workload."""
        self.done += 1
        self.told(self.done, self.total)
        self.bar.update()
        if self.enabled and not self.terminal:
            outcome = f"{row.latency_ms:.4g} ms, {row.memory_mb:.4g} MB" if row.status == "ok" else row.reason
            print(f"[{self.done}/{self.total}] {row.workload}: {outcome}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def _estimate(runtime: Runtime, workload: Runnable) -> Row:
    """The row of a runtime that estimates, which runs nothing: one block has all of it."""
    try:
        session = runtime.open(workload)
    except Infeasible as error:
        return replace(infeasible(str(workload), str(error)), source=runtime.source)
    stats = session.stats
    return Row(
        workload=str(workload),
        latency_ms=session.block(1)[0],
        memory_mb=stats.memory_mb,
        weights_mb=stats.weights_mb,
        params=stats.params,
        source=runtime.source,
    )


def _variants(space: SearchSpace, arch: Architecture, table: LookupTable | None) -> tuple[tuple[str, str], ...]:
    """(workload key, variant) of the operators of an architecture for which a table names another variant than the reference."""
    rows = table.rows() if table else {}
    used = {str(space.workload(slot, choice)) for slot, choice in arch.items if choice != NONE}
    variants = {workload: rows[workload].variant for workload in used & set(rows)}
    return tuple(
        sorted((workload, variant) for workload, variant in variants.items() if variant not in ("", "reference"))
    )


def _operator_timing(runtime: Runtime, space: SearchSpace, protocol: Protocol, out: Path) -> str:
    """`IN_MODEL` or `ALONE`: as the existing rows of the table, else by the latency of the backbone."""
    if not runtime.in_model:
        return ALONE
    if out.exists() and meta_path(out).exists():
        return Provenance.read(out).operators or ALONE
    try:
        session = runtime.open(space.backbone_workload())
    except Infeasible:
        return ALONE
    try:
        limit_ms = protocol.in_model_below_ms
        large = session.block(1)[0] > 3 * limit_ms  # a single run suffices if it takes that long
        return IN_MODEL if not large and min(session.block(3)) < limit_ms else ALONE
    except Infeasible:
        return ALONE
    finally:
        session.close()


def _write_provenance(out: Path, meta: dict[str, Any], rows: int) -> None:
    try:
        write_json(meta_path(out), meta)
    except OSError as error:
        raise TableError(
            f"{meta_path(out)}: cannot be written: {error.strerror}; free some space and run again, "
            f"the {rows} finished rows are kept"
        ) from None


def workloads_to_measure(space: SearchSpace, pipeline: bool = False) -> list[Workload]:
    """The workloads of a space that a runtime can measure, with those of the pipeline, if asked for.

    Raises:
        SpaceError: the space is cost-only, or has no pipeline.
    """
    workloads = space.workloads()
    if any(isinstance(workload, str) for workload in workloads):
        raise SpaceError(
            f"search space '{space.name}' is cost-only and has nothing to measure; write its table by hand"
        )
    if pipeline and not space.pipeline_workloads():
        raise SpaceError(f"search space '{space.name}' has neither a 'text_encoder' nor a 'decoder' to measure")
    return workloads + pipeline * space.pipeline_workloads()


def _open_reference(runtime: Runtime) -> Session:
    try:
        return runtime.open(runtime.reference)
    except Infeasible as error:
        raise NasError(f"runtime '{runtime.name}' cannot run its reference workload: {error}") from None
