"""The predicted cost of one architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Cost:
    """The predicted cost of one architecture.

    Attributes:
        latency_ms: of one denoising step.
        memory_mb: peak memory of a denoising step, weights included, in 10^6 bytes; NaN where the table does not have the
            memory of one of the layers.
        params: parameters of the denoiser.
        breakdown: one row for the backbone and one per slot: slot, choice, latency_ms, memory_mb (allocated while it
            runs, without weights), weights_mb, params, source, and latency_ci_ms, half the width of the latency's
            confidence interval: 95% for a measured median, 90% for an interpolated or transferred latency.
        generation_s: time to generate one clip with the cost model's number of steps; None where the latency of the text
            encoder or the decoder is not known (`CostModel.generation` raises the reason).
        devices: with several devices, the cost on each; the numbers above are then the largest of them, and the
            breakdown has a column `latency_ms@NAME` for each.
    """

    latency_ms: float
    memory_mb: float
    params: int
    breakdown: pd.DataFrame = field(compare=False, repr=False)
    generation_s: float | None = None
    devices: Mapping[str, Cost] = field(default_factory=dict, repr=False)

    @property
    def transferred_ms(self) -> float:
        """The part of the latency that is from rows transferred from other devices, not measured on this one."""
        if "source" not in self.breakdown:
            return 0.0
        return float(self.breakdown.loc[self.breakdown["source"] == "transferred", "latency_ms"].sum())
