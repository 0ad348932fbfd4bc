"""`nas collect`: what was measured of a bundle, as a lookup table. What does not belong to the bundle is refused."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.costs import LookupTable, Row
from nas.costs.side_files import meta_path, read_meta
from nas.costs.table import COMPARABLE_KEYS
from nas.errors import ConfigError, NasError, TableError
from nas.failures import Infeasible
from nas.files import read_text
from nas.locks import output_lock
from nas.profiling.bundles.bundle import RESULTS, VISITS, Bundle
from nas.profiling.bundles.results import RowLine, VisitLine, results
from nas.profiling.compile import CompiledWorkload
from nas.profiling.protocol import Block, Protocol, Samples, half_interval, infeasible
from nas.profiling.runtimes.android import HOW
from nas.profiling.runtimes.android_benchmark import Benchmark, check, loaded, parse, tool_mb
from nas.profiling.runtimes.base import Loaded
from nas.profiling.runtimes.coreml import LATENCY, MEMORY, PRECISION, REMOTE


@dataclass(frozen=True)
class Visit:
    """One look at one workload by a runner that knows nothing of this library.

    Attributes:
        workload: the key.
        host: of which device, in what way; all visits of a table share it.
        samples_ms: latencies, or the median of a call of the tool.
        reference_ms: of the reference workload beside it.
        memory_mb, weights_mb: measured peak activation memory, and weights with what is kept beside them; NaN if not.
        load_ms: time to load it.
        error: why it could not run; empty if it did.
    """

    workload: str
    host: dict[str, Any]
    samples_ms: tuple[float, ...] = ()
    reference_ms: float = math.nan
    memory_mb: float = math.nan
    weights_mb: float = math.nan
    load_ms: float = math.nan
    error: str = ""


def collect(folder: str | Path, out: str | Path) -> LookupTable:
    """Make a lookup table of a bundle's results, whole or not.

    Args:
        folder: of `nas pack`, with what `nas measure`, `measure.py` or `measure.sh` wrote into it.
        out: the table's CSV. One that was collected from the same bundle is written anew.

    Raises:
        ConfigError: the folder is no bundle or was changed, or `out` is another table.
        TableError: there is no result, or one does not belong to the bundle: of another bundle, of a workload it has not,
            edited, or of several devices.
    """
    bundle, out = Bundle.load(folder), Path(out)
    with output_lock(out):
        if out.exists():
            meta = read_meta(out) if meta_path(out).exists() else {}
            if meta.get("bundle") != bundle.id:
                raise ConfigError(f"{out}: is a table that was not collected from this bundle; give another --out")
        _collected(bundle).save(out)
    return LookupTable.load(out)


def _collected(bundle: Bundle) -> LookupTable:
    folder = bundle.folder
    found = results(bundle, folder / RESULTS)
    rows = [(line.row.row, line.host) for line in found if isinstance(line, RowLine)]
    visits = [_mac_visit(bundle, line) for line in found if isinstance(line, VisitLine)] + _phone_visits(bundle)
    if rows and visits:
        raise TableError(f"{folder}: has results of 'nas measure' and of a runner script; keep one kind of them")
    if not rows and not visits:
        raise TableError(f"{folder}: nothing was measured yet; run 'nas measure {folder}', or the script in it")
    hosts = [host for _, host in rows] or [visit.host for visit in visits]
    for key in COMPARABLE_KEYS:
        values = sorted({str(host.get(key)) for host in hosts})
        if len(values) > 1:
            raise TableError(
                f"{folder}: results of several devices or ways ({key}: {values[0]} and {values[1]}); keep one"
            )
    table_rows = [row for row, _ in rows] or _fold(bundle, visits)
    seen = {row.workload for row in table_rows}
    missing_here = bundle.manifest.infeasible.items()
    table_rows += [infeasible(workload, reason) for workload, reason in missing_here if workload not in seen]
    known = ("space", "space_hash", "dtype", "date", "commit", "bundle", "versions")
    meta = {**hosts[0], "operators": "alone", **{key: getattr(bundle.manifest, key) for key in known}}
    return LookupTable.from_frame(pd.DataFrame([asdict(row) for row in table_rows]), meta)


def _fold(bundle: Bundle, visits: list[Visit]) -> list[Row]:
    """A row for each workload: its visits are blocks; those beside a slow reference count only if all are."""
    drift = 1 + Protocol().drift
    references = [visit.reference_ms for visit in visits if not math.isnan(visit.reference_ms)]
    usual_ms = float(np.median(references)) if references else math.nan
    grouped: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        grouped[visit.workload].append(visit)
    rows = []
    for package in bundle.packages:
        mine = grouped.get(package.workload, [])
        ran = [visit for visit in mine if not visit.error]
        if ran:
            blocks: tuple[list, list] = ([], [])
            for visit in ran:
                blocks[visit.reference_ms > drift * usual_ms].append(Block(list(visit.samples_ms)))
            samples = Samples(*blocks)
            _check_difference(bundle, package, samples)
            rows.append(samples.row(package.workload, _loaded(package, ran), "measured"))
        elif mine:
            rows.append(infeasible(package.workload, mine[0].error))
    return rows


def _check_difference(bundle: Bundle, package: CompiledWorkload, samples: Samples) -> None:
    """Refuse an operator that several copies of are faster than one, by more than the noise of the visits."""
    medians = samples.medians()
    width = half_interval(medians)
    if np.median(medians) < 0 and not np.median(medians) + width >= 0:
        raise TableError(
            f"{bundle.folder}: workload '{package.workload}': more copies of it took less time ({np.median(medians):.4g} ms "
            "each), which no device does; delete its results and measure it again"
        )


def _loaded(package: CompiledWorkload, visits: list[Visit]) -> Loaded:
    return Loaded(
        memory_mb=_median([visit.memory_mb for visit in visits], package.activations_mb),
        weights_mb=_median([visit.weights_mb for visit in visits], package.weights_mb),
        params=package.params,
        load_ms=float(np.median([visit.load_ms for visit in visits])),
        form=package.form,
    )


def _median(values: list[float], otherwise: float) -> float:
    """Of the values that are known."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else otherwise


def _mac_visit(bundle: Bundle, line: VisitLine) -> Visit:
    """A visit of `measure.py`."""
    host = {
        "runtime": "coreml",
        "version": f"coremltools {line.host.version}",
        "device": line.host.device,
        "phone": line.host.phone,
        "chip": line.host.chip,
        "os": line.host.os,
        "threads": None,
        "compute_unit": line.compute_unit,
        "target": bundle.manifest.target,
        "precision": PRECISION,
        "remote": REMOTE if line.host.phone is not None else None,
        "latency": LATENCY,
        "memory": MEMORY,
    }
    if line.error:
        return Visit(line.workload, host, error=line.error)
    numbers = {"reference_ms": line.reference_ms, "load_ms": line.load_ms}
    return Visit(line.workload, host, line.samples_ms, **numbers)


def _phone_visits(bundle: Bundle) -> list[Visit]:
    """The visits of `measure.sh`.

    Raises:
        TableError: a file is of another bundle, was edited, or is no visit.
    """
    found = []
    for path in sorted((bundle.folder / VISITS).glob("*.txt")):
        text = read_text(path, "result")
        body, _, digest = text.rpartition("digest: ")
        head = dict(re.findall(r"^(\w+): (.*)$", body.partition("== ")[0], flags=re.M))
        visit = re.fullmatch(r"(\d{1,6}) (\d{1,6})", head.get("visit", ""))
        about = head.get("phone", "").split("|")[:8]
        threads = re.fullmatch(r"0*[1-9]\d{0,4}", head.get("threads", ""))
        if "bundle" not in head or not visit or not threads or len(about) < 8:
            raise TableError(f"{path}: is no result of measure.sh; delete it and measure again")
        if head["bundle"] != bundle.id:
            raise TableError(
                f"{path}: belongs to bundle {head['bundle']:.40}, this one is {bundle.id}; collect it there"
            )
        if hashlib.sha256(f"{bundle.id}\n{body}".encode()).hexdigest() != digest.strip():
            raise TableError(f"{path}: was edited after it was measured; delete it and measure again")
        number = int(visit[2])
        if number >= len(bundle.packages):
            raise TableError(f"{path}: is of a workload that is not in the bundle; delete it")
        host = _phone(about, int(threads[0]), head.get("governors", ""))
        try:
            found.append(_phone_visit(bundle.packages[number], bundle.reference, host, _parts(body)))
        except NasError as error:
            raise TableError(f"{path}: {error}; delete it and measure again") from None
    return found


def _phone(about: list[str], threads: int, governors: str) -> dict[str, Any]:
    phone, maker, model, soc, abi, android, build, tool = about
    return {
        "runtime": "litert",
        "version": f"benchmark_model {tool}",
        "device": "adb",
        "phone": phone,
        "chip": f"{maker} {model} ({soc or 'unknown chip'}, {abi})",
        "os": f"Android {android}",
        "threads": threads,
        "build": build,
        "governors": governors,
        **HOW,
    }


def _phone_visit(
    package: CompiledWorkload, reference: CompiledWorkload, host: dict[str, Any], parts: dict[str, tuple[int, str]]
) -> Visit:
    """A visit of `measure.sh`.

    Raises:
        NasError: the tool failed, be it on the reference workload, which says nothing of this one.
    """
    names = ["reference", "one", *(["several"] if package.several else [])]
    missing = [name for name in names if name not in parts]
    if missing:
        raise TableError(f"the part '== {missing[0]}' is missing")
    try:
        beside = _read(parts["reference"])
    except Infeasible as error:
        raise TableError(f"benchmark_model could not even run the reference workload: {error}") from None
    try:
        calls = [_read(parts[name]) for name in names[1:]]
    except Infeasible as error:
        return Visit(package.workload, host, error=str(error))
    ms = calls[0].median_ms if len(calls) == 1 else (calls[1].median_ms - calls[0].median_ms) / package.copies
    known = loaded(package, calls, tool_mb(beside, reference))
    return Visit(
        workload=package.workload,
        host=host,
        samples_ms=(ms,),
        reference_ms=beside.median_ms,
        memory_mb=known.memory_mb,
        weights_mb=known.weights_mb,
        load_ms=known.load_ms,
    )


def _read(part: tuple[int, str]) -> Benchmark:
    code, output = part
    check(code, output)
    return parse(output)


def _parts(body: str) -> dict[str, tuple[int, str]]:
    """`reference`, `one` and `several` of a visit: exit code and output of the tool."""
    parts = {}
    for part in body.split("== ")[1:]:
        name, _, output = part.partition("\n")
        ended = re.search(r"^exit: (\d{1,5})$", output, flags=re.M)
        parts[name.strip()] = (int(ended[1]) if ended else 255, output[: ended.start()] if ended else output)
    return parts
