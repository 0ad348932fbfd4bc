"""`nas.profile`: fill a lookup table; and the same protocol on whole models, to check what a table predicts."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nas.costs import LookupTable, Row, TableWriter
from nas.costs.side_files import meta_path, read_meta
from nas.errors import ConfigError, NasError, SpaceError, TableError
from nas.failures import Infeasible, OutOfMemory, ToolError
from nas.files import write_json
from nas.locks import output_lock
from nas.profiling import runtimes
from nas.profiling.host import available_mb, commit
from nas.profiling.protocol import Protocol, Reference, infeasible, measure
from nas.profiling.runtimes.base import InPlace, Processes, Runnable, Runtime, Session, WholeModel
from nas.spaces import NONE, Architecture, Operator, SearchSpace, Workload

IN_PLACE, ALONE = "in place", "alone"


def profile(
    space: SearchSpace,
    runtime: str | Runtime = "eager",
    device: str = "local",
    out: str | Path = "table.csv",
    protocol: Protocol | None = None,
    progress: bool = True,
    pipeline: bool = False,
    **options: Any,
) -> LookupTable:
    """Measure every workload of a space on a device, into a lookup table.

    Rows are on the disk as soon as they are known. If `out` exists the profile goes on where it stopped, and the table's
    metadata say under `continued` what is not as it was at the beginning, such as date and load.

    Args:
        space: with a backbone.
        runtime: a name in `nas.profiling.RUNTIMES`, or a runtime.
        device: what the runtime runs on; `local` is this machine.
        out: the table's CSV; its provenance goes beside it.
        protocol: how long and how carefully to measure.
        progress: a bar on a terminal, a line per workload in a log file.
        pipeline: the text encoder and the decoder too, which the time of a whole clip needs.
        options: for the runtime, such as `threads`.

    Raises:
        NasError: the runtime or the device is missing, a tool failed, `out` was measured otherwise, or another process
            writes to it. Finished rows are kept.

    Example:
        >>> table = nas.profile(nas.SearchSpace.load("demo"), out="table.csv")  # doctest: +SKIP
    """
    workloads, protocol = _workloads(space, pipeline), protocol or Protocol()
    if Path(out).is_dir():
        raise ConfigError(f"{out}: is a folder; give the table a file name, such as {Path(out) / 'table.csv'}")
    # the lock is taken first: a place that cannot be written is known before anything is measured
    with output_lock(out), runtimes.make(runtime, device, **options) as chosen:
        place = _place(chosen, space, protocol, Path(out))
        meta = {
            **chosen.describe(),
            "operators": place,
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
            runnable = [InPlace(space, w) if place == IN_PLACE and isinstance(w.part, Operator) else w for w in missing]
            kept = here = read_meta(out)
            if writer.done:
                here = {"workloads": len(missing), **{k: v for k, v in meta.items() if kept.get(k) != v}}
                kept["continued"] = [*kept.get("continued", []), here]
                _write_provenance(Path(out), kept, len(writer.done))
            with closing(Progress(len(workloads), len(writer.done), progress, f"profile {space.name}")) as bar:
                here |= measure_all(chosen, runnable, protocol, lambda row: (writer.append(row), bar.finished(row)))
            _write_provenance(Path(out), kept, len(writer.done))
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
    """Measure whole denoisers, one step each, by the protocol that fills tables; one row per architecture.

    `memory_mb` of a row is its activations alone; add `weights_mb` to compare with `CostModel.predict`. Operators are
    written in the forms of `table`'s rows, if it is given.

    Raises:
        NasError: the runtime or the device is missing, or an architecture belongs to another space.
    """
    wholes = [WholeModel(space, space.check(arch), _forms(space, arch, table)) for arch in architectures]
    rows: dict[str, Row] = {}
    total = len(set(map(str, wholes)))
    with (
        runtimes.make(runtime, device, **options) as chosen,
        closing(Progress(total, 0, progress, "whole models")) as bar,
    ):

        def finished(row: Row) -> None:
            rows[row.workload] = row
            bar.finished(row)

        measure_all(chosen, dict.fromkeys(wholes), protocol or Protocol(), finished)
    return [rows[str(whole)] for whole in wholes]


def measure_architecture(space: SearchSpace, arch: Architecture, *arguments: Any, **options: Any) -> Row:
    """`measure_architectures` of one."""
    return measure_architectures(space, [arch], *arguments, **options)[0]


def measure_all(runtime: Runtime, workloads: Iterable[Runnable], protocol: Protocol, finished) -> dict[str, float]:
    """Time every workload; `finished` gets each row as soon as it is known.

    All that are open take turns. Where they fill half of the memory that was free, or one finds no memory beside them,
    those are measured to the end and closed before the next are opened: a workload must not be called infeasible for
    what its neighbours hold.
    """
    if runtime.source != "measured":
        for workload in workloads:
            finished(_estimate(runtime, workload))
        return {}
    sessions: dict[str, Session] = {}
    reference = _open_reference(runtime)

    def measure_open() -> None:
        measure(sessions, beside, protocol, runtime.block_ms, finished, runtime.source)
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
        beside = Reference(reference, runtime.block_ms / 4, protocol)
        free_mb = available_mb()
        for workload in workloads:
            try:
                sessions[str(workload)] = opened(workload)
            except Infeasible as error:
                finished(infeasible(str(workload), str(error)))
            except ToolError as error:
                measure_open()
                raise ToolError(
                    f"{workload}: cannot be measured here: {error}; then run the same command again: finished rows are kept"
                ) from None
            if free_mb is not None and available_mb() < free_mb / 2:
                measure_open()
        measure_open()
        return beside.quality
    finally:
        for session in [*sessions.values(), reference]:
            session.close()


def open_in_processes(runtime: Runtime, workload: Runnable, protocol: Protocol) -> Session:
    """A session in as many processes as the protocol asks for; in one, where they would take long to load or find no room.

    A whole model is in one: several times its weights are much to hold, and each of its layers has luck of its own.
    """
    first = runtime.open(workload)
    several = runtime.separate and protocol.processes > 1 and not isinstance(workload, WholeModel)
    if not several or first.loaded.load_ms * protocol.processes > protocol.reload_s * 1e3:
        return first
    others: list[Session] = []
    try:
        while len(others) < protocol.processes - 1:
            others.append(runtime.reopen(workload, first.loaded))
    except Infeasible:
        for session in others:
            session.close()
        return first
    return Processes([first, *others])


class Progress:
    """A bar with time left on a terminal; one line per workload where a log file reads."""

    def __init__(self, total: int, done: int, shown: bool, title: str) -> None:
        self.shown, self.terminal = shown, sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=title, unit="workload", disable=not (shown and self.terminal))
        self.total, self.done = total, done

    def finished(self, row: Row) -> None:
        self.done += 1
        self.bar.update()
        if self.shown and not self.terminal:
            what = f"{row.latency_ms:.4g} ms, {row.memory_mb:.4g} MB" if row.status == "ok" else row.reason
            print(f"[{self.done}/{self.total}] {row.workload}: {what}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()


def _estimate(runtime: Runtime, workload: Runnable) -> Row:
    """The row of a runtime that knows its numbers without running anything: one run tells them all."""
    try:
        session = runtime.open(workload)
    except Infeasible as error:
        return replace(infeasible(str(workload), str(error)), source=runtime.source)
    known = session.loaded
    return Row(
        workload=str(workload),
        latency_ms=session.block(1)[0],
        memory_mb=known.memory_mb,
        weights_mb=known.weights_mb,
        params=known.params,
        source=runtime.source,
    )


def _forms(space: SearchSpace, arch: Architecture, table: LookupTable | None) -> tuple[tuple[str, str], ...]:
    """The forms of an architecture's operators as the rows of a table have them, where they are not the reference."""
    rows = table.rows() if table else {}
    used = {str(space.workload(slot, choice)) for slot, choice in arch.items if choice != NONE}
    forms = {workload: rows[workload].variant for workload in used & set(rows)}
    return tuple(sorted((workload, form) for workload, form in forms.items() if form not in ("", "reference")))


def _place(runtime: Runtime, space: SearchSpace, protocol: Protocol, out: Path) -> str:
    """Where this table's operators are timed: as in the rows that it has, else where the backbone's latency allows."""
    if not runtime.in_place:
        return ALONE
    if out.exists() and meta_path(out).exists():
        return read_meta(out).get("operators", ALONE)
    try:
        session = runtime.open(space.backbone_workload())
    except Infeasible:
        return ALONE
    try:
        limit_ms = protocol.in_place_below_ms
        large = session.block(1)[0] > 3 * limit_ms  # one run of it says enough, and takes long enough
        return IN_PLACE if not large and min(session.block(3)) < limit_ms else ALONE
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


def _workloads(space: SearchSpace, pipeline: bool) -> list[Workload]:
    workloads = space.workloads()
    if any(isinstance(workload, str) for workload in workloads):
        raise SpaceError(f"search space '{space.name}' is cost-only: there is nothing to run, only a table to fill in")
    if pipeline and not space.pipeline_workloads():
        raise SpaceError(f"search space '{space.name}' declares no 'text_encoder' and no 'decoder' to measure")
    return workloads + pipeline * space.pipeline_workloads()


def _open_reference(runtime: Runtime) -> Session:
    try:
        return runtime.open(runtime.reference)
    except Infeasible as error:
        raise NasError(f"runtime '{runtime.name}' cannot run even its reference workload: {error}") from None
