"""How a number came about, in words. Whatever this library says of one comes from its row's `source`, by this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from nas.costs.table import LookupTable

Source = Literal["measured", "estimated", "interpolated"]


def join_sources(sources: Iterable[str]) -> str:
    """`measured`, or `estimated and measured`."""
    return " and ".join(sorted(set(sources)))


def table_source(table: LookupTable) -> str:
    """What the rows of a table are, all together; `measured` for one that is still empty."""
    return join_sources(table.frame["source"]) or "measured"


def memory_source(source: str, meta: Mapping[str, Any]) -> str:
    """What the memory of a row is whose latency is `source`, by the table's metadata: some devices tell none."""
    return "estimated" if str(meta.get("memory", "")).startswith("estimated") else source


def whole_model_source(source: str) -> str:
    """`measured on the whole model`: of one row for a whole denoiser, not of a sum over the table."""
    return f"{source} on the whole model" if source == "measured" else f"{source} for the whole model"


def measure_or_estimate(table: LookupTable) -> str:
    """What is done to a workload that the table lacks, as a verb at the beginning of a sentence."""
    return "Measure" if "measured" in table_source(table) else "Estimate"
