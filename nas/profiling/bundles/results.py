"""The lines of a bundle's `results.jsonl`, as data classes: each is this bundle's and as it was written, or refused."""

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
from nas.ranges import Range

MOST = 1e9
"""More than any latency in ms or any memory in 10^6 bytes."""
Ms = Annotated[float, Range(0, MOST, unknown=True)]
Difference = Annotated[float, Range(-MOST, MOST, unknown=True)]
Memory = Annotated[float, Range(0, MOST, unknown=True)]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class ResultRow(Row):
    """A table's row as `nas measure` writes it. A percentile may be below 0: of an operator's times, which are differences."""

    workload: str
    latency_ms: Annotated[float, Range(0, MOST, infinite=True)]
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
            raise ConfigError(f"latency_ms is {self.latency_ms} of a row that is '{self.status}'")
        if self.status == "ok" and not math.isfinite(self.weights_mb):
            raise ConfigError(f"weights_mb is {self.weights_mb} of a row that is 'ok'")
        if self.status == "ok" and self.source == "measured" and not self.count:
            raise ConfigError("count is 0: a measured row without a sample")

    @property
    def row(self) -> Row:
        return Row(**{field.name: getattr(self, field.name) for field in fields(Row)})


@dataclass(frozen=True)
class RowLine:
    """A line of `nas measure`."""

    bundle: str
    digest: str
    row: ResultRow
    package: str
    host: dict[str, Scalar]

    @property
    def workload(self) -> str:
        return self.row.workload


@dataclass(frozen=True)
class MacHost:
    """What `measure.py` says of the Mac, or of the iPhone behind it."""

    chip: str
    os: str
    version: str
    device: str = "local"
    phone: str | None = None


@dataclass(frozen=True)
class VisitLine:
    """A line of `measure.py`: one look at one workload, with times in ms, or with the error that it ended with."""

    bundle: str
    digest: str
    visit: tuple[AtLeast0, AtLeast0]
    workload: str
    compute_unit: str
    host: MacHost
    samples_ms: tuple[Annotated[float, Range(-MOST, MOST)], ...] = ()
    load_ms: Annotated[float, Range(0, MOST)] | None = None
    reference_ms: Annotated[float, Range(0, MOST)] | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if not self.error and (not self.samples_ms or self.load_ms is None or self.reference_ms is None):
            raise ConfigError("has neither an 'error' nor all of 'samples_ms', 'load_ms' and 'reference_ms'")


def results(bundle: Bundle, path: Path) -> list[RowLine | VisitLine]:
    """The lines of a results file; a last one that was being written when the power went does not count.

    Raises:
        TableError: a line is damaged, is of another bundle, was edited, is of a workload or package that the bundle has
            not, is there twice, or holds what no measurement gives.
    """
    if not path.exists() and not path.is_symlink():
        return []
    text = read_text(path, "results")
    found: list[RowLine | VisitLine] = []
    seen: set[Any] = set()
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], 1):
        where = f"{path}:{number}"
        try:
            one = _line(bundle, line, where)
        except ConfigError as error:
            raise TableError(f"{error}; delete the line and measure again") from None
        key = one.workload if isinstance(one, RowLine) else one.visit
        if key in seen:
            raise TableError(f"{where}: {key} was measured in a line before; keep one of them")
        seen.add(key)
        found.append(one)
    return found


def _line(bundle: Bundle, text: str, where: str) -> RowLine | VisitLine:
    raw = parse_json(text, where, "line of results", dict)
    if isinstance(raw.get("bundle"), str) and raw["bundle"] != bundle.id:
        raise TableError(f"{where}: belongs to bundle {raw['bundle'][:40]}, this one is {bundle.id}; collect it there")
    if "digest" in raw and raw["digest"] != line_digest(raw, bundle.id):
        raise ConfigError(f"{where}: was edited after it was measured")
    line = build(RowLine if "row" in raw else VisitLine, raw, where)
    packages = {package.workload: package for package in bundle.packages}
    if line.workload not in packages:
        raise ConfigError(f"{where}: workload {shown(line.workload)} is not in the bundle")
    package = packages[line.workload]
    if isinstance(line, RowLine):
        if line.package != package_hash(bundle, package.path):
            raise ConfigError(f"{where}: was measured on another package than the bundle's")
        return line
    if line.visit[1] >= len(bundle.packages) or bundle.packages[line.visit[1]] != package:
        raise ConfigError(f"{where}: visit {list(line.visit)} is not one of workload {shown(line.workload)}")
    check_samples(line.samples_ms, package.several is not None, where)
    return line


def check_samples(samples_ms: tuple[float, ...], differences: bool, where: str) -> None:
    """Refuse times that no clock gives. A difference of two times may be below 0 now and then, but not most of them.

    Raises:
        ConfigError: they are negative.
    """
    negative = sum(ms < 0 for ms in samples_ms)
    if negative and (not differences or 2 * negative > len(samples_ms)):
        raise ConfigError(
            f"{where}: {negative} of {len(samples_ms)} times are negative, such as {min(samples_ms):g} ms"
        )


def package_hash(bundle: Bundle, path: Path) -> str:
    """A hash of a workload's file, or of the files of its .mlpackage, as the manifest has them."""
    name = path.relative_to(bundle.folder).as_posix()
    files = bundle.manifest.files
    if name in files:
        return files[name]
    inside = sorted(f"{key} {digest}" for key, digest in files.items() if key.startswith(f"{name}/"))
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()
