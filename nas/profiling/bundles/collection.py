"""Make a lookup table of a bundle's results; results that do not belong to the bundle are errors."""

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
from nas.costs.provenance import COMPARABLE_KEYS, Provenance, meta_path
from nas.errors import ConfigError, NasError, TableError
from nas.failures import Infeasible
from nas.files import read_text
from nas.locks import output_lock
from nas.profiling.bundles.bundle import RESULTS, VISITS, Bundle
from nas.profiling.bundles.results import RowLine, VisitLine, WebLine, results
from nas.profiling.compile import CompiledWorkload
from nas.profiling.protocol import Block, Protocol, Samples, infeasible, interval_half_width
from nas.profiling.runtimes.android import METHOD
from nas.profiling.runtimes.android_benchmark import Benchmark, check, parse, tool_overhead_mb, workload_stats
from nas.profiling.runtimes.base import WorkloadStats
from nas.profiling.runtimes.coreml import LATENCY, MEMORY, PRECISION, REMOTE
from nas.profiling.web.bundle_page import WebRecord
from nas.profiling.web.exchange import reason
from nas.profiling.web.models import differences, models_of, stats_of


@dataclass(frozen=True)
class Visit:
    """One visit of a script to one workload.

    Attributes:
        workload: its key.
        host: provenance: device and settings; the same for all visits of a table.
        samples_ms: latencies, or the median of a call of the tool.
        reference_ms: latency of the reference workload during the visit.
        memory_mb, weights_mb: measured peak activation memory, and weights including memory kept per layer; NaN if not
            measured.
        load_ms: time to load it.
        error: why it could not run; empty if it ran.
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
    """Make a lookup table of a bundle's results, which may be incomplete.

    Args:
        folder: the bundle with the results of `nas bundle measure`, `measure.py` or `measure.sh`.
        out: the table's CSV. A table of the same bundle is overwritten.

    Raises:
        ConfigError: the folder is not a bundle or was changed, or `out` is another table.
        TableError: there are no results, they are of several devices, or one is of another bundle, of an unknown
            workload, or edited.
    """
    bundle, out = Bundle.load(folder), Path(out)
    with output_lock(out):
        if out.exists() and (not meta_path(out).exists() or Provenance.read(out).bundle != bundle.id):
            raise ConfigError(f"{out}: was not collected from this bundle; give another --out")
        _collected(bundle).save(out)
    return LookupTable.load(out)


def _collected(bundle: Bundle) -> LookupTable:
    folder = bundle.folder
    lines = results(bundle, folder / RESULTS)
    rows = [(line.row.row, line.host) for line in lines if isinstance(line, RowLine)]
    visits = [_mac_visit(bundle, line) for line in lines if isinstance(line, VisitLine)] + _phone_visits(bundle)
    visits += [_web_visit(bundle, line.record) for line in lines if isinstance(line, WebLine)]
    if rows and visits:
        raise TableError(f"{folder}: has results of 'nas bundle measure' and of a script; keep one of the two")
    if not rows and not visits:
        raise TableError(f"{folder}: no results; run 'nas bundle measure {folder}', or the script in it")
    hosts = [host for _, host in rows] or [visit.host for visit in visits]
    for key in COMPARABLE_KEYS:
        values = sorted({str(host.get(key)) for host in hosts})
        if len(values) > 1:
            raise TableError(
                f"{folder}: results of several devices or settings ({key}: {values[0]} and {values[1]}); keep one"
            )
    table_rows = [row for row, _ in rows] or _combine(bundle, visits)
    seen = {row.workload for row in table_rows}
    table_rows += [
        infeasible(workload, reason) for workload, reason in bundle.manifest.infeasible.items() if workload not in seen
    ]
    keys = ("space", "space_hash", "dtype", "date", "commit", "bundle", "versions")
    meta = {**hosts[0], "operators": "alone", **{key: getattr(bundle.manifest, key) for key in keys}}
    return LookupTable.from_frame(pd.DataFrame([asdict(row) for row in table_rows]), meta)


def _combine(bundle: Bundle, visits: list[Visit]) -> list[Row]:
    """Combine the visits to each workload into a row, as blocks; those next to a slow reference count only if all are slow."""
    drift = 1 + Protocol().drift
    references = [visit.reference_ms for visit in visits if not math.isnan(visit.reference_ms)]
    normal_ms = float(np.median(references)) if references else math.nan
    grouped: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        grouped[visit.workload].append(visit)
    rows = []
    for package in bundle.packages:
        package_visits = grouped.get(package.workload, [])
        ran = [visit for visit in package_visits if not visit.error]
        if ran:
            blocks: tuple[list, list] = ([], [])
            for visit in ran:
                blocks[visit.reference_ms > drift * normal_ms].append(Block(list(visit.samples_ms)))
            samples = Samples(*blocks)
            _check_difference(bundle, package, samples)
            rows.append(samples.row(package.workload, _stats(package, ran), "measured"))
        elif package_visits:
            rows.append(infeasible(package.workload, package_visits[0].error))
    return rows


def _check_difference(bundle: Bundle, package: CompiledWorkload, samples: Samples) -> None:
    """Raise an error if more copies of an operator take less time, by more than the noise of the visits.

    Too few visits for an interval are an error if not a single sample is positive.
    """
    medians = samples.medians()
    most = np.median(medians) + interval_half_width(medians)
    if np.isnan(most):
        most = max(latency for block in samples.blocks for latency in block.latencies_ms)
    if most < 0:
        raise TableError(
            f"{bundle.folder}: workload '{package.workload}': more copies took less time ({np.median(medians):.4g} ms "
            "each), which is impossible; delete its results and measure it again"
        )


def _stats(package: CompiledWorkload, visits: list[Visit]) -> WorkloadStats:
    return WorkloadStats(
        memory_mb=_median([visit.memory_mb for visit in visits], package.activations_mb),
        weights_mb=_median([visit.weights_mb for visit in visits], package.weights_mb),
        params=package.params,
        load_ms=float(np.median([visit.load_ms for visit in visits])),
        variant=package.variant,
    )


def _median(values: list[float], default: float) -> float:
    """The median of the values that are not NaN; the default if all are."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else default


def _mac_visit(bundle: Bundle, line: VisitLine) -> Visit:
    """A visit of `measure.py`, from its line."""
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


def _web_visit(bundle: Bundle, record: WebRecord) -> Visit:
    """A visit of the page of a bundle."""
    host = record.host(bundle.manifest.versions.get("LiteRT.js"))
    if record.error is not None:
        return Visit(record.workload, host, error=reason(record.error))
    models = models_of(bundle.packages[record.visit[1]])
    timed, stats = record.result.models, stats_of(models, record.loaded) if record.loaded else None
    return Visit(
        workload=record.workload,
        host=host,
        samples_ms=tuple(differences(models, timed)) if len(models) == 2 else timed[0].samples_ms,
        reference_ms=record.reference_ms,
        memory_mb=stats.memory_mb if stats else math.nan,
        weights_mb=stats.weights_mb if stats else math.nan,
        load_ms=timed[0].load_ms,
    )


def _phone_visits(bundle: Bundle) -> list[Visit]:
    """Read the visits of `measure.sh`.

    Raises:
        TableError: a file is of another bundle, was edited, or is malformed.
    """
    visits = []
    for path in sorted((bundle.folder / VISITS).glob("*.txt")):
        text = read_text(path, "result")
        body, _, digest = text.rpartition("digest: ")
        head = dict(re.findall(r"^(\w+): (.*)$", body.partition("== ")[0], flags=re.M))
        visit = re.fullmatch(r"(\d{1,6}) (\d{1,6})", head.get("visit", ""))
        phone = head.get("phone", "").split("|")[:8]
        threads = re.fullmatch(r"0*[1-9]\d{0,4}", head.get("threads", ""))
        if "bundle" not in head or not visit or not threads or len(phone) < 8:
            raise TableError(f"{path}: is not a result of measure.sh; delete it and measure again")
        if head["bundle"] != bundle.id:
            raise TableError(
                f"{path}: belongs to bundle {head['bundle']:.40}, this one is {bundle.id}; collect it there"
            )
        if hashlib.sha256(f"{bundle.id}\n{body}".encode()).hexdigest() != digest.strip():
            raise TableError(f"{path}: was edited after it was measured; delete it and measure again")
        number = int(visit[2])
        if number >= len(bundle.packages):
            raise TableError(f"{path}: its workload is not in the bundle; delete it")
        host = _phone_host(phone, int(threads[0]), head.get("governors", ""))
        try:
            visits.append(_phone_visit(bundle.packages[number], bundle.reference, host, _parts(body)))
        except NasError as error:
            raise TableError(f"{path}: {error}; delete it and measure again") from None
    return visits


def _phone_host(fields: list[str], threads: int, governors: str) -> dict[str, Any]:
    phone, maker, model, soc, abi, android, build, tool = fields
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
        **METHOD,
    }


def _phone_visit(
    package: CompiledWorkload, reference: CompiledWorkload, host: dict[str, Any], parts: dict[str, tuple[int, str]]
) -> Visit:
    """A visit of `measure.sh`, from the outputs of the tool.

    Raises:
        NasError: the tool failed, or failed on the reference workload, which says nothing about this one.
    """
    names = ["reference", "one", *(["several"] if package.several else [])]
    missing = [name for name in names if name not in parts]
    if missing:
        raise TableError(f"the part '== {missing[0]}' is missing")
    try:
        reference_call = _read(parts["reference"])
    except Infeasible as error:
        raise TableError(f"benchmark_model could not run the reference workload: {error}") from None
    try:
        calls = [_read(parts[name]) for name in names[1:]]
    except Infeasible as error:
        return Visit(package.workload, host, error=str(error))
    ms = calls[0].median_ms if len(calls) == 1 else (calls[1].median_ms - calls[0].median_ms) / package.copies
    stats = workload_stats(package, calls, tool_overhead_mb(reference_call, reference))
    return Visit(
        workload=package.workload,
        host=host,
        samples_ms=(ms,),
        reference_ms=reference_call.median_ms,
        memory_mb=stats.memory_mb,
        weights_mb=stats.weights_mb,
        load_ms=stats.load_ms,
    )


def _read(part: tuple[int, str]) -> Benchmark:
    code, output = part
    check(code, output)
    return parse(output)


def _parts(body: str) -> dict[str, tuple[int, str]]:
    """The parts `reference`, `one` and `several` of a visit: name -> exit code and output of the tool."""
    parts = {}
    for part in body.split("== ")[1:]:
        name, _, output = part.partition("\n")
        ended = re.search(r"^exit: (\d{1,5})$", output, flags=re.M)
        parts[name.strip()] = (int(ended[1]) if ended else 255, output[: ended.start()] if ended else output)
    return parts
