"""The generation time of a clip: text encoder, denoising steps and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from nas.costs.row import Row
from nas.costs.sources import measure_or_estimate
from nas.costs.table import LookupTable, command_to_measure
from nas.errors import BudgetError, TableError
from nas.ranges import check_range
from nas.spaces import SearchSpace

_Number = TypeVar("_Number", float, np.ndarray)


@dataclass(frozen=True)
class Generation:
    """The latencies of the text encoder and the decoder, and how often each model runs per clip.

    `seconds = (text encoder + denoiser_calls x denoiser + decoder_runs x decoder) / 1000`. The empty prompt of
    classifier-free guidance is encoded in advance, so it is not counted.

    With guidance this is an upper bound: a phone runs its model, exported for one clip, twice per step; torch runs both
    samples as one batch, which takes 1.5 to 2 times as long as one, less for small models.

    Attributes:
        steps: denoising steps, at least 1.
        guidance: whether each step calls the denoiser twice, with and without the prompt.
        text, decoder: the table's rows.
        decoder_runs: how often the decoder runs per clip.
    """

    steps: int
    guidance: bool
    text: Row
    decoder: Row
    decoder_runs: int

    def __post_init__(self) -> None:
        check_range(self, ("steps",), 1, 1_000_000)

    @classmethod
    def from_rows(
        cls, space: SearchSpace, rows: Mapping[str, Row], table: LookupTable, steps: int, guidance: bool
    ) -> Generation:
        """Look up the rows of the text encoder and the decoder.

        Raises:
            TableError: the space does not have them, or the table has no rows for them (the message gives the command
                that measures them).
        """
        workloads = {"text_encoder": space.text_workload(), "decoder": space.decoder_workload()}
        undeclared = [name for name, workload in workloads.items() if workload is None]
        if undeclared:
            raise TableError(
                f"search space '{space.name}' has no '{undeclared[0]}', so the generation time is unknown; "
                "add it to the space's file (search_spaces/demo.yaml has an example)"
            )
        missing = [str(workload) for workload in workloads.values() if str(workload) not in rows]
        if missing:
            raise TableError(
                f"{table.path or 'the table'}: has no row for {' and '.join(missing)}, so the generation time is "
                f"unknown. {measure_or_estimate(table)} them: {command_to_measure(space, table, pipeline=True)}"
            )
        text, decoder = (rows[str(workload)] for workload in workloads.values())
        return cls(steps, guidance, text, decoder, space.decoder_runs)

    @property
    def denoiser_calls(self) -> int:
        """How often the denoiser runs per clip."""
        return self.steps * (2 if self.guidance else 1)

    @property
    def overhead_s(self) -> float:
        """Time of the text encoder and the decoder; infinite if one of them cannot run."""
        return (self.text.latency_ms + self.decoder_runs * self.decoder.latency_ms) / 1e3

    def seconds(self, latency_ms: _Number) -> _Number:
        """The time of a clip, for one latency of the denoiser in ms or an array of them."""
        return self.overhead_s + self.denoiser_calls / 1e3 * latency_ms

    def latency_bound_ms(self, generation_s: float) -> float:
        """The largest latency of the denoiser at which a clip takes at most `generation_s`.

        Raises:
            BudgetError: the text encoder and the decoder alone take that long, or one of them cannot run.
        """
        for name, row in (("text encoder", self.text), ("decoder", self.decoder)):
            if row.status != "ok":
                raise BudgetError(
                    f"budget: no clip can be generated: the {name} cannot run on the device: {row.reason}"
                )
        if self.overhead_s >= generation_s:
            raise BudgetError(
                f"budget: generation<={generation_s:g}s cannot be met: the text encoder and the decoder alone take "
                f"{self.overhead_s:.4g} s; raise the bound, or make them smaller"
            )
        return (generation_s - self.overhead_s) * 1e3 / self.denoiser_calls

    def parts(self, latency_ms: float, source: str) -> pd.DataFrame:
        """One row each for the text encoder, the denoiser and the decoder.

        Columns: part, runs (per clip), latency_ms (of one run), seconds (of all runs), source.
        """
        parts = [
            ("text encoder", 1, self.text.latency_ms, self.text.source),
            ("denoiser", self.denoiser_calls, latency_ms, source),
            ("decoder", self.decoder_runs, self.decoder.latency_ms, self.decoder.source),
        ]
        frame = pd.DataFrame(parts, columns=["part", "runs", "latency_ms", "source"])
        frame.insert(3, "seconds", frame["runs"] * frame["latency_ms"] / 1e3)
        return frame
