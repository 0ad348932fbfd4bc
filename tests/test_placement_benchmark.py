"""The placement benchmark: its architectures, its differences with their intervals, and its rank correlations."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RANDOMS = 8


@pytest.fixture
def placement(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("placement")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("placement_report")


def results(gain: float, noise: float, seeds: int = 3) -> pd.DataFrame:
    """Rows in which the found architecture's accuracy exceeds the median random one's by `gain`."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        accuracies = {f"random {i}": 0.5 + 0.02 * (i - (RANDOMS - 1) / 2) for i in range(RANDOMS)}
        for name, accuracy in {"found": 0.5 + gain, **accuracies, "cheapest": 0.1}.items():
            group = name.split()[0] if name != "cheapest" else "pattern"
            value = accuracy + noise * rng.standard_normal()
            rows.append(
                {"architecture": name, "group": group, "seed": seed, "supernet_loss": -accuracy, "loss": -value}
                | dict.fromkeys(("scene_accuracy", "object_accuracy", "direction_accuracy"), value)
                | {"frechet": -value, "latency_ms": 10.0, "budget_ms": 12.0, "params": 1000}
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("gain", "verdict"), [(0.3, "better"), (-0.3, "worse"), (0.0, "open")])
def test_a_difference_has_intervals_and_a_verdict(report, gain, verdict):
    rows = results(gain, noise=0.01)
    for measure in report.MEASURES:
        found = report.difference(rows, measure.column, rows)
        assert found.verdict(measure.higher) == verdict
        for low, high in (found.pooled, found.bootstrap):
            assert low < found.mean < high
        assert found.mean == pytest.approx(gain if measure.higher else -gain, abs=0.03)
    assert report.beaten(rows, report.MEASURES[0]) == {"better": RANDOMS, "worse": 0}.get(
        verdict, pytest.approx(4, abs=2)
    )


def test_one_seed_decides_nothing(report):
    rows = results(0.3, noise=0.01, seeds=1)
    assert report.difference(rows, "loss", rows).verdict(higher=False) == "open"


def test_a_second_seed_of_some_architectures_tells_the_noise(report):
    rows = results(0.3, noise=0.01, seeds=2)
    partial = rows.iloc[: len(rows) // 2 + 5]
    deviation, freedom = report.noise(partial, "loss")
    assert freedom == 4 and 0 < deviation < 0.05
    one = report.difference(report.whole_seeds(partial), "loss", partial)
    assert one.verdict(higher=False) == "better"


def test_the_noise_of_one_training_is_pooled_over_architectures(report):
    quiet, loud = (report.noise(results(0.3, noise), "loss") for noise in (0.01, 0.1))
    assert quiet[1] == loud[1] == 2 * (RANDOMS + 1)
    assert quiet[0] == pytest.approx(0.01, rel=0.5) and loud[0] == pytest.approx(0.1, rel=0.5)


def test_the_rank_correlation_is_of_losses_with_what_should_fall_or_rise(report):
    rows = results(0.3, noise=0.0)
    for measure in report.MEASURES:
        tau, (low, high), between = report.ranking(rows, measure)
        assert tau == between == pytest.approx(1.0)
        assert low <= high <= 1 + 1e-9


def test_a_seed_that_is_not_finished_is_left_out(report):
    rows = results(0.1, noise=0.01)
    assert report.whole_seeds(rows.iloc[:-1])["seed"].unique().tolist() == [0, 1]


def test_tables_and_the_picture_name_every_architecture(report, tmp_path):
    rows = results(0.1, noise=0.01)
    assert all(name in report.architecture_table(rows) for name in rows["architecture"].unique())
    assert report.difference_table(rows, rows).count("\n") == len(report.MEASURES) + 3
    assert report.ranking_table(rows).count("\n") == len(report.MEASURES) + 1
    report.draw(rows, tmp_path / "placement.svg")
    assert "<svg" in (tmp_path / "placement.svg").read_text()


def test_random_architectures_are_at_the_found_ones_latency_and_within_the_budget(placement):
    space = nas.SearchSpace(name="costs", slots={f"s{i}": ["none", "a", "b", "c"] for i in range(5)})
    latency = {"a": 1.0, "b": 2.0, "c": 5.0}
    table = nas.LookupTable.from_frame(
        pd.DataFrame(
            [
                {"workload": f"s{i}/{kind}", "latency_ms": ms, "memory_mb": 1.0, "weights_mb": 1.0, "params": 10}
                for i in range(5)
                for kind, ms in latency.items()
            ]
        )
    )
    cost, budget = nas.CostModel(space, table), nas.Budget.parse("latency<=10ms")
    found = space.architecture({"s0": "c", "s1": "c"})
    chosen = placement.at_equal_latency(space, cost, budget, found, 8)
    assert len({tuple(arch.choices.values()) for arch in chosen}) == 8
    assert all(9 <= cost.predict(arch).latency_ms <= 10 for arch in chosen)
    assert all(arch.choices != found.choices for arch in chosen)
    with pytest.raises(ConfigError, match="fewer --random"):
        placement.at_equal_latency(space, cost, budget, space.architecture({}), 8)


def test_animatediff_differs_from_self_attention_everywhere_in_the_middle_only(placement):
    space = nas.SearchSpace.load(FOLDER / "scenes/space.yaml")
    found = placement.patterns(space)
    second, first = found["AnimateDiff v2"].choices, found["AnimateDiff v1"].choices
    assert [slot for slot in space.slots if first[slot] != second[slot]] == ["mid.0/0"]
    assert set(second.values()) == {"SelfAttention1D"} and first["mid.0/0"] == "none"


def test_trainings_are_counted_by_their_convolutions(report):
    rows = pd.DataFrame(
        {
            "architecture": ["a", "a", "b", "c"],
            "choices": ["Conv1D none Conv3D"] * 2 + ["Conv3D Conv1D none", "none SelfAttention1D Conv1D"],
            "direction_accuracy": [0.9, 1.0, 0.5, 0.4],
            "loss": [0.31, 0.30, 0.4, 0.5],
        }
    )
    lines = report.convolution_table(rows, ["down.0.0/0", "mid.0/0", "up.0.0/0"], ["mid.*", "up.0.*"]).splitlines()
    assert lines[2:] == ["| 1 | 3 | 4 | 0.40 to 1.00 | 0.300 to 0.500 |"]
    lines = report.convolution_table(rows, ["down.0.0/0", "mid.0/0", "up.0.0/0"], ["up.0.*"]).splitlines()
    assert lines[2:] == [
        "| 0 | 1 | 1 | 0.50 to 0.50 | 0.400 to 0.400 |",
        "| 1 | 2 | 3 | 0.40 to 1.00 | 0.300 to 0.500 |",
    ]
