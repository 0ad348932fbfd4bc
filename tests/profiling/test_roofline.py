"""Estimates: they follow the roofline, they say so, and what does not fit is infeasible."""

from __future__ import annotations

import pytest

from nas.costs import CostModel
from nas.costs.workload_counts import count_ops
from nas.errors import ConfigError, TableError
from nas.profiling import Infeasible, calibrate, profile
from nas.profiling.runtimes.roofline import Device, RooflineRuntime
from nas.spaces import Operator, SearchSpace, Workload

PHONES = ("iphone_16_pro_max", "snapdragon_8_elite", "dimensity_9400")

DESCRIPTION = """
name: Test phone
chip: none
peak_tflops: {value: 1.0, kind: assumption, source: made up}
bandwidth_gb_s: {value: 10.0, kind: assumption, source: made up}
launch_us: {value: 0.0, kind: assumption, source: made up}
usable_memory_mb: {value: 100.0, kind: assumption, source: made up}
fused_attention: {value: 1, kind: assumption, source: made up}
"""


@pytest.fixture
def phone(tmp_path):
    path = tmp_path / "test_phone.yaml"
    path.write_text(DESCRIPTION)
    return path


@pytest.mark.parametrize("name", PHONES)
def test_shipped_devices_have_sources_for_all_figures(name):
    for field, figure in Device.load(name).figures():
        assert len(figure.source) > 20, field
        assert figure.kind == "assumption" or "https://" in figure.source, field


@pytest.mark.parametrize("name", PHONES)
def test_table_of_the_full_space(name, tmp_path):
    space = SearchSpace.load("snapgen_v")
    table = profile(space, "roofline", name, tmp_path / "t.csv", progress=False)
    assert set(table.frame["source"]) == {"estimated"}
    rows = table.rows()
    lost = [workload for workload, row in rows.items() if row.status == "infeasible"]
    attention = [
        ("down.0.0/0", "SelfAttention3D"),
        ("down.0.0/0", "CrossAttention3D"),
        ("down.1.0/0", "SelfAttention3D"),
    ]
    assert set(lost) == {str(space.workload(*slot)) for slot in attention}
    assert all("memory" in rows[workload].reason for workload in lost)
    bare = CostModel(space, table).predict(space.architecture({}))
    assert bare.latency_ms == pytest.approx(rows[str(space.backbone_workload())].latency_ms)
    with pytest.raises(TableError, match="only a measured table"):
        calibrate(space, table)


def test_the_slower_of_compute_and_memory_decides(phone):
    dense = Workload(Operator("Conv3D", {"kernel": 3}), (1, 256, 4, 16, 16))
    thin = Workload(Operator("Conv1D", {"kernel": 3}), (1, 8, 4, 64, 64))
    with RooflineRuntime(str(phone)) as runtime:
        assert runtime.open(dense).block(1)[0] == pytest.approx(count_ops(dense).flops / 1e12 * 1e3, rel=1e-4)
        assert runtime.open(thin).block(1)[0] == pytest.approx(
            count_ops(thin).memory_traffic * 2 / 10e9 * 1e3, rel=1e-4
        )
        with pytest.raises(Infeasible, match="may use 100 MB"):
            runtime.open(Workload(Operator("Conv3D", {"kernel": 3}), (1, 256, 16, 64, 64)))


def test_unfused_attention_writes_its_scores_to_memory(phone):
    attention = Workload(Operator("SelfAttention3D", {"heads": 2}), (1, 16, 4, 16, 16))
    fused = RooflineRuntime(str(phone)).open(attention)
    phone.write_text(DESCRIPTION.replace("value: 1,", "value: 0,"))
    spilled = RooflineRuntime(str(phone)).open(attention)
    scores_mb = 2 * (4 * 16 * 16) ** 2 * 2 / 1e6
    assert spilled.stats.memory_mb - fused.stats.memory_mb == pytest.approx(2 * scores_mb)
    assert spilled.block(1)[0] > fused.block(1)[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: assumption", "kind: rumour", "kind: unknown 'rumour'"),
        ("value: 10.0", "value: -1.0", "bandwidth_gb_s.value"),
        ("launch_us:", "lunch_us:", "did you mean 'launch_us'"),
    ],
)
def test_invalid_description_is_an_error_with_file_and_field(phone, old, new, said):
    phone.write_text(DESCRIPTION.replace(old, new))
    with pytest.raises(ConfigError, match=said) as caught:
        Device.load(str(phone))
    assert "test_phone.yaml" in str(caught.value)
