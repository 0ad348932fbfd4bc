"""Explanations against the scores that were searched."""

import numpy as np
import optuna
import pytest

from nas.search import ScoreTable, explain, run
from tests.support.instances import make


def test_values_of_choices_are_recovered():
    space, cost, budget, table = make(0, 6, 4)
    result = run(space, cost, table, budget, trials=40)
    frame = explain(result)
    assert dict(frame[frame["chosen"]][["slot", "choice"]].to_numpy()) == result.best.choices
    layers = frame[frame["choice"] != "none"]
    true = np.array([table.scores[slot][choice] for slot, choice in layers[["slot", "choice"]].to_numpy()])
    tried = np.array([(result.frame[slot] == choice).any() for slot, choice in layers[["slot", "choice"]].to_numpy()])
    assert layers["value"].to_numpy()[tried] == pytest.approx(true[tried], abs=0.05)
    off = (layers["value"] - true)[~tried] / layers["value_sd"][~tried]
    assert len(off) > 0 and off.abs().max() < 3  # the interval of an untried choice covers its value
    assert layers["value_per_ms"].to_numpy() == pytest.approx((layers["value"] / layers["latency_ms"]).to_numpy())
    assert (layers["value_sd"] >= 0).all() and frame.loc[frame["choice"] == "none", "value"].eq(0).all()


def test_importances_name_every_slot():
    space, cost, budget, table = make(0, 6, 4)
    assert set(run(space, cost, table, budget, trials=30).importances().index) == set(space.slots)


def test_importances_put_first_what_alone_matters_and_optunas_plots_draw_the_study():
    import matplotlib

    matplotlib.use("Agg")
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances, plot_slice

    space, cost, budget, _ = make(3, 6, 4)
    scores = {"s2": {"o0": 1.0, "o1": 3.0, "o2": 2.0}}
    result = run(space, cost, ScoreTable(scores), budget, trials=40, sampler="random+repair")
    importances = result.importances()
    assert importances.index[0] == "s2" and importances.iloc[0] > 2 * importances.iloc[1]
    history = plot_optimization_history(result.study)
    assert max(line.get_ydata().max() for line in history.lines) == result.study.best_value
    assert len(plot_slice(result.study, params=["s0", "s2"])) == 2
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    assert len(plot_param_importances(result.study, evaluator=evaluator).patches) == len(space.slots)
