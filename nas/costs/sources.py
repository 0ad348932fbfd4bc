"""Whether a predicted number is measured, estimated, interpolated or transferred, in words, from the `source` of table rows."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from nas.costs.cost import Cost
from nas.costs.provenance import Provenance
from nas.costs.table import LookupTable


def join_sources(sources: Iterable[str]) -> str:
    """`measured`, or `estimated and measured`."""
    return " and ".join(sorted(set(sources)))


def table_source(table: LookupTable) -> str:
    """The sources of all rows of a table; `measured` for an empty one."""
    return join_sources(table.frame["source"]) or "measured"


def without_transferred(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that were not transferred from other devices."""
    return frame[frame["source"] != "transferred"].reset_index(drop=True)


def transferred_part(cost: Cost) -> str:
    """`12.300 ms (15.4%) is transferred from other devices, +-1.200 ms in 90% of cases if these rows err alike`, of a latency;
    empty if nothing is."""
    if not 0 < cost.transferred_ms < float("inf"):
        return ""
    half_ms = cost.breakdown.loc[cost.breakdown["source"] == "transferred", "latency_ci_ms"].sum()
    share = cost.transferred_ms / cost.latency_ms
    return (
        f"{cost.transferred_ms:.3f} ms ({share:.1%}) is transferred from other devices, +-{half_ms:.3f} ms in 90% of cases if "
        "these rows err alike"
    )


def memory_source(source: str, provenance: Provenance) -> str:
    """The source of a row's memory, whose latency's is `source`: on some devices memory is estimated."""
    return "estimated" if (provenance.memory or "").startswith("estimated") else source


def whole_model_source(source: str) -> str:
    """`measured on the whole model`: for one row of a whole denoiser, as opposed to a sum over the table."""
    return f"{source} on the whole model" if source == "measured" else f"{source} for the whole model"


def measure_or_estimate(table: LookupTable) -> str:
    """`Measure` or `Estimate`, for a message on workloads that the table lacks."""
    return "Measure" if "measured" in table_source(table) else "Estimate"
