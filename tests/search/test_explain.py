"""Explanations against the scores that were searched."""

import numpy as np
import pytest
from instances import make

from nas.search import explain, run


def test_values_of_choices_are_recovered():
    space, cost, budget, table = make(0, 6, 4)
    result = run(space, cost, table, budget, trials=60)
    frame = explain(result)
    assert dict(frame[frame["chosen"]][["slot", "choice"]].to_numpy()) == result.best.choices
    layers = frame[frame["choice"] != "none"]
    true = [table.scores[slot][choice] for slot, choice in layers[["slot", "choice"]].to_numpy()]
    assert np.corrcoef(layers["value"], true)[0, 1] > 0.9
    assert layers["value_per_ms"].to_numpy() == pytest.approx((layers["value"] / layers["latency_ms"]).to_numpy())
    assert (layers["value_sd"] >= 0).all() and frame.loc[frame["choice"] == "none", "value"].eq(0).all()


def test_importances_name_every_slot():
    space, cost, budget, table = make(0, 6, 4)
    assert set(run(space, cost, table, budget, trials=30).importances().index) == set(space.slots)
