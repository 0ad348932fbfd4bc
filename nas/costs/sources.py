"""Whether a predicted number is measured, estimated or interpolated, in words, from the `source` of table rows."""

from __future__ import annotations

from collections.abc import Iterable

from nas.costs.provenance import Provenance
from nas.costs.table import LookupTable


def join_sources(sources: Iterable[str]) -> str:
    """`measured`, or `estimated and measured`."""
    return " and ".join(sorted(set(sources)))


def table_source(table: LookupTable) -> str:
    """The sources of all rows of a table; `measured` for an empty one."""
    return join_sources(table.frame["source"]) or "measured"


def memory_source(source: str, provenance: Provenance) -> str:
    """The source of a row's memory, whose latency's is `source`: on some devices memory is estimated."""
    return "estimated" if (provenance.memory or "").startswith("estimated") else source


def whole_model_source(source: str) -> str:
    """`measured on the whole model`: for one row of a whole denoiser, as opposed to a sum over the table."""
    return f"{source} on the whole model" if source == "measured" else f"{source} for the whole model"


def measure_or_estimate(table: LookupTable) -> str:
    """`Measure` or `Estimate`, for a message on workloads that the table lacks."""
    return "Measure" if "measured" in table_source(table) else "Estimate"
