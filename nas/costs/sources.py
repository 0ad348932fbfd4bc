"""How a number came about, in words. Whatever this library says of one comes from its row's `source`, by this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from nas.costs.table import LookupTable

Source = Literal["measured", "estimated", "interpolated"]


def listed(sources: Iterable[str]) -> str:
    """`measured`, or `estimated and measured`."""
    return " and ".join(sorted(set(sources)))


def of_table(table: LookupTable) -> str:
    """What the rows of a table are, all together; `measured` for one that is still empty."""
    return listed(table.frame["source"]) or "measured"


def of_memory(source: str, meta: Mapping[str, Any]) -> str:
    """What the memory of a row is whose latency is `source`, by the table's metadata: some devices tell none."""
    return "estimated" if str(meta.get("memory", "")).startswith("estimated") else source


def of_whole(source: str) -> str:
    """`measured on the whole model`: of one row for a whole denoiser, not of a sum over the table."""
    return f"{source} on the whole model" if source == "measured" else f"{source} for the whole model"


def to_add(table: LookupTable) -> str:
    """What is done to a workload that the table lacks, as a verb at the beginning of a sentence."""
    return "Measure" if "measured" in of_table(table) else "Estimate"
