"""What the manifest promises of a device comes from its table, and says how the table knows."""

import json

import pandas as pd
import pytest

from nas.costs import CostModel, LookupTable
from nas.errors import TableError
from nas.export import recipe
from nas.training import checkpoint


def table_of(space, source: str) -> LookupTable:
    rows = [
        {"workload": str(w), "latency_ms": 1.0 + i, "memory_mb": 1.0, "weights_mb": 1.0, "params": 10, "source": source}
        for i, w in enumerate(space.workloads())
    ]
    table = LookupTable.from_frame(pd.DataFrame(rows))
    table.meta.update({"runtime": "litert", "chip": "Phone 3"})
    return table


@pytest.mark.parametrize("source", ["measured", "estimated"])
def test_the_managers_sentence_is_the_cost_models(tiny_checkpoint, tmp_path, source):
    loaded = checkpoint.load(tiny_checkpoint)
    table = table_of(loaded.space, source)
    recipe(tiny_checkpoint, tmp_path, table=table)
    found = json.loads((tmp_path / "export.json").read_text())["recipe"]
    latency_ms = CostModel(loaded.space, table).predict(loaded.architecture).latency_ms
    assert found["predicted"]["denoiser_ms"] == latency_ms and found["predicted"]["passes"] == 2
    assert f"takes {2 * latency_ms / 1e3:.3g} s" in found["summary"] and "Phone 3 (litert)" in found["summary"]
    assert f"({source})" in found["summary"]


def test_a_table_of_another_space_is_refused(tiny_checkpoint, tmp_path):
    table = table_of(checkpoint.load(tiny_checkpoint).space, "measured")
    table.frame.drop(index=0, inplace=True)
    with pytest.raises(TableError, match="has no row for 1 of"):
        recipe(tiny_checkpoint, tmp_path, table=table)
