"""The manifest's predicted cost comes from the lookup table and names the source of its rows."""

import json

import pandas as pd
import pytest

from nas import checkpoint
from nas.costs import CostModel, LookupTable, Provenance
from nas.costs.clip_summary import clip_summary
from nas.errors import TableError
from nas.export import recipe
from nas.spaces import SearchSpace


def table_of(space, source: str) -> LookupTable:
    rows = [
        {"workload": str(w), "latency_ms": 1.0 + i, "memory_mb": 1.0, "weights_mb": 1.0, "params": 10, "source": source}
        for i, w in enumerate(space.workloads())
    ]
    table = LookupTable.from_frame(pd.DataFrame(rows))
    table.provenance = Provenance(runtime="litert", chip="Phone 3")
    return table


@pytest.mark.parametrize("source", ["measured", "estimated"])
def test_summary_matches_the_cost_model(tiny_checkpoint, tmp_path, source):
    loaded = checkpoint.load(tiny_checkpoint)
    table = table_of(loaded.space, source)
    recipe(tiny_checkpoint, tmp_path, table=table)
    entry = json.loads((tmp_path / "export.json").read_text())["recipe"]
    latency_ms = CostModel(loaded.space, table).predict(loaded.architecture).latency_ms
    assert entry["predicted"]["denoiser_ms"] == latency_ms and entry["predicted"]["denoiser_calls"] == 2
    assert f"takes {2 * latency_ms / 1e3:.3g} s" in entry["summary"] and "Phone 3 (litert)" in entry["summary"]
    assert f"({source})" in entry["summary"]


def test_summary_with_text_encoder_and_decoder_covers_the_whole_clip():
    space = SearchSpace.load("demo")
    table = table_of(space, "measured")
    rows = [
        {"workload": str(w), "latency_ms": ms, "memory_mb": 1.0, "weights_mb": 1.0, "params": 1, "source": source}
        for w, ms, source in ((space.text_workload(), 30.0, "measured"), (space.decoder_workload(), 50.0, "estimated"))
    ]
    table = LookupTable.from_frame(
        pd.concat([table.frame[list(rows[0])], pd.DataFrame(rows)]), {"runtime": "litert", "chip": "Phone 3"}
    )
    cost, arch = CostModel(space, table, estimates=True, steps=4), space.random(0)
    latency_ms = cost.predict(arch).latency_ms
    assert clip_summary(cost, arch) == (
        f"A 3.62 s clip (29 frames at 8 fps, 32x32) in {0.08 + 4 * latency_ms / 1e3:.3g} s on Phone 3 (litert): text encoder 0.03 s "
        f"(measured), 4 x denoiser {4 * latency_ms / 1e3:.3g} s (measured), decoder 0.05 s (estimated)."
    )


def test_table_of_another_space_is_rejected(tiny_checkpoint, tmp_path):
    table = table_of(checkpoint.load(tiny_checkpoint).space, "measured")
    table.frame.drop(index=0, inplace=True)
    with pytest.raises(TableError, match="has no row for 1 of"):
        recipe(tiny_checkpoint, tmp_path, table=table)
