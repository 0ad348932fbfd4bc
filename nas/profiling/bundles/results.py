"""The data classes of the lines of a bundle's `results.jsonl`, and their validation."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from nas.config import AtLeast0, build, renamed
from nas.costs import Row
from nas.errors import ConfigError, TableError, shown
from nas.files import parse_json, read_text
from nas.profiling.bundles.bundle import Bundle
from nas.profiling.digests import line_digest
from nas.profiling.web.bundle_page import WebRecord
from nas.ranges import Range

MAXIMUM = 1e9
"""Above any latency in ms and any memory in 10^6 bytes."""
Ms = Annotated[float, Range(0, MAXIMUM, unknown=True)]
Difference = Annotated[float, Range(-MAXIMUM, MAXIMUM, unknown=True)]
Memory = Annotated[float, Range(0, MAXIMUM, unknown=True)]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class ResultRow(Row):
    """A table row as `nas bundle measure` writes it. Percentiles may be negative: an operator's times are differences."""

    workload: str
    latency_ms: Annotated[float, Range(0, MAXIMUM, infinite=True)]
    memory_mb: Memory
    weights_mb: Memory
    params: AtLeast0
    latency_p10_ms: Difference = math.nan
    latency_p90_ms: Difference = math.nan
    latency_ci_ms: Ms = math.nan
    count: AtLeast0 = 0
    load_ms: Ms = math.nan
    variant: str = renamed("form", default="")
    source: Literal["measured", "estimated"] = "measured"
    status: Literal["ok", "infeasible"] = "ok"
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") != math.isfinite(self.latency_ms):
            raise ConfigError(f"latency_ms is {self.latency_ms} in a row with status '{self.status}'")
        if self.status == "ok" and not math.isfinite(self.weights_mb):
            raise ConfigError(f"weights_mb is {self.weights_mb} in a row with status 'ok'")
        if self.status == "ok" and self.source == "measured" and not self.count:
            raise ConfigError("count is 0 in a measured row")

    @property
    def row(self) -> Row:
        """The same as a plain `Row`."""
        return Row(**{field.name: getattr(self, field.name) for field in fields(Row)})


@dataclass(frozen=True)
class RowLine:
    """A line that `nas bundle measure` writes."""

    bundle: str
    digest: str
    row: ResultRow
    package: str
    host: dict[str, Scalar]

    @property
    def workload(self) -> str:
        """The key of the row."""
        return self.row.workload


@dataclass(frozen=True)
class MacHost:
    """Provenance that `measure.py` writes, of the Mac or of its iPhone."""

    chip: str
    os: str
    version: str
    device: str = "local"
    phone: str | None = None


@dataclass(frozen=True)
class VisitLine:
    """A line that `measure.py` writes: one visit to one workload, with times in ms or with its error."""

    bundle: str
    digest: str
    visit: tuple[AtLeast0, AtLeast0]
    workload: str
    compute_unit: str
    host: MacHost
    samples_ms: tuple[Annotated[float, Range(-MAXIMUM, MAXIMUM)], ...] = ()
    load_ms: Annotated[float, Range(0, MAXIMUM)] | None = None
    reference_ms: Annotated[float, Range(0, MAXIMUM)] | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if not self.error and (not self.samples_ms or self.load_ms is None or self.reference_ms is None):
            raise ConfigError("expected an 'error' or all of 'samples_ms', 'load_ms' and 'reference_ms'")


@dataclass(frozen=True)
class WebLine:
    """A line that a bundle's page writes: one visit to one workload in a browser. Its `record` is text in the file.

    Attributes:
        record: the visit.
    """

    bundle: str
    digest: str
    record: WebRecord

    @property
    def workload(self) -> str:
        """The key of the row."""
        return self.record.workload

    @property
    def visit(self) -> tuple[int, int]:
        """Round, and index of the package."""
        return self.record.visit


Line = RowLine | VisitLine | WebLine


def results(bundle: Bundle, path: Path) -> list[Line]:
    """Read the lines of a results file, without a last one that was not written to its end.

    Raises:
        TableError: a line is malformed, of another bundle, edited, of a workload or package that is not in the bundle,
            duplicated, or has impossible values.
    """
    if not path.exists() and not path.is_symlink():
        return []
    text = read_text(path, "results")
    lines: list[Line] = []
    seen: set[Any] = set()
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], 1):
        where = f"{path}:{number}"
        try:
            parsed = _line(bundle, line, where)
        except ConfigError as error:
            raise TableError(f"{error}; delete the line and measure again") from None
        key = parsed.workload if isinstance(parsed, RowLine) else parsed.visit
        if key in seen:
            raise TableError(f"{where}: {key} is also in an earlier line; keep one of them")
        seen.add(key)
        lines.append(parsed)
    return lines


def _line(bundle: Bundle, text: str, where: str) -> Line:
    raw = parse_json(text, where, "line of results", dict)
    kind: type[Line] = RowLine if "row" in raw else WebLine if "record" in raw else VisitLine
    if isinstance(raw.get("bundle"), str) and raw["bundle"] != bundle.id:
        raise TableError(f"{where}: belongs to bundle {raw['bundle'][:40]}, this one is {bundle.id}; collect it there")
    if "digest" in raw and raw["digest"] != _digest(kind, raw, bundle):
        raise ConfigError(f"{where}: was edited after it was measured")
    if kind is WebLine:
        raw["record"] = parse_json(str(raw["record"]), where, "record", dict)
    line = build(kind, raw, where)
    packages = {package.workload: package for package in bundle.packages}
    if line.workload not in packages:
        raise ConfigError(f"{where}: workload {shown(line.workload)} is not in the bundle")
    package = packages[line.workload]
    if isinstance(line, RowLine):
        if line.package != package_hash(bundle, package.path):
            raise ConfigError(f"{where}: was measured on another package than the bundle's")
        return line
    if line.visit[1] >= len(bundle.packages) or bundle.packages[line.visit[1]] != package:
        raise ConfigError(f"{where}: visit {list(line.visit)} does not belong to workload {shown(line.workload)}")
    if isinstance(line, WebLine):
        sizes = tuple(path.stat().st_size for path in package.files)
        line.record.check(sizes, where)
        return line
    _check_samples(line.samples_ms, package.several is not None, where)
    return line


def _digest(kind: type[Line], raw: dict[str, Any], bundle: Bundle) -> str:
    """The digest that a line must have. A page's is over the record as text, since JavaScript writes numbers differently."""
    if kind is not WebLine:
        return line_digest(raw, bundle.id)
    return hashlib.sha256(f"{bundle.id}\n{raw['record']}".encode()).hexdigest()


def _check_samples(samples_ms: tuple[float, ...], differences: bool, where: str) -> None:
    """Check that times are not negative. Differences of two times may be, but not most of them.

    Raises:
        ConfigError: they are.
    """
    negative = sum(ms < 0 for ms in samples_ms)
    if negative and (not differences or 2 * negative > len(samples_ms)):
        raise ConfigError(
            f"{where}: {negative} of {len(samples_ms)} times are negative, such as {min(samples_ms):g} ms"
        )


def package_hash(bundle: Bundle, path: Path) -> str:
    """The hash of a workload's file, or of all files of its .mlpackage, from the hashes in the manifest."""
    name = path.relative_to(bundle.folder).as_posix()
    files = bundle.manifest.files
    if name in files:
        return files[name]
    inside = sorted(f"{key} {digest}" for key, digest in files.items() if key.startswith(f"{name}/"))
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()
